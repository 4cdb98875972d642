"""Activations move values without moving any two inputs apart."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from vaerdict.lipschitz.layers import GroupSort, Householder, MaxMin


def turned(features: int, axis: int) -> Householder:
    layer = Householder(features, axis)
    nn.init.uniform_(layer.angle, -10.0, 10.0)
    return layer


def quotient(layer: nn.Module, x: Tensor, y: Tensor, order: float) -> float:
    """Give the largest growth of a distance, in float64."""
    layer = layer.double()
    moved = (layer(x) - layer(y)).flatten(1).detach()
    return float((moved.norm(order, dim=1) / (x - y).flatten(1).norm(order, dim=1)).max())


@settings(max_examples=30, deadline=None)
@given(
    kind=st.sampled_from(["maxmin", "sort", "reflect"]),
    axis=st.sampled_from([1, 2, 3, -1, -2, -3]),
    distance=st.sampled_from([1e-6, 1e-2, 1.0, 100.0]),
    seed=st.integers(0, 2**31),
)
def test_no_pair_of_inputs_beats_the_constants(kind: str, axis: int, distance: float, seed: int) -> None:
    torch.manual_seed(seed)
    layer = {"maxmin": MaxMin(axis), "sort": GroupSort(3, axis), "reflect": turned(6, axis)}[kind]
    x = torch.randn(100, 6, 6, 6, dtype=torch.float64)
    y = x + distance * torch.randn_like(x)
    assert quotient(layer, x, y, 2) <= 1 + 1e-9
    assert quotient(layer, x, y, math.inf) <= (math.sqrt(2) if kind == "reflect" else 1.0) + 1e-9


def test_sorting_pairs_is_maxmin_and_any_axis_is_the_last_one_moved() -> None:
    x = torch.randn(3, 4, 6)
    assert torch.equal(GroupSort(2)(x), MaxMin()(x))
    assert torch.equal(MaxMin(1)(x), MaxMin()(x.transpose(1, 2)).transpose(1, 2))
    assert torch.equal(MaxMin(-2)(x), MaxMin(1)(x))
    layer = turned(4, 1)
    last = Householder(4)
    last.angle = layer.angle
    assert torch.equal(layer(x), last(x.transpose(1, 2)).transpose(1, 2))


def test_sorted_groups_fall_and_keep_their_values() -> None:
    x = torch.randn(5, 12)
    y = GroupSort(4)(x).unflatten(1, (3, 4))
    assert (y.diff(dim=2) <= 0).all()
    assert torch.equal(y.sort(2).values, x.unflatten(1, (3, 4)).sort(2).values)


def test_a_reflection_keeps_norms_and_is_continuous_across_its_line() -> None:
    layer = turned(2, -1).double()
    half = float(layer.angle.detach()) / 2
    along, across = torch.tensor([math.cos(half), math.sin(half)]), torch.tensor([math.sin(half), -math.cos(half)])
    points = torch.linspace(-5, 5, 50).double()[:, None] * along.double()
    sides = [layer(points + step * across.double()) for step in (-1e-9, 1e-9)]
    assert torch.allclose(*sides, atol=1e-8)
    x = torch.randn(50, 2, dtype=torch.float64)
    assert torch.allclose(layer(x).norm(dim=1), x.norm(dim=1))
    assert torch.allclose(layer(layer(x)), layer(x))  # what is in front of the line stays
    assert not torch.allclose(layer(x), x)


def test_reflections_learn_their_angles() -> None:
    layer = Householder(4)
    layer(torch.randn(20, 4)).square()[:, 0].sum().backward()
    assert layer.angle.grad is not None
    assert layer.angle.grad[0] != 0


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (MaxMin(), "expected a multiple of 2 features on axis -1, got 5"),
        (GroupSort(3, 1), "expected a multiple of 3 features on axis 1, got 4"),
        (Householder(6), "expected 6 features on axis -1, got 5"),
    ],
)
def test_wrong_sizes_are_named(layer: nn.Module, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        layer(torch.zeros(2, 4, 5))


def test_impossible_options_are_named() -> None:
    with pytest.raises(ValueError, match=r"`group` >= 1, got 0"):
        GroupSort(0)
    with pytest.raises(ValueError, match=r"even number of `features` >= 2, got 3"):
        Householder(3)
