"""The estimate is shown by two inputs, is never above the constant, and comes close to it where it is known."""

import copy
import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog
from torch import Tensor, nn

from vaerdict.lipschitz import bound_lipschitz, lipschitz_linear
from vaerdict.lipschitz.estimate import LipschitzEstimate, estimate_lipschitz

INF = math.inf


def operator_norm(matrix: Tensor, norm: float) -> float:
    return float(torch.linalg.matrix_norm(matrix.double(), norm))


def shown(module: nn.Module, found: LipschitzEstimate) -> float:
    """Recompute the secant ratio of the two inputs."""
    ends = torch.stack([found.first, found.second])
    with torch.no_grad():
        outputs = module.double()(ends.clone()).flatten(1)
    rise, run = outputs[0] - outputs[1], (ends[0] - ends[1]).flatten()
    return float(torch.linalg.vector_norm(rise, found.norm) / torch.linalg.vector_norm(run, found.norm))


def largest_slope(first: nn.Linear, second: nn.Linear, norm: float) -> float:
    """Compute the constant of a small ReLU network: the largest norm over the activation patterns that occur."""
    w, b, out = (values.detach().double() for values in (first.weight, first.bias, second.weight))
    best = 0.0
    for signs in itertools.product([1.0, -1.0], repeat=len(w)):
        side = torch.tensor(signs, dtype=torch.float64)
        # the widest margin t with side * (w x + b) >= t
        rows = torch.cat([-side[:, None] * w, torch.ones(len(w), 1)], 1).numpy()
        cost = [0.0] * w.shape[1] + [-1.0]
        found = linprog(cost, A_ub=rows, b_ub=(side * b).numpy(), bounds=[(None, None)] * w.shape[1] + [(None, 1.0)])
        if found.status == 0 and found.x[-1] > 1e-6:
            best = max(best, operator_norm(out @ (w * (side > 0)[:, None]), norm))
    return best


@pytest.mark.parametrize("norm", [2, INF])
@pytest.mark.parametrize("shape", [(1, 1), (7, 3), (3, 20), (40, 30)])
def test_is_the_norm_of_a_linear_network(shape: tuple[int, int], norm: float) -> None:
    net = nn.Sequential(nn.Linear(shape[1], 25), nn.Linear(25, shape[0]))
    truth = operator_norm((net[1].weight.double() @ net[0].weight.double()).detach(), norm)
    found = float(estimate_lipschitz(net, torch.randn(4, shape[1]), norm=norm))
    assert truth * (1 - 1e-6) <= found <= truth * (1 + 1e-9)


@pytest.mark.parametrize("norm", [2, INF])
@pytest.mark.parametrize("seed", range(3))
def test_comes_close_to_the_largest_slope_of_small_relu_networks(seed: int, norm: float) -> None:
    torch.manual_seed(seed)
    first, second = nn.Linear(2, 6), nn.Linear(6, 3)
    truth = largest_slope(first, second, norm)
    found = float(estimate_lipschitz(nn.Sequential(first, nn.ReLU(), second), 2 * torch.randn(16, 2), norm=norm))
    assert 0.97 * truth <= found <= truth * (1 + 1e-7)


def test_moves_away_from_starts_where_the_slope_is_small() -> None:
    """A ReLU that is off at every start has derivative 0 there; the climb has to find where it is on."""
    net = nn.Sequential(nn.Linear(2, 1), nn.ReLU())
    nn.init.constant_(net[0].weight, 1.0)
    nn.init.constant_(net[0].bias, -1.0)
    assert float(estimate_lipschitz(net, torch.rand(4, 2) - 0.5)) == pytest.approx(math.sqrt(2), rel=1e-6)


class Kinked(nn.Module):
    """The identity, written so that automatic differentiation gives slope 2 at 0."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * x - (torch.relu(x) - torch.relu(-x))


@pytest.mark.parametrize("norm", [2, INF])
def test_does_not_believe_derivatives_at_kinks(norm: float) -> None:
    net = Kinked()
    zero = torch.zeros(1, requires_grad=True)
    assert float(torch.autograd.grad(net(zero), zero)[0]) == 2.0
    assert float(estimate_lipschitz(net, torch.zeros(3, 5), norm=norm)) == pytest.approx(1.0, rel=1e-9)


@settings(max_examples=8, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    size=st.sampled_from([1e-2, 1.0, 1e3]),
    norm=st.sampled_from([2, INF]),
    activation=st.sampled_from([nn.ReLU(inplace=True), nn.Tanh(), nn.SiLU(), nn.LeakyReLU(0.1)]),
)
def test_is_below_the_bound_and_shown_by_its_inputs(seed: int, size: float, norm: float, activation: nn.Module) -> None:
    torch.manual_seed(seed)
    layers = [nn.Conv2d(2, 3, 3, stride=2, padding=1), nn.BatchNorm2d(3), activation, nn.Flatten(), nn.Linear(27, 4)]
    net = nn.Sequential(activation, *layers).eval()
    with torch.no_grad():
        net[-1].weight *= size
    found = estimate_lipschitz(net, size * torch.randn(2, 2, 5, 5), steps=10, norm=norm)
    assert 0 < found.value <= float(bound_lipschitz(net, (2, 5, 5), norm=norm)) * (1 + 1e-9)
    assert found.value <= shown(net, found) * (1 + 1e-9) <= found.value * 1.001


def test_uses_the_weights_as_they_show() -> None:
    """A float64 copy of the free weights would have norm 1, not that of the float32 matrix."""
    layers = [lipschitz_linear(8, 1) for _ in range(50)]
    layer, truth = max(
        ((one, operator_norm(one.weight.detach(), 2)) for one in layers), key=lambda pair: abs(pair[1] - 1)
    )
    nn.init.zeros_(layer.bias)
    assert abs(truth - 1) > 1e-8
    assert float(estimate_lipschitz(layer, torch.randn(8, 8))) == pytest.approx(truth, abs=2e-9)


def test_rounding_is_not_a_slope() -> None:
    """At this distance the outputs, near 1, differ by their rounding only."""
    layer = nn.Linear(1, 1)
    nn.init.constant_(layer.weight, 1e-3)
    nn.init.constant_(layer.bias, 1.0)
    assert float(estimate_lipschitz(layer, torch.full((8, 1), 1e-15))) <= 1e-3


def test_returns_the_module_and_the_starts_as_they_were() -> None:
    net = nn.Sequential(nn.ReLU(inplace=True), lipschitz_linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.5)).train()
    starts = torch.randn(3, 4)
    before = {name: values.clone() for name, values in net.state_dict().items()}
    kept, outputs = starts.clone(), copy.deepcopy(net).eval()(starts.clone())
    with torch.no_grad():
        estimate_lipschitz(net, starts, steps=3)
    assert net.training
    assert torch.equal(starts, kept)
    assert all(torch.equal(values, before[name]) for name, values in net.state_dict().items())
    assert torch.equal(net.eval()(starts), outputs)
    assert all(p.requires_grad and p.grad is None for p in net.parameters())


def test_same_seed_same_estimate() -> None:
    net = nn.Sequential(nn.Linear(5, 9), nn.ReLU(), nn.Linear(9, 5))
    starts = torch.randn(2, 5)
    runs = [estimate_lipschitz(net, starts, steps=7, seed=seed) for seed in (1, 1, 2)]
    assert torch.equal(runs[0].first, runs[1].first)
    assert runs[0].value == runs[1].value != runs[2].value


@pytest.mark.parametrize("norm", [2, INF])
def test_constant_function_has_estimate_zero(norm: float) -> None:
    layer = nn.Linear(3, 2)
    nn.init.zeros_(layer.weight)
    assert float(estimate_lipschitz(layer, torch.zeros(2, 3), norm=norm)) == 0.0


class Undefined(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.where(x.abs() > 3, torch.nan, x).exp()


def test_ignores_places_without_a_value() -> None:
    found = float(estimate_lipschitz(Undefined(), torch.ones(2, 1)))
    assert 1 < found < math.exp(3)


def test_says_what_it_found() -> None:
    found = estimate_lipschitz(nn.Linear(2, 1), torch.randn(2, 2), norm=INF)
    assert str(found).startswith(f"at least {found.value:.6g} in the maximum norm, shown by two inputs at distance")


class Noisy(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + torch.randn_like(x)


@pytest.mark.parametrize(
    ("module", "starts", "options", "message"),
    [
        (nn.Linear(2, 2), torch.zeros(1, 2), {"norm": 1}, "expected `norm` 2 or infinity, got 1"),
        (nn.Linear(2, 2), torch.zeros(1, 2), {"steps": 0}, "expected `steps` >= 1, got 0"),
        (nn.Linear(2, 2), torch.zeros(0, 2), {}, "expected at least one start"),
        (nn.Linear(2, 2), torch.full((1, 2), math.nan), {}, "expected at least one start, all finite"),
        (Noisy(), torch.zeros(1, 2), {}, "expected a module without randomness"),
    ],
)
def test_refuses(module: nn.Module, starts: Tensor, options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        estimate_lipschitz(module, starts, **options)  # type: ignore[arg-type]
