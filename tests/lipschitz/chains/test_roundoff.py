"""Local rounding: no evaluation in any order, at any point of a ball, errs by more; and little room is left."""

import functools
import math
from collections.abc import Callable, Iterable
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from vaerdict.lipschitz import NoSoundBound, Scale, Select, bound_rounding, lipschitz_linear
from vaerdict.lipschitz.chains.ellipsoids import bound_norms
from vaerdict.lipschitz.chains.roundoff import bound_local_rounding
from vaerdict.lipschitz.layers import GroupSort, MaxMin

UNIT = 2.0**-24
ACTIVATIONS = [nn.ReLU(), nn.LeakyReLU(0.3), nn.LeakyReLU(-1.5), MaxMin(), GroupSort(2)]

Order = Callable[[Tensor], Tensor]
"""Puts the products of every output, on the last axis, in the order in which they are added."""

ORDERS: dict[str, Order] = {
    "as stored": lambda products: products,
    "reversed": lambda products: products.flip(-1),
    "largest sums": lambda products: products.sort(dim=-1, descending=True).values,
    "largest last": lambda products: products.gather(-1, products.abs().argsort(-1)),
}


def in_order(layers: Iterable[nn.Module], points: Tensor, order: Order) -> Tensor:
    """Evaluate in the points' dtype, one addition after the other; the bias is one of the products."""
    for layer in layers:
        if isinstance(layer, nn.Linear):
            products = points[:, None, :] * layer.weight
            if layer.bias is not None:
                products = torch.cat([layer.bias[:, None].expand(len(points), -1, 1), products], -1)
            points = functools.reduce(torch.add, order(products).unbind(-1))
        else:
            points = layer(points)
    return points


def dense(sizes: list[int], activation: nn.Module, bias: bool = True) -> nn.Sequential:
    layers: list[nn.Module] = []
    for before, after in pairwise(sizes):
        layers += [nn.Linear(before, after, bias), activation]
    return nn.Sequential(*layers[:-1])


def in_ball(center: Tensor, radius: float, count: int, normals: Tensor) -> Tensor:
    """Give float32 points: at random, on the sphere, and where the rows of a matrix point."""
    steps = torch.randn(count, len(center), dtype=torch.float64)
    steps[::2] = steps[::2].sign()
    rows = normals[torch.randint(len(normals), (count,))].double()
    steps[::3] = (rows.sign() if count % 2 else rows)[::3]
    steps = steps / steps.norm(dim=1, keepdim=True).clamp(min=1e-300)
    share = torch.linspace(0, 1, count, dtype=torch.float64)[:, None] ** (1 / 3)
    points = (center.double() + radius * share * steps).float()
    inside = (points.double() - center.double()).norm(dim=1) <= radius
    return points[inside]


def shares(errors: Tensor, shape: Tensor) -> Tensor:
    """Give `e^T E^-1 e`, at most 1 for what a shape holds."""
    units = shape.diagonal().sqrt()
    scaled = errors / units
    return (scaled * torch.linalg.solve(shape / units[:, None] / units, scaled.T).T).sum(1)


@torch.no_grad()
def most_of(net: nn.Sequential, center: Tensor, radius: float, shape: Tensor) -> float:
    """Give the largest share of the bound that any evaluation takes."""
    points = in_ball(center, radius, 61, net[0].weight)
    outputs = [net(points), net(points[:1]), *(in_order(net, points, order) for order in ORDERS.values())]
    exact = net.double()(points.double())
    net.float()
    return max(float(shares(one.double() - exact[: len(one)], shape).max()) for one in outputs)


@settings(max_examples=40, deadline=None)
@given(
    activation=st.sampled_from(ACTIVATIONS),
    sizes=st.sampled_from([[6, 3], [12, 16, 4], [5, 8, 8, 3], [4, *[4] * 8, 2]]),
    scales=st.sampled_from([(1.0, 1.0), (1e-3, 1e4), (1e5, 1e-6), (1e-20, 1.0), (30.0, 30.0)]),
    cancels=st.booleans(),
    bias=st.booleans(),
    radius=st.sampled_from([0.0, 1e-3, 0.3, 5.0]),
    seed=st.integers(0, 2**31),
)
def test_no_evaluation_in_the_ball_errs_by_more(
    activation: nn.Module,
    sizes: list[int],
    scales: tuple[float, float],
    cancels: bool,
    bias: bool,
    radius: float,
    seed: int,
) -> None:
    torch.manual_seed(seed)
    net = dense(sizes, activation, bias)
    net[0].weight.data *= scales[0]
    net[-1].weight.data *= scales[1]
    center = torch.randn(sizes[0])
    if cancels:  # rows that are nearly 0 at the centre: sums of large terms
        for row in net[0].weight.data:
            row -= (row @ center) / (center @ center) * center
    errors = bound_local_rounding(net, center[None], torch.tensor([radius]))
    assert most_of(net, center, radius, errors[0]) <= 1.0


def absorbing(inputs: int, rows: int = 1, unit: float = UNIT, bias: bool = False) -> nn.Linear:
    """Sum 1 and terms that are half its unit in the last place: one after the other, all of them are lost."""
    layer = nn.Linear(inputs, rows, bias)
    layer.weight.data.fill_(unit)
    (layer.bias if bias else layer.weight[:, 0]).data.fill_(1.0)
    return layer


@torch.no_grad()
def lost(net: nn.Sequential, point: Tensor) -> Tensor:
    """Give how much of the outputs is lost when their terms are added as stored, at most a relative 2^-53 off."""
    computed = in_order(net, point, ORDERS["as stored"]).double()
    exact = net.double()(point.double())
    net.to(point.dtype)
    return exact - computed


@pytest.mark.parametrize("bias", [False, True], ids=["terms", "bias"])
@pytest.mark.parametrize("radius", [0.0, 1e-3])
def test_little_room_is_left_where_every_addition_errs(bias: bool, radius: float) -> None:
    net, point = nn.Sequential(absorbing(200, bias=bias)), torch.ones(1, 200)
    bound = bound_local_rounding(net, point, torch.tensor([radius])).sqrt()
    assert float(lost(net, point)) <= float(bound) <= 1.1 * float(lost(net, point))


def test_float64_has_its_own_bound() -> None:
    net, point = nn.Sequential(absorbing(200, unit=2.0**-53).double()), torch.ones(1, 200).double()
    assert float(in_order(net, point, ORDERS["as stored"]).detach()) == 1.0  # where the sum is 1 + 199 * 2^-53
    bound = float(bound_local_rounding(net, point, torch.zeros(1), torch.float64).sqrt())
    assert 199 * 2.0**-53 <= bound <= 1.1 * 199 * 2.0**-53


@pytest.mark.parametrize("activation", [nn.ReLU(), MaxMin(), nn.LeakyReLU(0.5)], ids=repr)
def test_errors_of_all_neurons_add_up(activation: nn.Module) -> None:
    """Three quarters of the bound would not hold them."""
    net = nn.Sequential(absorbing(200, 6), activation, nn.Linear(6, 1, bias=False))
    net[2].weight.data.fill_(1.0)
    point = torch.ones(1, 200)
    errors = bound_local_rounding(net, point, torch.zeros(1))
    assert 0.75**2 < float(shares(lost(net, point), errors[0])) <= 1.0


def test_errors_of_all_layers_add_up() -> None:
    """The first layer loses as much as the last one; others of its outputs are too small to count."""
    net = nn.Sequential(absorbing(200, 200), nn.ReLU(), nn.Linear(200, 1, bias=False))
    net[0].weight.data[1:] = UNIT * torch.eye(200)[1:]
    net[2].weight.data.fill_(1.0)
    point = torch.ones(1, 200)
    errors = bound_local_rounding(net, point, torch.zeros(1))
    assert float(lost(net, point)) == pytest.approx(2 * 199 * UNIT, rel=1e-3)
    assert 0.9**2 < float(shares(lost(net, point), errors[0])) <= 1.0


@torch.no_grad()
def test_leaky_slopes_are_rounded() -> None:
    layer, points = nn.LeakyReLU(0.3), -torch.linspace(1, 2, 100)[:, None]
    bounds = bound_local_rounding(layer, points, torch.zeros(100))
    off = (layer(points).double() - layer(points.double()))[:, 0]
    taken = (off.square() / bounds.flatten()).sqrt()
    assert 0.2 < float(taken.max()) <= 1.0


def test_neurons_that_only_work_away_from_the_centre_count() -> None:
    net = nn.Sequential(absorbing(200), nn.ReLU(), nn.Linear(1, 1, bias=False))
    net[2].weight.data.fill_(1.0)
    center, away = -torch.ones(1, 200), torch.ones(1, 200)
    radii = torch.tensor([0.1, 2 * math.sqrt(200) + 1e-3])
    near, far = bound_local_rounding(net, center.expand(2, -1), radii).flatten().sqrt().tolist()
    assert near < 1e-15 < float(lost(net, away)) <= far


def test_neurons_that_only_work_by_rounding_count() -> None:
    """The sum is below 0, and above it as computed."""
    net = nn.Sequential(nn.Linear(200, 1, bias=False), nn.ReLU(), nn.Linear(1, 1, bias=False))
    net[0].weight.data = -absorbing(200).weight.data
    net[0].weight.data[:, -1], net[2].weight.data = 1 + 4 * UNIT, torch.ones(1, 1)
    point = torch.ones(1, 200)
    errors = bound_local_rounding(net, point, torch.zeros(1))
    assert float(lost(net, point)) == -4 * UNIT
    assert float(shares(lost(net, point), errors[0])) <= 1.0


def test_far_below_the_bound_for_all_inputs() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), *dense([784, 256, 256, 10], nn.ReLU()))
    images = torch.rand(2, 1, 28, 28) * (torch.rand(2, 1, 28, 28) < 0.2)
    errors = bound_norms(bound_local_rounding(net, images, torch.full((2,), 0.1)))
    anywhere = float(bound_rounding(net, float(images.flatten(1).norm(dim=1).max()) + 0.1, input_shape=(1, 28, 28)))
    with torch.no_grad():
        off = (net(images).double() - net.double()(images.double())).norm(dim=1)
    assert (off <= errors).all()
    assert (errors < 0.2 * anywhere).all()


@pytest.mark.parametrize(
    "net",
    [
        nn.Sequential(nn.Conv2d(2, 4, 3, 2, 1), MaxMin(axis=1), nn.Flatten(), nn.Linear(36, 3)),
        nn.Sequential(nn.Conv2d(2, 4, 2, groups=2), nn.ReLU(), nn.ConvTranspose2d(4, 3, 3, 2, 1)),
    ],
    ids=["convolution", "transposed"],
)
def test_convolutions(net: nn.Sequential) -> None:
    torch.manual_seed(1)
    centers = torch.randn(2, 2, 6, 6)
    bound = bound_local_rounding(net, centers, torch.tensor([0.0, 1.0]))
    with torch.no_grad():
        for center, shape, radius in zip(centers, bound, (0.0, 1.0), strict=True):
            points = in_ball(center.flatten(), radius, 40, torch.randn(3, 72)).reshape(-1, 2, 6, 6)
            off = (net(points).double() - net.double()(points.double())).flatten(1)
            net.float()
            assert float(shares(off, shape).max()) <= 1.0
            assert off.norm(dim=1).max() > 1e-3 * bound_norms(shape[None])[0]


def test_layers_that_move_values_add_nothing() -> None:
    net = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), Select(1, 3), nn.Identity())
    centers, radii = torch.randn(3, 6), torch.tensor([0.0, 0.1, 10.0])
    whole, part = bound_local_rounding(net[:2], centers, radii), bound_local_rounding(net, centers, radii)
    torch.testing.assert_close(part, whole[:, 1:3, 1:3], rtol=1e-6, atol=0)
    assert (bound_local_rounding(nn.Flatten(), centers, radii) == 0).all()


def test_an_image_has_the_same_bound_in_any_batch() -> None:
    net, centers, radii = dense([6, 8, 8, 3], MaxMin()), torch.randn(5, 6), torch.tensor([0.0, 0.1, 0.3, 1.0, 10.0])
    together = bound_local_rounding(net, centers, radii)
    alone = torch.cat([bound_local_rounding(net, *one) for one in zip(centers.split(1), radii.split(1), strict=True)])
    torch.testing.assert_close(together, alone, rtol=1e-6, atol=0)


def test_infinite_where_values_may_overflow() -> None:
    net = dense([3, 4, 2], nn.ReLU())
    net[0].weight.data.fill_(1.0)
    centers, radii = torch.tensor([[1.0], [1e38]]).expand(2, 3), torch.ones(2)
    assert torch.isfinite(bound_local_rounding(net, centers, radii)).flatten(1).all(1).tolist() == [True, False]
    assert torch.isinf(bound_local_rounding(net, centers[:1], torch.tensor([1e38]))).all()


@pytest.mark.parametrize(
    ("net", "dtype"),
    [
        (nn.Tanh(), torch.float32),
        (Scale(0.1), torch.float32),
        (GroupSort(3), torch.float32),
        (nn.BatchNorm1d(6).eval(), torch.float32),
        (nn.Sequential(nn.Unflatten(1, (1, 6)), nn.Conv1d(1, 1, 3, padding_mode="circular")), torch.float32),
        (nn.Linear(6, 2), torch.float64),
        (nn.Linear(6, 2).half(), torch.float16),
        (lipschitz_linear(6, 2), torch.float32),
    ],
    ids=["tanh", "scale", "groups of 3", "batch norm", "circular", "other weights", "half", "parametrised"],
)
def test_what_is_not_known_is_refused(net: nn.Module, dtype: torch.dtype) -> None:
    with pytest.raises(NoSoundBound):
        bound_local_rounding(net, torch.ones(1, 6), torch.ones(1), dtype)


def test_reduced_precision_and_wrong_balls_are_refused() -> None:
    net, center = nn.Linear(6, 2), torch.ones(1, 6)
    with torch.autocast("cpu"), pytest.raises(NoSoundBound, match="autocast"):
        bound_local_rounding(net, center, torch.ones(1))
    with pytest.raises(ValueError, match="radii"):
        bound_local_rounding(net, center, -torch.ones(1))
    with pytest.raises(ValueError, match="centers"):
        bound_local_rounding(net, math.inf * center, torch.ones(1))
