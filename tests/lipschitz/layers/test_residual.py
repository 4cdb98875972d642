"""Residual blocks keep their constants, and the invertible one is undone."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from vaerdict.lipschitz.graph.trace import trace
from vaerdict.lipschitz.layers import (
    ConvexResidual,
    InvertibleResidual,
    MaxMin,
    lipschitz_linear,
    remove_parametrizations,
)


def block(features: int = 8) -> nn.Sequential:
    return nn.Sequential(lipschitz_linear(features, 16), MaxMin(), lipschitz_linear(16, features))


def largest_growth(layer: nn.Module, features: int = 8) -> float:
    """Find the largest growth of a distance among many pairs, near and far."""
    layer = layer.double()
    x = torch.randn(400, features, dtype=torch.float64)
    y = x + torch.logspace(-4, 1, 400, dtype=torch.float64)[:, None] * torch.randn_like(x)
    return float(((layer(x) - layer(y)).norm(dim=1) / (x - y).norm(dim=1)).detach().max())


@settings(max_examples=25, deadline=None)
@given(free=st.floats(-40, 40), seed=st.integers(0, 2**31))
def test_a_mix_is_1_lipschitz_for_any_share(free: float, seed: int) -> None:
    torch.manual_seed(seed)
    layer = ConvexResidual(block())
    layer.free.data.fill_(free)
    assert largest_growth(layer) <= 1 + 1e-5


@settings(max_examples=50, deadline=None)
@given(free=st.floats(-200, 200, width=32))
def test_the_two_shares_sum_to_one_without_rounding(free: float) -> None:
    layer = ConvexResidual(nn.Identity())
    layer.free.data.fill_(free)
    assert layer(torch.ones(1, dtype=torch.float64)).item() == 1.0  # adds the float32 shares without rounding


def test_a_mix_moves_between_the_identity_and_the_block() -> None:
    layer, x = ConvexResidual(block()), torch.randn(3, 8)
    for free, wanted in ((-100.0, x), (0.0, (x + layer.block(x)) / 2), (100.0, layer.block(x))):
        layer.free.data.fill_(free)
        assert torch.allclose(layer(x), wanted, atol=1e-6)
    layer.free.data.fill_(0.0)
    layer(x).sum().backward()
    assert layer.free.grad is not None
    assert layer.free.grad != 0


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.99])
def test_an_invertible_block_is_inverted_to_1e_minus_5(share: float) -> None:
    layer = InvertibleResidual(block(), share, block_bound=1.0 + 1e-5).double()
    x = 10 * torch.randn(50, 8, dtype=torch.float64)
    assert float((layer.inverse(layer(x), max_steps=5000) - x).norm(dim=1).max().detach()) <= 1e-5
    assert largest_growth(layer) <= 1 + share


def test_an_invertible_block_is_inverted_in_float32_as_well() -> None:
    layer, x = InvertibleResidual(block(), 0.5, block_bound=1.0 + 1e-5), torch.randn(50, 8)
    assert float((layer.inverse(layer(x)) - x).norm(dim=1).max().detach()) <= 1e-5


def test_the_inverse_is_proved_near_where_steps_shrink_slowly() -> None:
    layer = InvertibleResidual(nn.Identity(), 0.99, block_bound=1.0).double()  # each step is 0.99 times the last
    x = torch.full((1, 1), 1000.0, dtype=torch.float64)
    assert abs(layer.inverse(layer(x), max_steps=5000).item() - 1000.0) <= 1e-5


def test_a_block_above_its_bound_is_not_inverted_silently() -> None:
    steep = nn.Linear(2, 2, bias=False)
    steep.weight.data = 3 * torch.eye(2)
    layer = InvertibleResidual(steep, 0.9, block_bound=1.0)
    with pytest.raises(ValueError, match="proved `block_bound`"):
        layer.inverse(torch.ones(1, 2), max_steps=50)


def test_a_tolerance_below_the_rounding_is_not_claimed() -> None:
    layer = InvertibleResidual(block(), 0.9, block_bound=1.0 + 1e-5)
    with pytest.raises(ValueError, match="float64"):
        layer.inverse(1000 * torch.randn(4, 8), tolerance=1e-12, max_steps=200)


@pytest.mark.parametrize(
    ("share", "bound", "message"),
    [
        (0.0, 1.0, "`share`"),
        (1.0, 1.0, "`share`"),
        (math.nan, 1.0, "`share`"),
        (0.5, 0.0, "bound"),
        (0.5, math.inf, "bound"),
    ],
)
def test_shares_and_bounds_out_of_range_are_named(share: float, bound: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        InvertibleResidual(nn.ReLU(), share, bound)


@pytest.mark.parametrize("layer", [ConvexResidual(nn.Linear(3, 1)), InvertibleResidual(nn.Linear(3, 1), 0.5, 1.0)])
def test_values_are_never_repeated_to_fit_a_block_that_changes_the_shape(layer: nn.Module) -> None:
    with pytest.raises(ValueError, match=r"keeps the shape \(2, 3\), got \(2, 1\)"):
        layer(torch.zeros(2, 3))


@pytest.mark.parametrize("layer", [ConvexResidual(block()), InvertibleResidual(block(), 0.5, 1.0)])
def test_blocks_can_be_traced_and_frozen(layer: nn.Module) -> None:
    layer.eval()
    x = torch.randn(2, 8)
    before = layer(x)
    assert torch.allclose(trace(layer, (8,)).run(x)[-1], before)
    remove_parametrizations(layer)
    assert torch.equal(layer(x), before)
