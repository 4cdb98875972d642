"""Never below what inputs show or the optimum of LipSDP; near that optimum; whatever multipliers are proposed."""

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from vaerdict.lipschitz.chains.chain import Chain, dense_chain
from vaerdict.lipschitz.chains.multipliers import _Problem, bound_slope_restricted
from vaerdict.lipschitz.graph.trace import trace
from vaerdict.lipschitz.layers import MaxMin, lipschitz_linear

ACTIVATIONS = {"relu": nn.ReLU, "silu": nn.SiLU, "gelu": nn.GELU, "pairs": MaxMin, "leaky": lambda: nn.LeakyReLU(-1.0)}


def net_of(sizes: tuple[int, ...], activation: str, scale: float = 1.0) -> nn.Sequential:
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(sizes):
        layer = nn.Linear(inputs, outputs).double()
        layer.weight.data *= scale
        layers += [layer, ACTIVATIONS[activation]()]
    return nn.Sequential(*layers[:-1])


def chain_of(net: nn.Module) -> Chain:
    return dense_chain(trace(net))


def steepest(net: nn.Module, features: int, points: int = 60) -> float:
    """Give the largest Jacobian at points near which all neurons change: a lower bound."""
    x = torch.randn(points, features, dtype=torch.float64) * torch.logspace(-2, 2, points, dtype=torch.float64)[:, None]
    jacobians = torch.func.vmap(torch.func.jacrev(net))(x)
    return float(torch.linalg.matrix_norm(jacobians.detach(), 2).max())


@settings(max_examples=25, deadline=None)
@given(
    sizes=st.lists(st.sampled_from([2, 4, 6]), min_size=2, max_size=4),
    activation=st.sampled_from(sorted(ACTIVATIONS)),
    scale=st.sampled_from([1e-120, 1e-3, 1.0, 1e70]),
    change=st.sampled_from(["none", "zero", "rank one", "repeated", "dead"]),
    seed=st.integers(0, 2**31),
)
def test_between_the_steepest_jacobian_and_the_product(
    sizes: list[int], activation: str, scale: float, change: str, seed: int
) -> None:
    torch.manual_seed(seed)
    net = net_of((3, *sizes), activation)
    weight = net[0].weight.data
    if change == "zero":
        weight.zero_()
    elif change == "rank one":
        weight.copy_(torch.outer(weight[:, 0].clone(), weight[0].clone()))
    elif change == "repeated":
        weight.copy_(torch.eye(*weight.shape))
    elif change == "dead":
        weight[::2] = 0.0
    lower = steepest(net, 3)
    for layer in net[::2]:
        layer.weight.data *= scale
        layer.bias.data *= 0.0
    lower = lower * scale ** len(net[::2]) if activation == "relu" else 0.0
    chain = chain_of(net)
    bound = bound_slope_restricted(chain, steps=8)
    assert lower * (1 - 1e-9) <= bound or lower == math.inf
    assert bound <= _Problem.of(chain, chain.global_slopes()).product()


@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
def test_never_below_the_steepest_jacobian(activation: str) -> None:
    for seed in range(4):
        torch.manual_seed(seed)
        net = net_of((5, 8, 8, 3), activation, 3.0)
        assert steepest(net, 5, 400) <= bound_slope_restricted(chain_of(net), steps=40)


def lip_sdp(chain: Chain, solver: str = "CLARABEL", **options: Any) -> float:
    """Solve LipSDP-Neuron in the paper's coordinates, the changes after every activation: one matrix per multiplier."""
    cvxpy: Any = pytest.importorskip("cvxpy")
    weights = [one.weight.numpy() for one in chain.maps]
    starts = np.cumsum([0, *(w.shape[1] for w in weights)])
    places = [np.eye(starts[-1])[a:b] for a, b in itertools.pairwise(starts)]
    terms = []
    for weight, before, after, ends in zip(weights, places, places[1:], chain.global_slopes(), strict=False):
        low, high = (end.numpy()[:, None] for end in ends)
        left, right = after - low * (weight @ before), high * (weight @ before) - after
        terms += [np.outer(a, b) + np.outer(b, a) for a, b in zip(left, right, strict=True)]
    squared, t = cvxpy.Variable(nonneg=True), cvxpy.Variable(len(terms), nonneg=True)
    held = cvxpy.reshape(np.stack([term.ravel() for term in terms], 1) @ t, 2 * [int(starts[-1])], order="C")
    output = weights[-1] @ places[-1]
    problem = cvxpy.Problem(cvxpy.Minimize(squared), [squared * (places[0].T @ places[0]) - output.T @ output >> held])
    problem.solve(solver=solver, **options)
    return math.sqrt(squared.value)


@pytest.mark.parametrize("activation", ["relu", "gelu", "leaky"])
def test_near_the_optimum_of_lipsdp_and_never_below(activation: str) -> None:
    chain = chain_of(net_of((4, 8, 8, 3), activation))
    optimum = lip_sdp(chain)
    closed, descended = (bound_slope_restricted(chain, steps=steps) for steps in (0, 200))
    assert optimum * (1 - 1e-4) <= descended <= 1.02 * optimum
    assert descended <= closed <= 2.5 * optimum


@pytest.mark.slow
def test_near_the_optimum_for_three_layers_of_64_neurons() -> None:
    chain = chain_of(net_of((8, 64, 64, 64, 4), "relu"))
    optimum = lip_sdp(chain, "SCS", eps=1e-5)
    assert optimum * (1 - 1e-3) <= bound_slope_restricted(chain, steps=300) <= 1.02 * optimum


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**31), spread=st.floats(0, 6), promised=st.floats(1e-3, 2.0))
def test_any_proposal_gives_a_bound(seed: int, spread: float, promised: float) -> None:
    torch.manual_seed(seed)
    net = net_of((3, 6, 6, 2), "leaky", 2.0)
    problem = _Problem.of(chain_of(net), chain_of(net).global_slopes())
    multipliers = [torch.exp(spread * torch.randn(6, dtype=torch.float64)) for _ in range(2)]
    assert problem.bound(multipliers, promised * problem.product() / 2**problem.power) >= steepest(net, 3)


def test_constrained_pairs_are_as_tight_as_the_layers() -> None:
    net = nn.Sequential(lipschitz_linear(8, 8), MaxMin(), lipschitz_linear(8, 8), MaxMin(), lipschitz_linear(8, 4))
    assert bound_slope_restricted(chain_of(net), steps=20) == pytest.approx(1.0, abs=1e-5)


def test_neurons_known_to_be_on_or_off_leave_a_linear_map() -> None:
    net = net_of((4, 6, 6, 3), "relu")
    on = [(torch.arange(6) % 2).double(), (torch.arange(6) < 4).double()]
    product = net[4].weight @ torch.diag(on[1]) @ net[2].weight @ torch.diag(on[0]) @ net[0].weight
    bound = bound_slope_restricted(chain_of(net), [(one, one) for one in on], steps=5)
    truth = float(torch.linalg.matrix_norm(product, 2).detach())
    assert truth <= bound <= truth * (1 + 1e-6)


def test_the_last_activation_counts_by_its_steepest_slopes() -> None:
    net = net_of((4, 6, 3), "relu")
    bound = bound_slope_restricted(chain_of(net), steps=20)
    assert bound_slope_restricted(chain_of(nn.Sequential(net, nn.Sigmoid())), steps=20) == pytest.approx(bound / 4)


def test_nothing_but_a_layer_and_a_single_number() -> None:
    assert bound_slope_restricted(chain_of(nn.Linear(3, 2))) > 0
    zero = nn.Linear(3, 2)
    zero.weight.data.zero_()
    assert bound_slope_restricted(chain_of(zero)) == 0.0
    with pytest.raises(ValueError, match="`steps` >= 0, got -1"):
        bound_slope_restricted(chain_of(zero), steps=-1)


def test_gradients_and_weights_stay_as_they_were() -> None:
    net: Tensor | nn.Module = net_of((3, 4, 2), "relu")
    assert isinstance(net, nn.Module)
    before = [one.clone() for one in net.parameters()]
    bound_slope_restricted(chain_of(net), steps=3)
    assert all(torch.equal(a, b) and b.grad is None for a, b in zip(before, net.parameters(), strict=True))
