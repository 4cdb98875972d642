"""The residual convolution is 1-Lipschitz for any free kernel, and its constant is what its kernel's norm says."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tests.lipschitz.layers.linear import norm_of
from vaerdict.lipschitz.layers import (
    ConvexPotential,
    lipschitz_residual_conv2d,
    remove_parametrizations,
)
from vaerdict.lipschitz.norms.schur import bound_kernel_norm

ROUNDING = 1 + 1e-6


def steepest(layer: nn.Module, channels: int, side: int = 5) -> float:
    """Find the largest singular value of the Jacobian at a few inputs, in float64."""
    found = 0.0
    layer = layer.double()
    for x in torch.randn(4, channels * side * side, dtype=torch.float64):
        jacobian = torch.func.jacrev(lambda v: layer(v.unflatten(0, (1, channels, side, side))).flatten())(x)
        found = max(found, float(torch.linalg.matrix_norm(jacobian.detach(), 2)))
    return found


@settings(max_examples=20, deadline=None)
@given(
    channels=st.integers(1, 3),
    size=st.sampled_from([1, 3]),
    scale=st.sampled_from([1e-40, 1e-20, 1.0, 1e20]),
    seed=st.integers(0, 2**31),
)
def test_the_layer_is_1_lipschitz_for_any_free_kernel(channels: int, size: int, scale: float, seed: int) -> None:
    torch.manual_seed(seed)
    layer = lipschitz_residual_conv2d(channels, size)
    layer.parametrizations.weight.original.data.normal_().mul_(scale)
    layer.bias.data.normal_()
    remove_parametrizations(layer)  # then the conversion to float64 keeps the kernel that was made in float32
    assert 0.2 < bound_kernel_norm(layer.weight) <= ROUNDING or scale < 1e-20
    assert steepest(layer, channels) <= ROUNDING


@pytest.mark.parametrize("scale", [0.5, 1.0, 1.5, 4.0])
def test_the_constant_is_reached_when_the_kernel_exceeds_1(scale: float) -> None:
    layer = ConvexPotential(2, 1)
    layer.weight.data = scale * torch.eye(2)[:, :, None, None]
    assert steepest(layer, 2, side=1) == pytest.approx(max(1.0, 2 * scale**2 - 1))


@settings(max_examples=15, deadline=None)
@given(scale=st.floats(0.1, 5.0), seed=st.integers(0, 2**31))
def test_no_slope_exceeds_the_constant(scale: float, seed: int) -> None:
    torch.manual_seed(seed)
    layer = ConvexPotential(2, 3)
    layer.weight.data.normal_().mul_(scale / bound_kernel_norm(layer.weight))
    assert steepest(layer, 2) <= max(1.0, 2 * bound_kernel_norm(layer.weight) ** 2 - 1) + 1e-9


def test_the_convolution_is_the_one_that_is_evaluated() -> None:
    layer, x = ConvexPotential(2, 3), torch.randn(3, 2, 5, 6)
    inner = layer.convolution()
    with torch.no_grad():
        hidden = torch.relu(inner(x.double()) + layer.bias.double()[:, None, None])
        back = nn.functional.conv_transpose2d(hidden, inner.weight, padding=1)
        assert torch.allclose(layer(x).double(), x - 2 * back, atol=1e-5)
    assert norm_of(inner.float(), (2, 5, 5)) <= bound_kernel_norm(layer.weight)


def test_the_norm_holds_at_every_step_of_training() -> None:
    layer = lipschitz_residual_conv2d(2)
    optimiser = torch.optim.Adam(layer.parameters(), lr=0.02)
    x, target = torch.randn(8, 2, 6, 6), torch.randn(8, 2, 6, 6)
    losses = []
    for _ in range(20):
        optimiser.zero_grad()
        loss = nn.functional.mse_loss(layer(x), target)
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
        assert bound_kernel_norm(layer.weight) <= ROUNDING
    assert losses[-1] < losses[0]


def test_a_zero_kernel_is_the_identity() -> None:
    layer, x = lipschitz_residual_conv2d(2), torch.randn(1, 2, 4, 4)
    layer.parametrizations.weight.original.data.zero_()
    assert torch.equal(layer(x), x)


def test_even_kernels_are_named() -> None:
    with pytest.raises(ValueError, match="odd `kernel_size`, got 4"):
        lipschitz_residual_conv2d(2, 4)
