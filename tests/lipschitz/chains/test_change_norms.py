"""Norms of changes on balls: no attack exceeds them, and they are those of the ellipsoids, without making the last."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tests.lipschitz.chains.attacked import ACTIVATIONS, dense_net, put_near_kinks, used_up
from vaerdict.lipschitz import NoSoundBound
from vaerdict.lipschitz.chains.change_norms import bound_local_change_norms
from vaerdict.lipschitz.chains.changes import bound_local_changes
from vaerdict.lipschitz.layers import MaxMin

RADII = (0.01, 0.3, 2.0)
LAST = {"none": [], "sigmoid": [nn.Sigmoid()], "relu": [nn.ReLU()], "pairs": [MaxMin()]}


@settings(max_examples=8, deadline=None)
@given(
    activation=st.sampled_from(sorted(ACTIVATIONS)),
    last=st.sampled_from(sorted(LAST)),
    outputs=st.sampled_from([2, 20]),
    kinks=st.booleans(),
    steps=st.sampled_from([0, 4]),
    seed=st.integers(0, 2**31),
)
def test_no_change_is_longer(activation: str, last: str, outputs: int, kinks: bool, steps: int, seed: int) -> None:
    torch.manual_seed(seed)
    net = nn.Sequential(*dense_net((3, 8, 8, outputs), activation), *LAST[last])
    centers = torch.randn(2, 3, dtype=torch.float64)
    if kinks:
        put_near_kinks(net, centers[:1], 0.1)
    norms = bound_local_change_norms(net, centers, torch.tensor(RADII).double().expand(2, -1), steps)
    for center, row in zip(centers, norms, strict=True):
        for radius, norm in zip(RADII, row, strict=True):
            assert used_up(net, center[None], radius, norm.square() * torch.eye(outputs).double()) <= 1


@pytest.mark.parametrize("outputs", [2, 30])
@pytest.mark.parametrize("activation", ["relu", "tanh", "pairs"])
def test_they_are_the_norms_of_the_ellipsoids(activation: str, outputs: int) -> None:
    net, centers = dense_net((4, 10, 10, outputs), activation), torch.randn(3, 4, dtype=torch.float64)
    radii = torch.tensor([[0.0, 0.2, 1.0], [0.1, 0.3, 3.0], [1e-3, 0.5, 50.0]]).double()
    largest = torch.linalg.eigvalsh(bound_local_changes(net, centers, radii, steps=0))[..., -1].sqrt()
    torch.testing.assert_close(bound_local_change_norms(net, centers, radii, 0), largest, rtol=1e-5, atol=0)


@pytest.mark.parametrize("activation", ["relu", "tanh", "pairs"])
def test_without_a_radius_it_is_the_jacobian_s_norm(activation: str) -> None:
    net = nn.Sequential(*dense_net((4, 8, 8, 20), activation), nn.Sigmoid())
    center = torch.randn(1, 4, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(lambda x: net(x[None])[0], center[0])
    found = bound_local_change_norms(net, center, torch.zeros(1, 1).double())
    expected = torch.linalg.matrix_norm(jacobian, 2)
    assert float(found) >= float(expected) * (1 - 1e-12)
    torch.testing.assert_close(found[0, 0], expected, rtol=1e-4, atol=0)


def test_found_multipliers_are_tighter_and_never_looser() -> None:
    net = nn.Sequential(*dense_net((4, 24, 24, 24, 40), "relu", (2.0,) * 4), nn.Sigmoid())
    centers, radii = torch.randn(3, 4, dtype=torch.float64), torch.tensor([[0.2, 0.5, 0.8]] * 3).double()
    closed, found = (bound_local_change_norms(net, centers, radii, steps) for steps in (0, 20))
    assert bool((found <= closed * (1 + 1e-12)).all())
    assert float((found / closed).amin()) < 0.9


def test_a_last_activation_counts_by_its_steepest_chords() -> None:
    net = nn.Sequential(nn.Linear(1, 2, bias=False), nn.ReLU()).double()
    net[0].weight.data = torch.tensor([[3.0], [-4.0]]).double()
    norms = bound_local_change_norms(net, torch.tensor([[1.0]]).double(), torch.tensor([[0.5, 1.0, 3.0]]).double())
    # To x = -2: the first falls from 3 to 0 with a chord of at least 1, the second rises from 0 to 8.
    expected = [3.0, 3.0, math.hypot(3.0, 8 / 3)]
    torch.testing.assert_close(norms[0], torch.tensor(expected).double(), rtol=1e-6, atol=0)


@pytest.mark.parametrize("net", [nn.Linear(3, 5), nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 7))])
def test_linear_maps_have_their_norm(net: nn.Module) -> None:
    matrix = torch.autograd.functional.jacobian(net.double(), torch.zeros(3).double())
    norms = bound_local_change_norms(net, torch.randn(2, 3), torch.tensor([[0.0, 10.0]] * 2))
    torch.testing.assert_close(norms, torch.linalg.matrix_norm(matrix, 2).expand(2, 2), rtol=1e-5, atol=0)


@pytest.mark.parametrize("scale", [1e-100, 1e100])
def test_tiny_and_huge_weights(scale: float) -> None:
    net, centers = dense_net((3, 6, 6, 9), "relu"), torch.randn(2, 3, dtype=torch.float64)
    for layer in net[::2]:
        layer.bias.data.zero_()
    radii = torch.tensor([[0.1, 1.0]] * 2).double()
    expected = bound_local_change_norms(net, centers, radii, 0) * scale
    net[2].weight.data *= scale
    torch.testing.assert_close(bound_local_change_norms(net, centers, radii, 0), expected, rtol=1e-5, atol=0)


def test_a_dead_net_does_not_change() -> None:
    net = dense_net((3, 6, 5), "relu")
    net[0].bias.data.fill_(-100.0)
    assert float(bound_local_change_norms(net, torch.zeros(1, 3), torch.ones(1, 1))) < 1e-6


def test_the_largest_radius() -> None:
    net, center = dense_net((3, 6, 5), "relu"), torch.ones(1, 3).double()
    norms = bound_local_change_norms(net, center, torch.tensor([[1e-3, 1e308]], dtype=torch.float64))
    jacobian = torch.autograd.functional.jacobian(lambda x: net(x[None])[0], center[0])
    assert bool((norms >= torch.linalg.matrix_norm(jacobian, 2) * (1 - 1e-9)).all())


def test_what_is_refused() -> None:
    net = dense_net((3, 4, 2), "relu")
    with pytest.raises(ValueError, match="finite `centers`"):
        bound_local_change_norms(net, torch.full((1, 3), math.nan), torch.ones(1, 1))
    with pytest.raises(ValueError, match="`radii` >= 0"):
        bound_local_change_norms(net, torch.zeros(1, 3), -torch.ones(1, 1))
    with pytest.raises(ValueError, match="`steps` >= 0"):
        bound_local_change_norms(net, torch.zeros(1, 3), torch.ones(1, 1), -1)
    with pytest.raises(NoSoundBound, match="Softmax"):
        bound_local_change_norms(nn.Sequential(net, nn.Softmax(-1)), torch.zeros(1, 3), torch.ones(1, 1))
