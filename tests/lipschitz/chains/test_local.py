"""Local bounds: above every Jacobian and difference quotient in the ball, the Jacobian's norm for no radius."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from vaerdict.lipschitz.chains import local
from vaerdict.lipschitz.chains.chain import dense_chain
from vaerdict.lipschitz.chains.local import bound_local_lipschitz
from vaerdict.lipschitz.chains.multipliers import bound_slope_restricted
from vaerdict.lipschitz.graph.nodes import NoSoundBound
from vaerdict.lipschitz.graph.trace import trace
from vaerdict.lipschitz.layers import MaxMin

RADII = torch.tensor([0.0, 0.01, 0.1, 0.5, 2.0, 1e6])


def small(activation: nn.Module, bias: bool = True) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(4, 8, bias), activation, nn.Linear(8, 8, bias), activation, nn.Linear(8, 3, bias)
    ).double()


def jacobian_norms(net: nn.Module, points: Tensor) -> Tensor:
    jacobians = torch.func.vmap(torch.func.jacrev(lambda x: net(x[None])[0].flatten()))(points)
    return torch.linalg.matrix_norm(jacobians.flatten(2), 2).detach()


def in_ball(center: Tensor, radius: float, count: int) -> Tensor:
    steps = torch.randn(count, *center.shape, dtype=torch.float64)
    lengths = steps.flatten(1).norm(dim=1).reshape(-1, *[1] * center.ndim)
    share = torch.linspace(0.05, 1.0, count, dtype=torch.float64).reshape(-1, *[1] * center.ndim)
    return center + radius * share * steps / lengths


def steepest_secant(net: nn.Module, center: Tensor, radius: float) -> float:
    """Climb on the ratio of changes between pairs of points in the ball."""
    pairs = [in_ball(center, radius, 20).requires_grad_() for _ in range(2)]
    best = 0.0
    for _ in range(15):
        ratio = (net(pairs[0]) - net(pairs[1])).flatten(1).norm(dim=1) / (pairs[0] - pairs[1]).flatten(1).norm(dim=1)
        best = max(best, float(ratio.detach().max()))
        for point, slope in zip(pairs, torch.autograd.grad(ratio.sum(), pairs), strict=True):
            moved = point.data + 0.2 * radius * slope / slope.norm().clamp(min=1e-9) - center
            point.data = center + moved * (radius / moved.norm(dim=1, keepdim=True)).clamp(max=1.0)
    return best


@settings(max_examples=8, deadline=None)
@given(
    activation=st.sampled_from([nn.ReLU(), MaxMin(), nn.LeakyReLU(0.1), nn.Tanh(), nn.GELU(), nn.SiLU()]),
    bias=st.booleans(),
    scale=st.sampled_from([1e-2, 1.0, 5.0]),
    seed=st.integers(0, 2**31),
)
def test_no_jacobian_or_secant_in_the_ball_beats_the_bound(
    activation: nn.Module, bias: bool, scale: float, seed: int
) -> None:
    torch.manual_seed(seed)
    net = small(activation, bias)
    net[2].weight.data *= scale
    centers = torch.randn(2, 4, dtype=torch.float64)
    bounds = bound_local_lipschitz(net, centers, RADII, steps=5)
    assert (bounds[:, 1:] >= bounds[:, :-1]).all()
    for center, row in zip(centers, bounds, strict=True):
        for radius, bound in zip(RADII.tolist()[1:], row.tolist()[1:], strict=True):
            assert float(jacobian_norms(net, in_ball(center, radius, 60)).max()) <= bound * (1 + 1e-9)
            assert steepest_secant(net, center, radius) <= bound * (1 + 1e-7)


@pytest.mark.parametrize("activation", [nn.ReLU(), MaxMin(), nn.Tanh(), nn.GELU()], ids=repr)
def test_the_jacobians_norm_for_no_radius_and_a_global_bound_for_a_huge_one(activation: nn.Module) -> None:
    net, centers = small(activation), torch.randn(5, 4, dtype=torch.float64)
    bounds = bound_local_lipschitz(net, centers, RADII, steps=20)
    torch.testing.assert_close(bounds[:, 0], jacobian_norms(net, centers), rtol=1e-6, atol=0)
    anywhere = bound_slope_restricted(dense_chain(trace(net)), steps=20)
    assert (bounds[:, -1] <= anywhere).all()
    torch.testing.assert_close(bounds[:, -1], bounds[:1, -1].expand(5), rtol=1e-9, atol=0)
    assert float(bounds[0, -1]) >= float(jacobian_norms(net, 5 * torch.randn(300, 4, dtype=torch.float64)).max())


def test_ties_and_dead_units() -> None:
    net = small(nn.ReLU(), bias=False)
    net[0].weight.data[3] = 0.0
    zero = torch.zeros(1, 4, dtype=torch.float64)  # every input of an activation is exactly 0
    bounds = bound_local_lipschitz(net, zero, RADII, steps=5)[0]
    assert float(jacobian_norms(net, torch.randn(500, 4, dtype=torch.float64)).max()) <= float(bounds[1])
    assert float(bounds[0]) >= float(jacobian_norms(net, zero))


def test_dead_everywhere_is_constant() -> None:
    net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2))
    net[0].bias.data.fill_(-10.0)
    bounds = bound_local_lipschitz(net, torch.zeros(1, 2), torch.tensor([0.1, 1e3]), steps=5)[0]
    assert float(bounds[0]) < 1e-6
    assert float(bounds[1]) > 1e-3


def test_images_in_a_convolutional_net_with_a_saturating_output() -> None:
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3, 2, 1), MaxMin(1), nn.Flatten(), nn.Linear(36, 6), nn.ReLU(), nn.Linear(6, 4), nn.Sigmoid()
    ).double()
    centers = torch.rand(2, 1, 6, 6, dtype=torch.float64)
    bounds = bound_local_lipschitz(net, centers, RADII, steps=5)
    torch.testing.assert_close(bounds[:, 0], jacobian_norms(net, centers), rtol=1e-6, atol=0)
    for center, bound in zip(centers, bounds[:, 3].tolist(), strict=True):
        assert float(jacobian_norms(net, in_ball(center, 0.5, 60)).max()) <= bound


def test_radii_in_any_order_and_refinement() -> None:
    net, centers = small(nn.ReLU()), torch.randn(2, 4, dtype=torch.float64)
    bounds = bound_local_lipschitz(net, centers, RADII, steps=5)
    order = torch.tensor([3, 0, 5, 2, 1, 4])
    torch.testing.assert_close(bound_local_lipschitz(net, centers, RADII[order], steps=5), bounds[:, order])
    refined = bound_local_lipschitz(net, centers, RADII, steps=5, refine=40)
    assert (refined <= bounds).all()
    assert (refined < 0.999 * bounds).any()
    for center, bound in zip(centers, refined[:, 3].tolist(), strict=True):
        assert float(jacobian_norms(net, in_ball(center, 0.5, 200)).max()) <= bound * (1 + 1e-9)


@pytest.mark.parametrize("scale", [1e-100, 1e100])
def test_tiny_and_huge_weights(scale: float) -> None:
    net = small(nn.ReLU(), bias=False)
    centers = torch.randn(2, 4, dtype=torch.float64)
    expected = bound_local_lipschitz(net, centers, RADII, steps=0) * scale
    net[2].weight.data *= scale
    torch.testing.assert_close(bound_local_lipschitz(net, centers, RADII, steps=0), expected, rtol=1e-6, atol=0)


def test_what_is_refused() -> None:
    net = small(nn.ReLU())
    with pytest.raises(ValueError, match="finite `centers`"):
        bound_local_lipschitz(net, torch.full((1, 4), math.nan), RADII)
    with pytest.raises(ValueError, match="`radii` >= 0"):
        bound_local_lipschitz(net, torch.zeros(1, 4), torch.tensor([-0.1]))
    with pytest.raises(NoSoundBound, match="Softmax"):
        bound_local_lipschitz(nn.Sequential(net, nn.Softmax(-1)), torch.zeros(1, 4).double(), RADII)


class _Shifted(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x - 0.1)


def test_a_shift_by_a_number_is_not_rounded_to_float32() -> None:
    """The kink is at the float64 number 0.1, not at the float32 one."""
    center = torch.tensor([[0.1]], dtype=torch.float64) + 1e-9
    assert float(bound_local_lipschitz(_Shifted(), center, torch.tensor([1e-10]))) >= 1.0


def test_deep_chains_do_not_lose_their_rounding_to_underflow() -> None:
    size, layers = 64, []

    def linear(weight: Tensor) -> nn.Linear:
        layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False, dtype=torch.float64)
        layer.weight.data = weight
        return layer

    for _ in range(72):
        layers += [linear(torch.eye(size).double()), nn.LeakyReLU(0.5)]
    pair = torch.zeros(2, size).double()
    pair[:, 0], pair[1, 1] = 1.0, 1e-9
    net = nn.Sequential(*layers, linear(pair), nn.LeakyReLU(0.5), linear(torch.tensor([[1.0, -1.0]]).double()))
    center = torch.full((1, size), 5.0).double()
    bounds = bound_local_lipschitz(net, center, torch.tensor([0.0, 0.1]), steps=0)
    truth = float(jacobian_norms(net, center))
    assert truth > 0
    assert (bounds >= truth * (1 - 1e-6)).all()


def test_tiny_radii_and_huge_weights() -> None:
    net = nn.Sequential(nn.Linear(2, 2, dtype=torch.float64), nn.ReLU(), nn.Linear(2, 1, dtype=torch.float64))
    center = torch.tensor([[1.0, 2.0]]).double()
    truth = float(jacobian_norms(net, center))
    assert float(bound_local_lipschitz(net, center, torch.tensor([5e-324]).double())) >= truth * (1 - 1e-9)
    huge = nn.Sequential(*(layer for _ in range(12) for layer in (nn.Linear(2, 2, dtype=torch.float64), nn.ReLU())))
    for layer in huge[::2]:
        layer.weight.data = 1e200 * torch.eye(2).double()
    with pytest.raises(NoSoundBound, match="not finite"):
        bound_local_lipschitz(huge, center, torch.tensor([0.1]))


def test_slopes_from_the_centre_alone_would_be_beaten_by_two_other_points(monkeypatch: pytest.MonkeyPatch) -> None:
    net, center, radius = nn.ReLU(), torch.tensor([[-1.0]]).double(), torch.tensor([1.5])
    assert float(bound_local_lipschitz(net, center, radius)) >= 1.0
    monkeypatch.setattr(local, "_between_any", lambda one, near, low, high: one.chords(near, low, high))
    assert float(bound_local_lipschitz(net, center, radius)) < 0.34
