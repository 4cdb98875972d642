import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vaerdict.attacks.optimisers.patches import HALVINGS, Canvas, shrinking, sides
from vaerdict.attacks.threat import Ball


def canvas(*shape: int, mask: torch.Tensor | None = None) -> Canvas:
    center = torch.full((500, *shape), 0.5)
    return Canvas(Ball(norm="2", radius=torch.ones(500), box=(0.0, 1.0), center=center, mask=mask))


def numbers(count: int) -> torch.Tensor:
    return torch.randn(500, count, generator=torch.Generator().manual_seed(0))


@given(share=st.floats(0, 1), height=st.integers(1, 40), width=st.integers(1, 40))
def test_sides_fit_and_have_about_that_area(share: float, height: int, width: int) -> None:
    rows, columns = sides(share, height, width)
    assert 1 <= rows <= height
    assert 1 <= columns <= width
    # Both sides are rounded, the second to the first.
    assert abs(rows * columns - max(1.0, share * height * width)) <= max(1.0, rows / 2 + 1e-9)
    assert abs(rows - columns) <= 1 or rows == height or columns == width or rows * columns <= 6


def test_the_area_is_halved_as_often_as_in_the_paper() -> None:
    shares = [shrinking(0.8, query, 10_000) for query in range(10_000)]
    assert [k - 1 for k in range(1, 10_000) if shares[k] < shares[k - 1]] == list(HALVINGS)
    assert math.isclose(shares[-1], 0.8 / 2 ** len(HALVINGS))
    assert shrinking(0.8, 21, 1000) == shrinking(0.8, 201, 10_000) == 0.1


@pytest.mark.parametrize(
    ("shape", "side"), [((3, 8, 6), (3, 4)), ((1, 1, 12), (1, 3)), ((12,), (1, 3)), ((4, 3), (2, 2))]
)
def test_a_patch_is_one_rectangle_with_a_sign_per_channel(shape: tuple[int, ...], side: tuple[int, int]) -> None:
    easel = canvas(*shape)
    planes = easel.patch(numbers(easel.numbers), 0.25).reshape(500, easel.channels, easel.height, easel.width)
    inside = planes[:, 0] != 0
    rows, columns = inside.any(2), inside.any(1)
    assert torch.equal(inside, rows.unsqueeze(2) & columns.unsqueeze(1))
    assert (int(rows.sum(1).max()), int(columns.sum(1).max())) == side
    for lines in (rows, columns):
        # No gap: a line enters at most once.
        assert bool((torch.diff(lines.int(), prepend=torch.zeros(500, 1, dtype=torch.int32)) == 1).sum(1).eq(1).all())
    signs = planes.sum((2, 3)) / inside.sum((1, 2)).unsqueeze(1)
    assert set(signs.flatten().tolist()) == {-1.0, 1.0}
    assert bool((signs.mean(0).abs() < 0.2).all())


def test_all_places_are_as_likely_but_only_those_that_may_change() -> None:
    mask = torch.zeros(1, 1, 4, 5, dtype=torch.bool)
    mask[0, 0, 1, 2:] = mask[0, 0, 3, 0] = True
    easel = canvas(1, 4, 5, mask=mask)
    hit = (easel.patch(numbers(2), 0.0) != 0).double().mean(0)[0]
    assert not hit[~mask[0, 0]].any()
    assert bool(((hit[mask[0, 0]] - 0.25).abs() < 0.08).all())
