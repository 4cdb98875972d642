"""Moved Gaussians: no half-space or ball loses more than the bound says, and one bound is nearly reached."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2, norm

from vaerdict.certify.moving import moving_probability
from vaerdict.certify.probability import gaussian_shift_probability


def column(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def bound(clean: float, whitened: float, low: list[float], high: list[float]) -> float:
    return float(moving_probability(column(clean), column(whitened), column(*low)[None], column(*high)[None]))


@settings(max_examples=200, deadline=None)
@given(
    clean=st.floats(0.5, 1 - 1e-9),
    shift=st.floats(0, 4),
    ratio=st.floats(0.3, 2.5),
    angle=st.floats(0, math.pi),
    radius=st.floats(0.1, 3),
)
def test_no_half_space_and_no_ball_loses_more(
    clean: float, shift: float, ratio: float, angle: float, radius: float
) -> None:
    """In two dimensions one standard deviation moves; the half-space is tilted against the shift."""
    claimed = bound(clean, shift, [min(ratio, 1.0), 1.0], [max(ratio, 1.0), 1.0])
    normal = math.cos(angle), math.sin(angle)
    spread = math.hypot(ratio * normal[0], normal[1])
    for direction in (1.0, -1.0):  # {e : n.e <= q} with the clean probability
        moved = norm.cdf((norm.ppf(clean) - direction * shift) / spread)
        assert claimed <= moved + 1e-12
    inside = chi2.cdf(radius**2 / ratio**2, 1)  # the slab |e_1| <= radius, and its complement
    before = chi2.cdf(radius**2, 1)
    for was, now in ((before, inside), (1 - before, 1 - inside)):
        if 0 < was < 1:
            assert bound(was, 0.0, [min(ratio, 1.0)], [max(ratio, 1.0)]) <= now + 1e-12


def test_without_a_moving_spread_it_is_the_shift() -> None:
    ones = torch.ones(5, 3, dtype=torch.float64)
    clean, shift = column(0.5, 0.9, 0.99, 0.999999, 0.7), column(0.0, 0.5, 2.0, 3.0, 4.0)
    found = moving_probability(clean, shift, ones, ones)
    expected = gaussian_shift_probability(clean, shift).clamp(min=0.0)
    torch.testing.assert_close(found, expected.clamp(min=0.0), rtol=0.0, atol=2e-9)


def test_the_orders_help_where_events_are_nearly_certain() -> None:
    """Total variation alone would leave nothing of a probability when ten spreads shrink by a third."""
    assert bound(1 - 1e-5, 0.5, [0.7] * 10, [1.0] * 10) > 0.5
    variation = math.sqrt(10 * (0.49 - 1 - 2 * math.log(0.7)) / 4)
    assert norm.cdf(norm.ppf(1 - 1e-5) - 0.5) - variation < 0.5


@pytest.mark.parametrize(
    ("whitened", "low", "high"),
    [(0.0, 0.0, 1.0), (0.0, 1.0, math.inf), (math.inf, 1.0, 1.0), (math.nan, 1.0, 1.0)],
)
def test_what_is_not_known_gives_nothing(whitened: float, low: float, high: float) -> None:
    assert bound(0.99, whitened, [low], [high]) == 0.0


def test_falls_with_everything() -> None:
    values = [
        bound(0.99, shift, [1 - move] * 3, [1 + move] * 3) for shift in (0.0, 0.3, 1.0) for move in (0.0, 0.1, 0.3)
    ]
    table = torch.tensor(values).reshape(3, 3)
    assert bool((table.diff(dim=0) <= 0).all() and (table.diff(dim=1) <= 0).all())
