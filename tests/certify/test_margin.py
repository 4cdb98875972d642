"""The solver returns only radii at which the probability was evaluated and found large enough."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vaerdict.certify.margin import solve_margin


@settings(max_examples=40, deadline=None)
@given(roots=st.lists(st.floats(1e-6, 9.9), min_size=1, max_size=5))
def test_every_returned_radius_was_verified(roots: list[float]) -> None:
    targets = torch.tensor(roots, dtype=torch.float64)
    evaluated: list[torch.Tensor] = []

    def probability(rho: torch.Tensor) -> torch.Tensor:
        evaluated.append(torch.where(rho < targets, rho, torch.nan))
        return (rho < targets).double()

    margins = solve_margin(probability, 0.5, torch.full_like(targets, 10.0))
    assert (margins < targets).all()
    assert torch.allclose(margins, targets, rtol=1e-9, atol=1e-12)
    assert (torch.stack(evaluated) == margins).any(0).all()


SHAPES = {
    "normal": lambda rho, scale: torch.special.ndtr(3 - scale * rho),
    "steep": lambda rho, scale: (-((scale * rho) ** 8)).exp(),
    "kink": lambda rho, scale: torch.minimum(1 - 0.01 * rho, 1.5 - scale * rho),
    "flat": lambda rho, scale: (1 - scale * rho).clamp(0.2, 0.8),
    "cut off": lambda rho, scale: torch.where(rho < 1 / scale, 1 - 0.1 * rho * scale, -math.inf),
}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@settings(max_examples=15, deadline=None)
@given(scales=st.lists(st.floats(0.3, 100.0), min_size=2, max_size=5), p=st.floats(0.5, 0.75))
def test_the_margin_is_found_whatever_the_shape(shape: object, scales: list[float], p: float) -> None:
    scale = torch.tensor(scales, dtype=torch.float64)
    upper = torch.full_like(scale, 20.0)
    margins = solve_margin(lambda rho: shape(rho, scale), p, upper)  # type: ignore[operator]
    farther = margins * (1 + 1e-8) + 1e-12
    assert (shape(margins, scale) > p).all()  # type: ignore[operator]
    assert ((shape(farther, scale) <= p) | (margins == upper)).all()  # type: ignore[operator]
    alone = solve_margin(lambda rho: shape(rho, scale[:1]), p, upper[:1])  # type: ignore[operator]
    assert float(alone) == pytest.approx(float(margins[0]), rel=1e-9)


def test_smooth_probabilities_take_few_evaluations() -> None:
    count, means = 0, torch.linspace(0.5, 4, 200, dtype=torch.float64)

    def probability(rho: torch.Tensor) -> torch.Tensor:
        nonlocal count
        count += 1
        return torch.special.ndtr(means - rho)

    margins = solve_margin(probability, 0.5, torch.full_like(means, 10.0))
    assert torch.allclose(margins, means, rtol=1e-9, atol=0.0)
    assert count < 25  # bisection takes 36


def test_zero_where_nothing_can_be_verified() -> None:
    upper = torch.ones(3, dtype=torch.float64)
    assert solve_margin(lambda rho: torch.zeros_like(rho), 0.5, upper).tolist() == [0.0, 0.0, 0.0]


def test_all_where_everything_is_verified() -> None:
    upper = torch.tensor([1.0, 2.0], dtype=torch.float64)
    assert solve_margin(lambda rho: torch.ones_like(rho), 0.5, upper).tolist() == [1.0, 2.0]


def test_a_number_that_is_none_is_an_error() -> None:
    upper = torch.ones(2, dtype=torch.float64)
    unknown = torch.tensor([0.0, math.nan], dtype=torch.float64)
    with pytest.raises(FloatingPointError, match="not a number"):
        solve_margin(lambda rho: 1 - rho + unknown, 0.5, upper)
    with pytest.raises(FloatingPointError, match="not a number"):
        solve_margin(lambda rho: torch.where((rho > 0.4) & (rho < 0.6), math.nan, 1 - rho), 0.5, upper)
