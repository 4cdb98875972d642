"""Layers in a row one by one, as they are evaluated: nothing merged, with the number of roundings in each."""

import math
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, cast

import torch
from torch import nn

from vaerdict.lipschitz.chains.affine import Affine
from vaerdict.lipschitz.chains.chain import Activation, dense_chain
from vaerdict.lipschitz.chains.linear import moves_values
from vaerdict.lipschitz.graph.nodes import Graph, Node, NoSoundBound, kind_of, layers_in_a_row
from vaerdict.lipschitz.layers.activations import GroupSort, MaxMin

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.ConvTranspose1d, nn.ConvTranspose2d)
_KEPT = (nn.ReLU, MaxMin, GroupSort)


@dataclass(frozen=True)
class Evaluated:
    """One layer.

    Attributes:
        maps: known exactly; the identity is left out, as None.
        activations: one after each map; one less may follow.
        terms: how many products are summed for an output; None where there are none.
        slope: by what a value is multiplied besides; 0 where it is compared and kept, None where it is moved.
        widest: the most values before or after.
        convolves: whether fast algorithms might compute it.
    """

    maps: tuple[Affine | None, ...]
    activations: tuple[Activation, ...]
    terms: int | None
    slope: float | None
    widest: int
    convolves: bool


def evaluated_layers(graph: Graph) -> list[Evaluated]:
    """Write the layers of a graph with shapes out one by one.

    Known are dense layers and convolutions padded with zeros, ReLU, LeakyReLU, MaxMin, GroupSort in groups of 2, and
    layers that only move values.

    Raises:
        NoSoundBound: something branches, a layer is not known, or is too large to be written out.

    >>> from vaerdict.lipschitz.graph.trace import trace
    >>> graph = trace(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), (3,))
    >>> [one.terms for one in evaluated_layers(graph)]
    [3, None, 4]
    """
    nodes = [graph.nodes[0], *layers_in_a_row(graph)]
    return [_evaluated(node, before) for before, node in pairwise(nodes)]


def _evaluated(node: Node, before: Node) -> Evaluated:
    layer, kind = cast(nn.Module, node.layer), kind_of(cast(nn.Module, node.layer))
    try:
        known = kind in (nn.Linear, nn.LeakyReLU, *_CONVOLUTIONS, *_KEPT) or moves_values(layer)
    except ValueError as error:
        raise NoSoundBound(f"layer {node.title} has no bound on its rounding: {error}") from None
    if not known or getattr(layer, "padding_mode", "zeros") != "zeros":
        raise NoSoundBound(f"layer {node.title} has no local bound on its rounding")
    alone = dense_chain(Graph((Node("", "input", shape=before.shape), replace(node, inputs=(0,)))))
    assert not any(one.weight_error or one.bias_error for one in alone.maps)  # they are copies of weights
    terms = _terms(layer, kind)
    return Evaluated(
        maps=tuple(None if terms is None and _is_identity(one) else one for one in alone.maps),
        activations=alone.activations,
        terms=terms,
        slope=abs(cast(nn.LeakyReLU, layer).negative_slope) if kind is nn.LeakyReLU else 0.0 if kind in _KEPT else None,
        widest=max(max(one.weight.shape) for one in alone.maps),
        convolves=kind in _CONVOLUTIONS,
    )


def _terms(layer: Any, kind: type[nn.Module]) -> int | None:
    """Count the products in an output; in that of a transposed convolution they are at most the kernel's."""
    if kind is nn.Linear:
        return int(layer.in_features)
    if kind in _CONVOLUTIONS:
        return int(layer.in_channels) // int(layer.groups) * math.prod(layer.kernel_size)
    return None


def _is_identity(one: Affine) -> bool:
    rows, columns = one.weight.shape
    return rows == columns and torch.equal(one.weight, torch.eye(rows, dtype=torch.float64)) and not one.bias.any()
