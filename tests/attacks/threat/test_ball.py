from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.attacks.searches import Operations
from tests.attacks.threats import NORMS, boxes, dtypes, make_ball, masks, norms_and_radii, seeds
from vaerdict.attacks.judge.evaluate import size_up
from vaerdict.attacks.threat import COUNTS, Ball, size

ALL = ["project", "nearest", "stretch", "apply", "ascent_direction", "random_start"]
few = settings(deadline=None, max_examples=30)


@few
@given(seeds, norms_and_radii(), boxes, dtypes, masks)
def test_projection_ends_in_ball_and_box_and_changes_nothing_twice(seed, asked, box, dtype, mask) -> None:
    norm, radius = asked
    ball, delta = make_ball(seed, norm, radius, box, dtype, mask)
    for project in (ball.project, ball.nearest):
        once = project(delta)
        assert bool((size(once, norm) <= radius * (1 + 1e-6)).all())
        assert float((project(once) - once).abs().max()) <= 1e-6 * max(radius, box[1])
    applied = ball.apply(delta)
    assert float(applied.min()) >= box[0]
    assert float(applied.max()) <= box[1]
    assert bool((size_up(applied, ball.center, norm) <= radius * (1 + (norm not in COUNTS) * 1e-6)).all())


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("length", [0.0, 1e-30, 1.0, 1e30])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_extreme_radii_and_lengths_leave_no_nan_and_stay_allowed(norm, length, dtype) -> None:
    for radius, mask in product([0.0, 1e-3, 5.0, 1e30], ["none", "own"]):
        ball, delta = make_ball(7, norm, 1.0, dtype=dtype, mask=mask)
        ball, delta = ball.with_radius(torch.full((3,), radius, dtype=dtype)), delta * length
        infinite = delta.clone()
        infinite[1, 0, 0] = torch.tensor([torch.inf, -torch.inf, 0.0, 1.0])
        for method in ("project", "nearest", "apply"):
            moved = getattr(ball, method)(infinite) - (ball.center if method == "apply" else 0)
            assert bool(moved.isfinite().all())
            assert bool((size(moved, norm) <= ball.radius * (1 + 1e-5) + 1e-6).all())
        for method in ("stretch", "ascent_direction", "random_start"):
            assert bool(getattr(ball, method)(delta).isfinite().all())


@few
@given(seeds, norms_and_radii(), masks)
def test_nothing_moves_outside_the_mask(seed, asked, mask) -> None:
    ball, delta = make_ball(seed, *asked, mask=mask)
    allowed = torch.ones_like(delta, dtype=torch.bool) if ball.mask is None else ball.mask.expand_as(delta)
    assert torch.equal(ball.apply(delta)[~allowed], ball.center[~allowed])
    elsewhere = torch.where(allowed, delta, 1e3 * delta)
    for method in ALL:  # what a search says of pixels outside the mask uses up no radius
        assert torch.equal(getattr(ball, method)(elsewhere), getattr(ball, method)(delta))
    for method in set(ALL) - {"apply"}:
        moved = getattr(ball, method)(delta)
        assert not moved[~allowed].any()
        assert bool(moved[2][allowed[2]].any()) is bool(allowed[2].any())


@few
@given(seeds, norms_and_radii(), masks)
def test_each_sample_is_moved_by_itself(seed, asked, mask) -> None:
    ball, delta = make_ball(seed, *asked, mask=mask)
    for method in ALL:
        whole = getattr(ball, method)(delta)
        alone = getattr(ball.select(torch.tensor([False, True, False])), method)(delta[1:2])
        torch.testing.assert_close(alone, whole[1:2])


@pytest.mark.parametrize("norm", NORMS)
def test_a_broken_sample_stays_alone(norm: str) -> None:
    ball, delta = make_ball(0, norm, 2.0)
    broken = delta.clone()
    broken[0, 0, 0, 0] = torch.nan
    for method in ALL:
        torch.testing.assert_close(getattr(ball, method)(broken)[1:], getattr(ball, method)(delta)[1:])


@pytest.mark.parametrize("norm", NORMS)
def test_a_box_without_room_holds_the_image_alone(norm: str) -> None:
    ball, delta = make_ball(0, norm, 2.0)
    ball = Ball(norm=norm, radius=ball.radius, box=(0.25, 0.25), center=torch.full_like(delta, 0.25))
    assert torch.equal(ball.apply(delta), ball.center)
    assert not ball.project(delta).any()
    assert not ball.random_start(delta).any()


@settings(deadline=None)
@given(seeds, st.sampled_from(["1", "2", "inf"]), st.floats(1e-3, 20.0))
def test_a_point_inside_stays_and_one_outside_lands_on_the_sphere(seed, norm, radius) -> None:
    ball, delta = make_ball(seed, norm, radius, (-1e4, 1e4))
    ball = Ball(norm=norm, radius=ball.radius, box=ball.box, center=torch.zeros_like(delta))
    inside = delta * (0.5 * ball.radius / size(delta, norm)).reshape(-1, 1, 1, 1)
    assert torch.equal(ball.project(inside), inside)
    torch.testing.assert_close(size(ball.project(inside * 6), norm), ball.radius)
    torch.testing.assert_close(size(ball.stretch(inside), norm), ball.radius)


def test_projection_shrinks_neither_short_nor_long_radii_of_other_libraries_bugs() -> None:
    # foolbox never shrinks and adversarial-library clamps entries to 1.
    center = torch.zeros(2, 2)
    ball = Ball(norm="2", radius=torch.tensor([1.0, 10.0]), box=(-50.0, 50.0), center=center)
    assert ball.project(torch.tensor([[0.1, 0.0], [3.0, 4.0]])).tolist() == [[pytest.approx(0.1), 0.0], [3.0, 4.0]]


@few
@given(seeds, norms_and_radii(), boxes)
def test_random_starts_are_allowed_and_never_zero(seed, asked, box) -> None:
    norm, radius = asked
    ball, noise = make_ball(seed, norm, radius, box)
    start = ball.random_start(noise)
    assert bool((size(start, norm) <= radius * (1 + 1e-6)).all())
    assert bool((size(start, norm) > 0).all())


def test_widest_ball_reaches_the_farthest_corner_only() -> None:
    center = torch.tensor([[0.0, 0.0], [0.5, 0.25]])
    assert Ball.widest("2", (0.0, 1.0), center).radius.tolist() == pytest.approx([2**0.5, (0.25 + 0.5625) ** 0.5])
    assert Ball.widest("inf", (0.0, 1.0), center).radius.tolist() == pytest.approx([1.0, 0.75])
    assert Ball.widest("1", (0.0, 1.0), center).radius.tolist() == pytest.approx([2.0, 1.25])
    assert Ball.widest("0", (0.0, 1.0), center).radius.tolist() == [2.0, 2.0]
    masked = Ball.widest("1", (0.0, 1.0), center, torch.tensor([[True, False], [False, False]]))
    assert masked.radius.tolist() == [1.0, 0.0]


def test_rounding_costs_a_sparse_change_of_a_large_image_little() -> None:
    ball = Ball(norm="1", radius=torch.tensor([0.01]), box=(0.0, 1.0), center=torch.full((1, 1, 400, 400), 0.5))
    delta = torch.zeros(1, 1, 400, 400)
    delta[0, 0, :2] = torch.linspace(0, 1e-4, 400)
    applied = ball.apply(delta + 1e-9)
    assert 0.0099 < float(size_up(applied, ball.center, "1")) <= 0.01 * (1 + 1e-6)


@pytest.mark.parametrize("norm", NORMS)
def test_nothing_waits_for_the_device(norm: str) -> None:
    ball, delta = make_ball(0, norm, 2.0, mask="own")
    with Operations() as seen:
        for method in ALL:
            getattr(ball, method)(delta)
    assert len(seen.names) > 10
    assert not {"aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select"} & set(seen.names)
