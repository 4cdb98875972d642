"""Projections against other ways to find the nearest point."""

from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from scipy.optimize import brentq, minimize

from tests.attacks.threats import boxes, make_ball, masks, norms_and_radii, seeds
from vaerdict.attacks.threat import COUNTS, Ball, size
from vaerdict.attacks.threat.l1 import threshold_l1

DOUBLE = torch.float64
few = settings(deadline=None, max_examples=50)


def _squared(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    return (one - other).flatten(1).square().sum(1)


def _solved(delta: np.ndarray, radius: float, low: np.ndarray, high: np.ndarray, norm: str) -> float:
    """Give the squared distance that SLSQP reaches, over lengths with the signs of `delta`: a smooth problem."""
    room, lengths = np.where(delta < 0, -low, high), np.abs(delta)
    moves, stays = room > 1e-12, float(np.square(lengths[room <= 1e-12]).sum())
    room, lengths = room[moves], lengths[moves]
    if not moves.any():
        return stays
    if norm == "1":
        fits, slope = (lambda x: radius - x.sum()), (lambda x: -np.ones_like(x))
    else:
        fits, slope = (lambda x: radius**2 - x @ x), (lambda x: -2 * x)
    found = minimize(
        lambda x: np.square(x - lengths).sum(),
        np.zeros_like(lengths),
        jac=lambda x: 2 * (x - lengths),
        bounds=list(zip(np.zeros_like(room), room, strict=True)),
        constraints={"type": "ineq", "fun": fits, "jac": slope},
        method="SLSQP",
        options={"ftol": 1e-11, "maxiter": 500},
    )
    assert found.success
    return stays + float(found.fun)


@pytest.mark.parametrize("norm", ["1", "2"])
@pytest.mark.parametrize("radius", [0.05, 0.4, 1.0, 3.0])
@pytest.mark.parametrize("mask", ["none", "own"])
def test_nearest_point_is_a_quadratic_programs(norm: str, radius: float, mask: str) -> None:
    ball, delta = make_ball(int(10 * radius), norm, radius, dtype=DOUBLE, mask=mask)
    delta = delta / radius * 0.7
    found, room = ball.nearest(delta), ball.room
    masked = delta if ball.mask is None else torch.where(ball.mask, delta, 0)
    for i in range(3):
        values = (masked[i].flatten().numpy(), radius, room.low[i].flatten().numpy(), room.high[i].flatten().numpy())
        reference = _solved(*values, norm)
        assert float(_squared(found[i : i + 1], masked[i : i + 1])) == pytest.approx(reference, rel=1e-6, abs=1e-8)


@few
@given(seeds, norms_and_radii(), boxes, masks)
def test_no_allowed_point_is_nearer(seed, asked, box, mask) -> None:
    norm, radius = asked
    ball, delta = make_ball(seed, norm, radius, box, DOUBLE, mask)
    nearest, scale = ball.nearest(delta), 1 + radius**2 + box[1] ** 2
    for other in (ball.project(delta), ball.project(delta.flip(3)), ball.random_start(delta.flip(2))):
        assert bool((_squared(nearest, delta) <= _squared(other, delta) + 1e-9 * scale).all())
        if norm not in COUNTS:
            # In a convex set the nearest point sees all others at an obtuse angle.
            angle = ((delta - nearest) * (other - nearest)).flatten(1).sum(1)
            assert bool((angle <= 1e-9 * scale).all())


@pytest.mark.parametrize(("norm", "places"), [("0", 4), ("0-values", 8)])
@pytest.mark.parametrize("radius", [0, 1, 2, 3])
def test_counted_places_are_the_best_of_all_choices(norm: str, places: int, radius: int) -> None:
    generator = torch.Generator().manual_seed(radius)
    center = torch.rand(5, 2, 1, 4, generator=generator, dtype=DOUBLE)
    delta = torch.randn(5, 2, 1, 4, generator=generator, dtype=DOUBLE)
    ball = Ball(norm=norm, radius=torch.full((5,), float(radius), dtype=DOUBLE), box=(0.0, 1.0), center=center)
    cut, best = ball.room.clamp(delta), torch.full((5,), torch.inf, dtype=DOUBLE)
    for chosen in combinations(range(places), radius):
        keep = torch.zeros(places, dtype=torch.bool)
        keep[list(chosen)] = True
        keep = keep.reshape(1, 1, 1, 4) if norm == "0" else keep.reshape(1, 2, 1, 4)
        best = torch.minimum(best, _squared(torch.where(keep, cut, 0), delta))
    torch.testing.assert_close(_squared(ball.project(delta), delta), best)
    assert bool((size(ball.project(delta), norm) <= radius).all())


@pytest.mark.parametrize("radius", [1e-6, 0.3, 7.0, 60.0])
def test_threshold_is_the_root_that_bracketing_finds(radius: float) -> None:
    generator = torch.Generator().manual_seed(3)
    lengths, room = (torch.rand(1, 400, generator=generator, dtype=DOUBLE) for _ in range(2))
    exact = brentq(lambda t: float((lengths - t).clamp_min(0).minimum(room).sum()) - radius, 0, 1, xtol=1e-15)
    found = threshold_l1(lengths, room, torch.tensor([radius], dtype=DOUBLE))
    assert float(found) == pytest.approx(exact, abs=1e-12)


def test_threshold_is_zero_where_the_sum_fits() -> None:
    lengths = torch.tensor([[3.0, 1.0]], dtype=DOUBLE)
    room = torch.tensor([[0.5, 9.0]], dtype=DOUBLE)
    assert threshold_l1(lengths, room, torch.tensor([1.5], dtype=DOUBLE)).tolist() == [0.0]
    assert threshold_l1(lengths, room, torch.tensor([1.0], dtype=DOUBLE)).tolist() == [0.5]


def test_exact_l2_projection_uses_what_clipping_leaves_over() -> None:
    ball = Ball(norm="2", radius=torch.tensor([1.0]), box=(0.0, 1.0), center=torch.full((1, 3), 0.5))
    delta = torch.tensor([[9.0, 2.0, 2.0]])
    torch.testing.assert_close(ball.nearest(delta), torch.full((1, 3), 0.5))
    assert float(size(ball.project(delta), "2")) < 0.6


def test_exact_l2_projection_where_all_that_moves_reaches_the_box() -> None:
    ball = Ball(norm="2", radius=torch.tensor([0.51]), box=(0.0, 1.0), center=torch.full((1, 2), 0.5))
    assert ball.nearest(torch.tensor([[9.0, 0.0]])).tolist() == [[0.5, 0.0]]
