"""Changes from the centre are never larger than the ellipsoids say, which are tight near it and in their units."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.lipschitz.chains.attacked import ACTIVATIONS, ROUNDING, dense_net, put_near_kinks, used_up
from vaerdict.lipschitz.chains import carry
from vaerdict.lipschitz.chains.changes import bound_local_changes
from vaerdict.lipschitz.chains.local import bound_local_lipschitz
from vaerdict.lipschitz.graph.nodes import NoSoundBound
from vaerdict.lipschitz.layers import MaxMin

RADII = torch.tensor([[1e-3, 0.1, 0.5, 2.0, 50.0]]).double()


def largest(held: Tensor, units: Tensor | None = None) -> Tensor:
    """Give the lengths of the largest axes, in units."""
    if units is not None:
        held = held / units[:, None, :, None] / units[:, None, None, :]
    return torch.linalg.eigvalsh(held)[..., -1].sqrt()


def jacobian(net: nn.Module, center: Tensor) -> Tensor:
    found = torch.func.jacrev(lambda x: net(x)[0].flatten())(center)
    return found.detach().flatten(1)


def decaying_net(sizes: tuple[int, ...] = (12, 24, 24, 24, 6), bias: float = 0.5) -> nn.Sequential:
    """Make a net whose matrices have singular values that fall, as training leaves them."""
    net = dense_net(sizes, "relu")
    for layer in net[::2]:
        left, values, right = torch.linalg.svd(layer.weight.data, full_matrices=False)
        values = values[0] * torch.arange(1, len(values) + 1).double() ** -0.7
        layer.weight.data = left @ torch.diag(values) @ right
        layer.bias.data.normal_(std=bias)
    return net


@settings(max_examples=16, deadline=None)
@given(
    activation=st.sampled_from(sorted(ACTIVATIONS)),
    sizes=st.lists(st.sampled_from([2, 4, 6]), min_size=2, max_size=5),
    scales=st.one_of(st.just([]), st.lists(st.sampled_from([1e-6, 1e-2, 1.0, 1e2, 1e6]), min_size=4, max_size=4)),
    distance=st.sampled_from([None, 0.0, 1e-3, 0.1]),
    last=st.sampled_from([None, nn.Sigmoid(), nn.ReLU()]),
    spread=st.sampled_from([None, 2.0]),
    steps=st.sampled_from([0, 20]),
    seed=st.integers(0, 2**31),
)
def test_no_change_is_larger(
    activation: str,
    sizes: list[int],
    scales: list[float],
    distance: float | None,
    last: nn.Module | None,
    spread: float | None,
    steps: int,
    seed: int,
) -> None:
    torch.manual_seed(seed)
    net, center = dense_net(sizes, activation, scales[: len(sizes) - 1]), torch.randn(1, sizes[0]).double()
    if distance is not None:
        put_near_kinks(net, center, distance)
    net = nn.Sequential(*net, *([] if last is None else [last]))
    units = None if spread is None else torch.exp(spread * torch.randn(1, sizes[-1])).double()
    held = bound_local_changes(net, center, RADII, units, steps)[0]
    assert bool(torch.isfinite(held).all())
    for radius, shape in zip(RADII[0].tolist(), held, strict=True):
        assert used_up(net, center, radius, shape) <= 1 + 2 * ROUNDING


@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
def test_a_tenth_less_would_be_beaten(activation: str) -> None:
    """The attack finds what there is, and the ellipsoids hold little more than that."""
    net, center = dense_net((4, 6, 3), activation), torch.randn(1, 4).double()
    held = bound_local_changes(net, center, RADII)[0]
    assert used_up(net, center, float(RADII[0, 0]), 0.9 * held[0]) > 1 + 2 * ROUNDING


@pytest.mark.parametrize(
    ("layer", "center", "expected"),
    [
        (nn.ReLU(), -1.0, 1 / 3),
        (nn.LeakyReLU(0.1), -1.0, 0.1 * 2 / 3 + 1 / 3),
        (nn.LeakyReLU(3.0), 1.0, 3.0 / 3 + 2 / 3),
        (nn.LeakyReLU(-2.0), 1.0, 1.0),
        (nn.LeakyReLU(-8.0), 1.0, 2.0),
    ],
    ids=repr,
)
def test_one_neuron_is_nearly_exact_beyond_the_kink(layer: nn.Module, center: float, expected: float) -> None:
    """The chord to the far end, or the slope at the centre: a neuron's changes are bounded by the steeper one."""
    point = torch.tensor([[center]]).double()
    held = bound_local_changes(layer, point, torch.tensor([[1.5]]).double())
    assert float(largest(held)) == pytest.approx(expected, rel=5e-3)
    assert used_up(layer, point, 1.5, held[0, 0]) == pytest.approx(1.0, abs=0.01)


@pytest.mark.parametrize("last", [False, True])
def test_images_in_a_convolutional_net(last: bool) -> None:
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3, 2, 1), MaxMin(1), nn.Conv2d(4, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(2, 3)
    ).double()
    net = nn.Sequential(*net, *([nn.Sigmoid()] if last else []))
    centers = torch.rand(2, 1, 6, 6, dtype=torch.float64)
    held = bound_local_changes(net, centers, RADII.expand(2, -1))
    for center, shapes in zip(centers, held, strict=True):
        direct = jacobian(net, center[None])
        torch.testing.assert_close(shapes[0], direct @ direct.T, rtol=0.05, atol=1e-6)
        for radius, shape in zip(RADII[0].tolist(), shapes, strict=True):
            assert used_up(net, center[None], radius, shape) <= 1 + 2 * ROUNDING


def test_tighter_by_descent_and_near_the_jacobian_on_small_balls() -> None:
    net, centers = decaying_net(), torch.randn(4, 12).double()
    radii = torch.tensor([0.05, 0.1, 0.2, 0.3, 0.4]).double().expand(4, -1)
    closed, descended = (largest(bound_local_changes(net, centers, radii, steps=steps)) for steps in (0, 20))
    jacobians = torch.stack([torch.linalg.matrix_norm(jacobian(net, center[None]), 2) for center in centers])
    assert bool((jacobians <= descended[:, 0]).all())
    assert bool((descended[:, 0] <= 1.5 * jacobians).all())
    assert bool((descended <= closed * (1 + 1e-9)).all())
    assert float((descended / closed)[:, 2].mean()) < 0.95
    assert bool((descended.diff(dim=1) >= -0.05 * descended[:, 1:]).all())


def test_the_units_decide_in_which_directions_it_is_tight() -> None:
    net, centers = decaying_net(), torch.randn(4, 12).double()
    radii = torch.tensor([0.3]).double().expand(4, -1)
    units = torch.logspace(-2, 2, 6).double().expand(4, -1)
    plain, scaled = bound_local_changes(net, centers, radii), bound_local_changes(net, centers, radii, units)
    assert bool((largest(scaled, units) <= 1.001 * largest(plain, units)).all())
    assert float((largest(scaled, units) / largest(plain, units)).mean()) < 0.97
    assert bool((largest(plain) < largest(scaled)).all())
    times = bound_local_changes(net, centers, radii, 8.0 * torch.ones(4, 6).double())
    torch.testing.assert_close(times, plain, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("activation", ["relu", "steep", "pairs"])
@pytest.mark.parametrize("steps", [0, 20])
def test_at_most_the_local_constant(activation: str, steps: int) -> None:
    net, centers = dense_net((4, 8, 8, 3), activation), torch.randn(3, 4).double()
    radii = torch.tensor([0.1, 0.3, 1.0]).double()
    held = largest(bound_local_changes(net, centers, radii.expand(3, -1), steps=steps))
    anywhere = bound_local_lipschitz(net, centers, radii, steps=0)
    assert bool((held[:, 0] <= anywhere[:, 0] * (1 + 1e-3)).all())
    assert bool((held < 0.99 * anywhere).any())


@pytest.mark.parametrize("columns", [1, 2, 3, 4])
def test_any_number_of_radii(columns: int) -> None:
    net, centers = decaying_net(), torch.randn(3, 12).double()
    radii = torch.linspace(0.1, 0.4, columns).double().expand(3, -1)
    held = bound_local_changes(net, centers, radii)
    assert held.shape == (3, columns, 6, 6)
    for center, own in zip(centers, held, strict=True):
        assert used_up(net, center[None], float(radii[0, -1]), own[-1]) <= 1 + 2 * ROUNDING
    assert bound_local_changes(net, centers[:0], radii[:0]).shape == (0, columns, 6, 6)


def test_an_image_does_not_depend_on_its_batch() -> None:
    """Up to rounding, though others have neurons that it has not; chunks do not matter either."""
    net, centers = decaying_net(), torch.randn(5, 12).double()
    centers[3] *= 1e-3
    centers[4] *= 100
    radii = torch.tensor([0.01, 0.1, 0.3, 0.5]).double() * torch.logspace(-1, 1, 5).double()[:, None]
    units = torch.rand(5, 6).double() + 0.1
    together = bound_local_changes(net, centers, radii, units)
    for index in range(5):
        one = slice(index, index + 1)
        alone = bound_local_changes(net, centers[one], radii[one], units[one])
        apart = torch.linalg.matrix_norm(alone - together[one]) / torch.linalg.matrix_norm(alone)
        assert float(apart.max()) <= 1e-6


def test_few_centres_at_once_where_arrays_would_be_large(monkeypatch: pytest.MonkeyPatch) -> None:
    net, centers = decaying_net(), torch.randn(5, 12).double()
    radii = torch.tensor([0.1, 0.3]).double().expand(5, -1)
    whole = bound_local_changes(net, centers, radii)
    monkeypatch.setattr(carry, "_CHUNK", 2 * 2 * 24**2)  # two centres of two radii
    torch.testing.assert_close(bound_local_changes(net, centers, radii), whole, rtol=1e-6, atol=1e-9)


def test_one_image_without_a_proof_or_a_slope_does_not_spoil_others() -> None:
    """The second layer is off around the first image, and the third one's values overflow."""
    net = dense_net((3, 6, 4, 2), "relu")
    net[2].weight.data.abs_()
    net[2].bias.data.fill_(-3.0)
    centers = torch.cat([torch.zeros(1, 3), 5 * torch.randn(2, 3)]).double()
    radii = torch.tensor([0.05, 0.1, 0.4]).double().expand(3, -1).clone()
    calm = bound_local_changes(net, centers[1:2], radii[1:2])
    assert bool((largest(bound_local_changes(net, centers[:1], radii[:1]))[:, 0] < 1e-6).all())
    centers[2] *= 1e200
    radii[2] *= 1e300
    held = bound_local_changes(net, centers, radii)
    torch.testing.assert_close(held[1:2], calm, rtol=1e-6, atol=1e-9)
    assert bool(torch.isfinite(held[2]).all() | (held[2] == torch.inf).all())


@pytest.mark.parametrize("scale", [0.0, 1e-200, 1e-100, 1e6, 1e100, 1e200])
def test_tiny_and_huge_weights(scale: float) -> None:
    net, centers = dense_net((4, 8, 8, 3), "relu"), torch.randn(2, 4).double()
    for layer in net[2:]:
        if isinstance(layer, nn.Linear):
            layer.bias.data.zero_()
    expected = bound_local_changes(net, centers, RADII.expand(2, -1), steps=0)
    net[2].weight.data *= scale
    for steps in (0, 20):
        held = bound_local_changes(net, centers, RADII.expand(2, -1), steps=steps)
        assert not bool(held.isnan().any())
        if 1e-150 < scale < 1e150:
            assert bool((largest(held / scale / scale) <= largest(expected) * (1 + 1e-6)).all())
        assert bool((held.diagonal(dim1=2, dim2=3) >= min(scale, 1e150) ** 2 * 1e-12).all())


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_the_same_in_every_gradient_mode(mode: type) -> None:
    net, centers = decaying_net(), torch.randn(2, 12).double()
    radii = torch.tensor([0.1, 0.3, 0.5]).double().expand(2, -1)
    before = [one.clone() for one in net.parameters()]
    expected = bound_local_changes(net, centers, radii)
    with mode():
        held = bound_local_changes(net, centers.clone(), radii)
    assert not held.requires_grad
    torch.testing.assert_close(held, expected, rtol=1e-6, atol=1e-9)
    for one, old in zip(net.parameters(), before, strict=True):
        assert one.requires_grad
        assert one.grad is None
        assert torch.equal(one, old)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu() -> None:
    net, centers = decaying_net(), torch.randn(2, 12).double()
    radii = torch.tensor([0.1, 0.3, 0.5]).double().expand(2, -1)
    held = bound_local_changes(net.cuda(), centers.cuda(), radii.cuda())
    assert held.is_cuda
    torch.testing.assert_close(held.cpu(), bound_local_changes(net.cpu(), centers, radii), rtol=1e-3, atol=1e-9)


def test_what_is_refused() -> None:
    net, zero, radii = decaying_net(), torch.zeros(1, 12).double(), torch.ones(1, 2).double()
    with pytest.raises(ValueError, match="finite `centers`"):
        bound_local_changes(net, zero + math.nan, radii)
    with pytest.raises(ValueError, match="`radii` >= 0"):
        bound_local_changes(net, zero, -radii)
    for wrong in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="finite `units` > 0"):
            bound_local_changes(net, zero, radii, torch.tensor([[1.0] * 5 + [wrong]]))
    with pytest.raises(ValueError, match="`steps` >= 0"):
        bound_local_changes(net, zero, radii, steps=-1)
    with pytest.raises(NoSoundBound, match="Softmax"):
        bound_local_changes(nn.Sequential(net, nn.Softmax(-1)), zero, radii)
