import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vaerdict.attacks.evaluate import size_up
from vaerdict.attacks.threat import Ball, size

boxes = st.sampled_from([(0.0, 1.0), (-1.0, 1.0), (-100.0, 100.0)])
norms = st.sampled_from(["2", "inf"])
seeds = st.integers(0, 10_000)
radii = st.floats(1e-3, 20.0)


def _ball(seed: int, norm: str, radius: float, box: tuple[float, float]) -> tuple[Ball, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    low, high = box
    center = low + (high - low) * torch.rand(3, 1, 2, 4, generator=generator)
    center[0] = high  # one image in a corner of the box
    delta = torch.randn(3, 1, 2, 4, generator=generator) * radius
    return Ball(norm=norm, radius=torch.full((3,), radius), box=box, center=center), delta


@settings(deadline=None)
@given(seeds, norms, radii, boxes)
def test_projection_ends_in_ball_and_box_and_changes_nothing_twice(seed, norm, radius, box) -> None:
    ball, delta = _ball(seed, norm, radius, box)
    once = ball.project(delta)
    assert bool((size(once, norm) <= radius * (1 + 1e-6)).all())
    assert float((ball.project(once) - once).abs().max()) <= 1e-6 * radius
    applied = ball.apply(delta)
    assert float(applied.min()) >= box[0]
    assert float(applied.max()) <= box[1]
    assert bool((size_up(applied, ball.center, norm) <= radius * (1 + 1e-6)).all())


@settings(deadline=None)
@given(seeds, norms, radii)
def test_a_point_inside_stays_and_one_outside_lands_on_the_sphere(seed, norm, radius) -> None:
    ball, delta = _ball(seed, norm, radius, (-1e4, 1e4))
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


@settings(deadline=None)
@given(seeds, norms, radii, boxes)
def test_random_starts_are_allowed_and_depend_on_the_noise_only(seed, norm, radius, box) -> None:
    ball, noise = _ball(seed, norm, radius, box)
    start = ball.random_start(noise)
    assert bool((size(start, norm) <= radius * (1 + 1e-6)).all())
    assert bool((size(start, norm) > 0).all())
    alone = ball.select(torch.tensor([False, True, False])).random_start(noise[1:2])
    torch.testing.assert_close(alone, start[1:2])


def test_cube_starts_are_uniform() -> None:
    ball = Ball(norm="inf", radius=torch.full((1,), 2.0), box=(-9.0, 9.0), center=torch.zeros(1, 20_000))
    values = ball.random_start(torch.randn(1, 20_000))
    quarters = torch.histc(values, bins=4, min=-2, max=2) / 20_000
    assert quarters.tolist() == pytest.approx([0.25] * 4, abs=0.02)


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_ascent_direction_has_unit_norm_whatever_the_gradients_size(scale: float) -> None:
    ball, gradient = _ball(0, "2", 1.0, (0.0, 1.0))
    torch.testing.assert_close(size(ball.ascent_direction(gradient * scale), "2"), torch.ones(3))


@pytest.mark.parametrize("norm", ["2", "inf"])
def test_zero_gradient_gives_zero_direction(norm: str) -> None:
    ball, _ = _ball(0, norm, 1.0, (0.0, 1.0))
    assert not ball.ascent_direction(torch.zeros(3, 1, 2, 4)).any()


def test_widest_ball_reaches_the_farthest_corner_only() -> None:
    center = torch.tensor([[0.0, 0.0], [0.5, 0.25]])
    assert Ball.widest("2", (0.0, 1.0), center).radius.tolist() == pytest.approx([2**0.5, (0.25 + 0.5625) ** 0.5])
    assert Ball.widest("inf", (0.0, 1.0), center).radius.tolist() == pytest.approx([1.0, 0.75])
