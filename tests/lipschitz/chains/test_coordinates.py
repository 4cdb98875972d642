"""Constants per coordinate hold the gradients of that coordinate."""

import pytest
import torch
from torch import nn

from vaerdict.lipschitz.chains.chain import dense_chain
from vaerdict.lipschitz.chains.coordinates import bound_blocks, bound_coordinates
from vaerdict.lipschitz.chains.multipliers import bound_slope_restricted
from vaerdict.lipschitz.graph.trace import trace
from vaerdict.lipschitz.layers import MaxMin

ACTIVATIONS = [nn.ReLU(), MaxMin(), nn.SiLU()]


def small(activation: nn.Module) -> nn.Sequential:
    layers = [nn.Linear(4, 8), activation, nn.Linear(8, 8), activation, nn.Linear(8, 3)]
    return nn.Sequential(*layers, nn.Sigmoid()).double()


def jacobians(net: nn.Module) -> torch.Tensor:
    points = 3 * torch.randn(300, 4, dtype=torch.float64)
    return torch.func.vmap(torch.func.jacrev(lambda x: net(x[None])[0]))(points).detach()


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=repr)
def test_outputs_hold_their_gradients_and_stay_under_the_whole(activation: nn.Module) -> None:
    net = small(activation)
    bounds = bound_coordinates(net, steps=30)
    assert (jacobians(net).norm(dim=2).amax(0) <= bounds).all()
    assert float(bounds.max()) <= bound_slope_restricted(dense_chain(trace(net)), steps=0)


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=repr)
def test_inputs_hold_the_jacobian_in_their_proportions(activation: nn.Module) -> None:
    net = small(activation)
    net[0].weight.data[:, 1] *= 1e-3  # a collapsed latent
    shares = torch.tensor([1.0, 1e-3, 2.0, 0.5])
    blocks = bound_blocks(net, shares, steps=30)
    assert float(torch.linalg.matrix_norm(jacobians(net) / blocks, 2).max()) <= 1.0
    assert float(blocks[1]) == pytest.approx(float(blocks[0]) / 1000)
    assert float(blocks[1]) < 0.01 * bound_slope_restricted(dense_chain(trace(net)), steps=30)


@pytest.mark.parametrize("shares", [[1.0, 1.0], [1.0, 1.0, 0.0, 1.0], [1.0, 1.0, float("nan"), 1.0]])
def test_shares_that_are_refused(shares: list[float]) -> None:
    with pytest.raises(ValueError, match="4 finite `shares` > 0"):
        bound_blocks(small(nn.ReLU()), torch.tensor(shares))
