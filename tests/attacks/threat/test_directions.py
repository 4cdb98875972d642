"""Steps and starts: the steepest direction of each norm, sparse steps, and starts that are uniform."""

import pytest
import torch
from hypothesis import given, settings
from scipy.optimize import linprog

from tests.attacks.threats import NORMS, make_ball, seeds
from vaerdict.attacks.threat import Ball, size
from vaerdict.attacks.threat.l0 import STRIDE

DUAL = {"1": "inf", "2": "2", "inf": "1"}


def _inner(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    return (one * other).flatten(1).sum(1)


@settings(deadline=None, max_examples=50)
@given(seeds)
def test_unit_directions_reach_the_dual_norm(seed) -> None:
    for norm, dual in DUAL.items():
        ball, gradient = make_ball(seed, norm, 1.0, (-100.0, 100.0))
        ball = Ball(norm=norm, radius=ball.radius, box=ball.box, center=ball.center * 0.9)  # room on all sides
        direction = ball.ascent_direction(gradient)
        torch.testing.assert_close(size(direction, norm), torch.ones(3))
        torch.testing.assert_close(_inner(direction, gradient), size(gradient, dual))


@pytest.mark.parametrize("radius", [0.3, 2.0, 5.0])
@pytest.mark.parametrize("mask", ["none", "own"])
def test_sparse_steps_solve_the_linear_program_over_ball_and_box(radius: float, mask: str) -> None:
    ball, gradient = make_ball(1, "1", radius, dtype=torch.float64, mask=mask)
    step, room = ball.ascent_direction(gradient) * radius, ball.room
    for i in range(3):
        slope, bounds = gradient[i].flatten().numpy(), torch.stack([-room.low[i], room.high[i]]).flatten().numpy()
        # Down and up are variables of their own, so that the L1 norm is their sum.
        solved = linprog(
            [*slope, *-slope], A_ub=[[1.0] * len(bounds)], b_ub=[radius], bounds=[(0, end) for end in bounds]
        )
        used = min(radius, float(room.towards(gradient)[i].sum()))
        # A step has the ball's length, even where the box ends earlier.
        assert float(_inner(step, gradient)[i]) * used / radius == pytest.approx(-solved.fun, rel=1e-9)


@pytest.mark.parametrize("norm", ["0", "0-values"])
@pytest.mark.parametrize("radius", [1.0, 3.0, 8.0])
def test_projected_counted_steps_are_nearly_the_best_corner(norm: str, radius: float) -> None:
    ball, gradient = make_ball(2, norm, radius, dtype=torch.float64)
    step = ball.project(ball.ascent_direction(gradient) * radius)
    gain = ball.room.towards(gradient) * gradient.abs()
    by_place = gain.flatten(2).sum(1) if norm == "0" else gain.flatten(1)
    best = by_place.topk(int(radius), dim=1).values.sum(1)
    assert bool((size(step, norm) <= radius).all())
    assert bool((_inner(step, gradient) >= (1 - 1 / STRIDE) * best).all())


@pytest.mark.parametrize("spread", [1.0, 3.0, 5.5])
def test_spread_says_how_many_values_share_a_step(spread: float) -> None:
    ball, gradient = make_ball(3, "1", 4.0)
    direction = ball.ascent_direction(gradient, torch.full((3,), spread))
    expected = torch.full((3,), float(-(-spread // 1)))
    assert torch.equal(size(direction, "0-values"), expected)
    torch.testing.assert_close(size(direction, "1"), torch.ones(3))
    torch.testing.assert_close(size(direction, "inf"), 1 / expected)
    assert bool(((direction == 0) | (direction.sign() == gradient.sign())).all())
    assert not direction[0][gradient[0] > 0].any()  # the image in the corner has no room there


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_ascent_direction_has_unit_norm_whatever_the_gradients_size(scale: float) -> None:
    for norm in ("1", "2"):
        ball, gradient = make_ball(0, norm, 1.0)
        torch.testing.assert_close(size(ball.ascent_direction(gradient * scale), norm), torch.ones(3))


@pytest.mark.parametrize("norm", NORMS)
def test_zero_gradient_gives_zero_direction(norm: str) -> None:
    ball, gradient = make_ball(0, norm, 1.0)
    assert not ball.ascent_direction(torch.zeros_like(gradient)).any()


@pytest.mark.parametrize("norm", NORMS)
def test_repeated_steps_find_the_best_corner_of_a_linear_function(norm: str) -> None:
    ball, slope = make_ball(4, norm, 3.0, dtype=torch.float64)
    delta = ball.random_start(slope.flip(3))
    for k in range(30):
        delta = ball.nearest(delta + ball.ascent_direction(slope) * 3.0 * (1 - k / 30))
    generator = torch.Generator().manual_seed(0)
    others = [ball.random_start(torch.randn(slope.shape, generator=generator, dtype=slope.dtype)) for _ in range(200)]
    best = torch.stack([_inner(ball.stretch(slope + 0.1 * other), slope) for other in others]).amax(0)
    assert bool((_inner(delta, slope) >= 0.999 * best).all())


def test_cube_starts_are_uniform() -> None:
    ball = Ball(norm="inf", radius=torch.full((1,), 2.0), box=(-9.0, 9.0), center=torch.zeros(1, 20_000))
    values = ball.random_start(torch.randn(1, 20_000))
    quarters = torch.histc(values, bins=4, min=-2, max=2) / 20_000
    assert quarters.tolist() == pytest.approx([0.25] * 4, abs=0.02)


def test_l1_starts_are_uniform_on_the_sphere() -> None:
    # On the plane's diamond the first coordinate is uniform.
    ball = Ball(norm="1", radius=torch.full((20_000,), 2.0), box=(-9.0, 9.0), center=torch.zeros(20_000, 2))
    starts = ball.random_start(torch.randn(20_000, 2))
    torch.testing.assert_close(size(starts, "1"), ball.radius)
    tenths = torch.histc(starts[:, 0], bins=10, min=-2, max=2) / 20_000
    assert tenths.tolist() == pytest.approx([0.1] * 10, abs=0.01)


def test_counted_starts_use_the_whole_radius_and_any_place() -> None:
    ball = Ball(norm="0", radius=torch.full((6000,), 2.0), box=(0.0, 1.0), center=torch.full((6000, 3, 1, 6), 0.3))
    starts = ball.random_start(torch.randn(6000, 3, 1, 6))
    assert torch.equal(size(starts, "0"), ball.radius)
    shares = (starts != 0).any(1).flatten(1).double().mean(0)
    assert shares.tolist() == pytest.approx([1 / 3] * 6, abs=0.03)
