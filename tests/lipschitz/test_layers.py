"""The constraint holds at every step, and freezing changes nothing but the speed."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from vaerdict.lipschitz import MaxMin, bound_lipschitz, freeze, lipschitz_linear


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
    freeze(net)
    assert torch.equal(net(x), before)
    assert type(net[0]) is nn.Linear
    assert float(bound_lipschitz(net)) == pytest.approx(3.0, rel=1e-5)


def test_norm_must_be_positive() -> None:
    with pytest.raises(ValueError, match="norm"):
        lipschitz_linear(2, 2, 0.0)
