"""The constraint holds at every step, and freezing changes nothing but the speed."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from vaerdict.lipschitz import MaxMin, bound_lipschitz, lipschitz_linear, remove_parametrizations


@settings(max_examples=25, deadline=None)
@given(inputs=st.integers(1, 20), outputs=st.integers(1, 20), norm=st.floats(0.01, 100), size=st.floats(0, 30))
def test_all_singular_values_equal_the_norm_for_any_free_weights(
    inputs: int, outputs: int, norm: float, size: float
) -> None:
    layer = lipschitz_linear(inputs, outputs, norm)
    layer.parametrizations.weight.original.data.normal_().mul_(size)
    values = torch.linalg.svdvals(layer.weight.detach().double())
    assert values == pytest.approx(torch.full_like(values, norm), rel=1e-3)
    assert float(bound_lipschitz(layer)) >= float(values.max()) * (1 - 1e-14)


def test_the_norm_is_kept_at_every_step_of_training() -> None:
    net = nn.Sequential(lipschitz_linear(10, 16, 1.5), MaxMin(), lipschitz_linear(16, 3, 2.0))
    optimiser = torch.optim.Adam(net.parameters(), lr=0.05)
    x, target = torch.randn(64, 10), torch.randn(64, 3)
    before = nn.functional.mse_loss(net(x), target).item()
    for _ in range(40):
        optimiser.zero_grad()
        nn.functional.mse_loss(net(x), target).backward()
        optimiser.step()
        assert float(bound_lipschitz(net)) == pytest.approx(3.0, rel=1e-5)
    assert nn.functional.mse_loss(net(x), target).item() < 0.9 * before


def test_frozen_module_evaluates_identically() -> None:
    net = nn.Sequential(lipschitz_linear(7, 4), MaxMin(), lipschitz_linear(4, 9, 3.0))
    x = torch.randn(5, 7)
    before = net(x)
    remove_parametrizations(net)
    assert torch.equal(net(x), before)
    assert type(net[0]) is nn.Linear
    assert float(bound_lipschitz(net)) == pytest.approx(3.0, rel=1e-5)


def test_norm_must_be_positive_and_the_method_known() -> None:
    with pytest.raises(ValueError, match="norm"):
        lipschitz_linear(2, 2, 0.0)
    with pytest.raises(ValueError, match="`method` 'cayley' or 'bjorck', got 'qr'"):
        lipschitz_linear(2, 2, method="qr")


@settings(max_examples=30, deadline=None)
@given(
    inputs=st.integers(1, 20),
    outputs=st.integers(1, 20),
    norm=st.floats(0.01, 100),
    scale=st.sampled_from([0.0, 1e-40, 1e-20, 1.0, 1e20, 1e37]),
    rank_one=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_bjorck_never_exceeds_the_norm(
    inputs: int, outputs: int, norm: float, scale: float, rank_one: bool, seed: int
) -> None:
    torch.manual_seed(seed)
    layer = lipschitz_linear(inputs, outputs, norm, method="bjorck")
    free = torch.randn(outputs, inputs).clamp(-3, 3)
    layer.parametrizations.weight.original.data = scale * (free[:1].expand(outputs, -1).clone() if rank_one else free)
    values = torch.linalg.svdvals(layer.weight.detach().double())
    assert values.max() <= norm * (1 + 1e-6)
    if scale >= 1e-20:
        assert values.max() >= norm * (1 - 1e-5)


@pytest.mark.parametrize(("inputs", "outputs"), [(64, 64), (100, 30), (30, 100), (1, 1)])
def test_bjorck_is_orthogonal_where_no_singular_value_is_too_small(inputs: int, outputs: int) -> None:
    layer = lipschitz_linear(inputs, outputs, 2.0, method="bjorck")
    rank = min(inputs, outputs)
    u, _, v = torch.linalg.svd(torch.randn(outputs, inputs), full_matrices=False)
    spread = torch.logspace(0, -2, rank)  # divided by at most rank^(1/4) < 3, all are above 1e-3
    layer.parametrizations.weight.original.data = u * spread @ v
    values = torch.linalg.svdvals(layer.weight.detach().double())
    assert values == pytest.approx(torch.full_like(values, 2.0), rel=1e-5)


def test_bjorck_trains_and_starts_orthogonal() -> None:
    layer = lipschitz_linear(6, 4, method="bjorck")
    assert torch.allclose(layer.weight @ layer.weight.T, torch.eye(4), atol=1e-5)
    optimiser = torch.optim.Adam(layer.parameters(), lr=0.05)
    x = torch.randn(64, 6)
    target = x @ torch.linalg.qr(torch.randn(6, 4)).Q
    before = nn.functional.mse_loss(layer(x), target).item()
    for _ in range(60):
        optimiser.zero_grad()
        nn.functional.mse_loss(layer(x), target).backward()
        optimiser.step()
        assert torch.linalg.matrix_norm(layer.weight.detach().double(), 2) <= 1 + 1e-6
    assert nn.functional.mse_loss(layer(x), target).item() < 0.2 * before
