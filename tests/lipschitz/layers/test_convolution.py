"""Convolutions keep their norm for any free kernel, and the bound on it is never below the operator written out."""

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tests.lipschitz.layers.linear import norm_of, written_out
from vaerdict.lipschitz.layers import (
    MaxMin,
    lipschitz_conv2d,
    lipschitz_conv_transpose2d,
    remove_parametrizations,
)
from vaerdict.lipschitz.norms.schur import bound_kernel_norm

ROUNDING = 1 + 1e-6
_Maker = Callable[..., nn.Conv2d | nn.ConvTranspose2d]


def free_kernel(layer: nn.Module) -> torch.Tensor:
    return layer.parametrizations.weight.original.data


@settings(max_examples=40, deadline=None)
@given(
    make=st.sampled_from([lipschitz_conv2d, lipschitz_conv_transpose2d]),
    inputs=st.integers(1, 5),
    outputs=st.integers(1, 5),
    kernel=st.integers(1, 5),
    stride=st.integers(1, 3),
    padding=st.integers(0, 2),
    norm=st.floats(0.01, 100),
    spread=st.sampled_from([0, 1, 3, 9]),
    seed=st.integers(0, 2**31),
)
def test_the_norm_holds_for_any_free_kernel(
    make: _Maker, inputs: int, outputs: int, kernel: int, stride: int, padding: int, norm: float, spread: int, seed: int
) -> None:
    torch.manual_seed(seed)
    padding = min(padding, kernel - 1)
    layer = make(inputs, outputs, kernel, stride, padding, norm)
    dense = kernel == stride  # Cayley's rounding grows with the free weights
    free_kernel(layer).normal_().pow_(min(spread, 1) if dense else spread)
    true = norm_of(layer, (inputs, 6, 7))
    assert true <= norm * (1 + 1e-5 if dense else ROUNDING)
    assert true <= bound_kernel_norm(layer.weight, stride) * (1 + 1e-12)


@pytest.mark.parametrize("scale", [0.0, 1e-40, 1e-20, 1e20, 1e37])
@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (4, 2), (1, 2)])
def test_tiny_huge_and_zero_kernels_stay_within_the_norm(scale: float, kernel: int, stride: int) -> None:
    layer = lipschitz_conv2d(2, 3, kernel, stride)
    free_kernel(layer).normal_().clamp_(-3, 3).mul_(scale)
    free_kernel(layer)[:, 1] = 0.0
    assert torch.isfinite(layer.weight).all()
    true = norm_of(layer, (2, 5, 5))
    assert true <= ROUNDING
    assert true <= bound_kernel_norm(layer.weight, stride) * (1 + 1e-12)
    if scale >= 1e-20 and kernel == 3:
        assert true > 0.3  # the constraint is no trivial one


def test_patches_that_do_not_overlap_are_orthogonal() -> None:
    for make in (lipschitz_conv2d, lipschitz_conv_transpose2d):
        layer = make(3, 5, 2, stride=2, norm=2.0)
        free_kernel(layer).normal_()
        values = torch.linalg.svdvals(written_out(layer, (3, 4, 4)))
        values = values[values > 0.01]  # of more outputs than inputs, some are not reached
        assert values == pytest.approx(torch.full_like(values, 2.0), rel=1e-5)


@pytest.mark.parametrize(("kernel", "stride", "padding"), [(3, 1, 1), (4, 2, 1), (5, 2, 2), (3, 3, 0)])
def test_training_starts_with_a_nearly_orthogonal_layer(kernel: int, stride: int, padding: int) -> None:
    layer = lipschitz_conv2d(4, 16, kernel, stride, padding)
    assert norm_of(layer, (4, 6, 6)) == pytest.approx(1.0, abs=1e-4)


def test_the_norm_is_kept_at_every_step_of_training() -> None:
    net = nn.Sequential(lipschitz_conv2d(1, 4, 3, padding=1), MaxMin(1), lipschitz_conv_transpose2d(4, 1, 4, 2, 1))
    optimiser = torch.optim.Adam(net.parameters(), lr=0.02)
    x, target = torch.randn(8, 1, 4, 4), torch.randn(8, 1, 8, 8)
    before = nn.functional.mse_loss(net(x), target).item()
    for _ in range(20):
        optimiser.zero_grad()
        nn.functional.mse_loss(net(x), target).backward()
        optimiser.step()
        assert norm_of(net[0], (1, 4, 4)) <= ROUNDING
        assert norm_of(net[2], (4, 4, 4)) <= ROUNDING
    assert nn.functional.mse_loss(net(x), target).item() < before


def test_frozen_convolutions_are_plain_and_evaluate_identically() -> None:
    net = nn.Sequential(lipschitz_conv2d(2, 6, 3, 2, 1), MaxMin(1), lipschitz_conv_transpose2d(6, 2, 2, 2))
    x = torch.randn(3, 2, 9, 9)
    before = net(x)
    remove_parametrizations(net)
    assert torch.equal(net(x), before)
    assert [type(layer) for layer in net] == [nn.Conv2d, MaxMin, nn.ConvTranspose2d]


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(1, 4),
    columns=st.integers(1, 4),
    size=st.integers(1, 4),
    stride=st.integers(1, 3),
    power=st.sampled_from([-300, -140, 0, 120]),
    rank_one=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_the_bound_is_never_below_the_operator(
    rows: int, columns: int, size: int, stride: int, power: int, rank_one: bool, seed: int
) -> None:
    torch.manual_seed(seed)
    layer = nn.Conv2d(columns, rows, size, stride, padding=size - 1, bias=False).double()
    kernel = torch.randn_like(layer.weight)
    if rank_one:
        kernel = kernel[:1] * torch.randn(rows, 1, 1, 1, dtype=torch.float64)
    layer.weight.data = kernel
    basis = torch.eye(columns * 36, dtype=torch.float64).unflatten(1, (columns, 6, 6))
    true = float(torch.linalg.matrix_norm(layer(basis).flatten(1).detach(), 2))
    scaled = torch.ldexp(kernel, torch.tensor(power))
    assert bound_kernel_norm(scaled, stride) >= math.ldexp(true, power) * (1 - 1e-12)


def test_the_bound_refuses_what_is_not_finite_and_is_zero_for_zeros() -> None:
    assert bound_kernel_norm(torch.zeros(2, 2, 3, 3)) == 0.0
    for value in (math.nan, math.inf):
        with pytest.raises(ValueError, match="finite"):
            bound_kernel_norm(torch.full((1, 1, 1, 1), value))


@pytest.mark.parametrize("make", [lipschitz_conv2d, lipschitz_conv_transpose2d])
def test_norm_must_be_positive(make: _Maker) -> None:
    with pytest.raises(ValueError, match="norm"):
        make(1, 1, 3, norm=0.0)
