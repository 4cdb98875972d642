"""Layers in a row as dense affine maps with elementwise activations between them: what the tighter bounds work on.

Linear layers that follow each other become one matrix (seam merging, THEORY 2). MaxMin becomes elementwise too: with
the sum and the difference of each pair as coordinates it is the identity and the absolute value.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vaerdict.lipschitz.chains.affine import Affine
from vaerdict.lipschitz.chains.linear import LARGEST, linear_part, moves_values
from vaerdict.lipschitz.chains.slopes import SLOPE_RULES, chord_interval, slope_interval, two_slopes, two_slopes_from
from vaerdict.lipschitz.graph.nodes import Graph, NoSoundBound, first_features, kind_of, layers_in_a_row
from vaerdict.lipschitz.layers.activations import GroupSort, MaxMin

_Ends = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Activation:
    """An elementwise map between two affine ones.

    Attributes:
        path: where it stands, for messages.
        apply: its values.
        slopes: bounds on its slopes between any two points of `[low, high]`, batched.
        chords: bounds on its slopes from a point of the first interval to one of `[low, high]`, batched.
    """

    path: str
    apply: Callable[[Tensor], Tensor]
    slopes: Callable[[Tensor, Tensor], _Ends]
    chords: Callable[[_Ends, Tensor, Tensor], _Ends]


@dataclass(frozen=True)
class Chain:
    """Affine maps with activations between them; one more activation may follow the last.

    Attributes:
        input_shape: of one input, without the batch axis; the maps take it flattened.
        maps: n of them.
        activations: n - 1 or n.
    """

    input_shape: tuple[int, ...]
    maps: tuple[Affine, ...]
    activations: tuple[Activation, ...]

    def global_slopes(self) -> list[_Ends]:
        """Give each activation's slope interval on the whole line, `[neurons]` each."""
        ends = [torch.full_like(one.bias, math.inf) for one in self.maps]
        return [one.slopes(-end, end) for one, end in zip(self.activations, ends, strict=False)]


def dense_chain(graph: Graph) -> Chain:
    """Write the layers of a graph out as a chain.

    Args:
        graph: of layers in a row; its input shape may be missing where the first layer with weights is dense.

    Raises:
        NoSoundBound: something branches, or a layer is neither linear nor a known activation, or is too large to be
            written out (above 4096 inputs or outputs).

    >>> from vaerdict.lipschitz.graph.trace import trace
    >>> chain = dense_chain(trace(nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2), nn.ReLU())))
    >>> [tuple(one.weight.shape) for one in chain.maps], len(chain.activations)
    ([(2, 3)], 1)
    """
    nodes = layers_in_a_row(graph)
    shape = graph.nodes[0].shape or first_features(graph)
    writer = _Writer(shape)
    for node in nodes:
        assert node.layer is not None
        try:
            with torch.no_grad():
                writer.add(node.path, node.layer)
        except ValueError as error:
            raise NoSoundBound(f"layer {node.title} cannot be written as a matrix: {error}") from None
    return writer.chain()


class _Writer:
    """Collects maps and activations; `pending` is the linear map since the last activation, None for the identity."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.input_shape = self.shape = tuple(shape)
        self.maps: list[Affine] = []
        self.activations: list[Activation] = []
        self.pending: Affine | None = None

    def add(self, path: str, layer: nn.Module) -> None:
        kind = kind_of(layer)
        if math.prod(self.shape) > LARGEST:
            raise ValueError(f"expected at most {LARGEST} values, got {math.prod(self.shape)}")
        if kind in SLOPE_RULES:
            slope_interval(layer, torch.zeros(1), torch.zeros(1))  # refuses options without a proof
            apply = lambda values: layer(values.clone())  # noqa: E731 (the layer may work in place)
            slopes, chords = partial(slope_interval, layer), partial(chord_interval, layer)
            self._activate(Activation(path, apply, slopes, chords))
        elif kind is MaxMin or (isinstance(layer, GroupSort) and kind is GroupSort and layer.group == 2):
            self._max_min(path, layer)
        elif moves_values(layer):
            self._move(layer)
        else:
            self._append(*linear_part(layer, self.shape))

    def chain(self) -> Chain:
        if self.pending is not None or not self.maps:
            self.maps.append(self._now())
        for one in self.maps:
            finite = torch.isfinite(one.weight).all() and torch.isfinite(one.bias).all()
            if not (finite and math.isfinite(one.weight_error + one.bias_error)):
                raise NoSoundBound("expected finite weights, got NaN or infinity")
        return Chain(self.input_shape, tuple(self.maps), tuple(self.activations))

    def _now(self) -> Affine:
        return self.pending or _plain(torch.eye(math.prod(self.shape), dtype=torch.float64))

    def _append(self, after: Affine, shape: tuple[int, ...]) -> None:
        self.pending = after if self.pending is None else self.pending.then(after)
        self.shape = shape

    def _activate(self, activation: Activation) -> None:
        self.maps.append(self._now())
        self.activations.append(activation)
        self.pending = None

    def _positions(self) -> Tensor:
        return torch.arange(math.prod(self.shape), dtype=torch.float64).reshape(1, *self.shape)

    def _move(self, layer: nn.Module) -> None:
        """Reorder, drop or repeat rows, as the layer does with values: nothing is rounded."""
        moved = layer(self._positions())[0]
        if not torch.equal(layer(self._positions().float())[0].double(), moved):
            raise ValueError("it moves values differently in float32 and in float64")
        rows, count = moved.flatten().long(), math.prod(self.shape)
        self.shape = tuple(moved.shape)
        if torch.equal(rows, torch.arange(count)):
            return
        if len(rows) > LARGEST:
            raise ValueError(f"expected at most {LARGEST} values, got {len(rows)}")
        now = self.pending or _plain(torch.eye(count, dtype=torch.float64))
        times = math.sqrt(int(torch.bincount(rows, minlength=count).max()))  # a row may be repeated
        self.pending = Affine(
            now.weight[rows], now.bias[rows], 1.001 * times * now.weight_error, 1.001 * times * now.bias_error
        )

    def _max_min(self, path: str, layer: nn.Module) -> None:
        """Use `max, min = (a + b)/2 +- |a - b|/2`: sums and differences before, halves of their own after."""
        first, second = _pairs(layer, self._positions())
        fold = torch.eye(math.prod(self.shape), dtype=torch.float64)
        fold[first, second], fold[second, first], fold[second, second] = 1.0, 1.0, -1.0
        self._append(_plain(fold), self.shape)
        differences = torch.zeros(len(fold), dtype=torch.bool)
        differences[second] = True
        slopes = _folded(differences, lambda low, high: two_slopes(low, high, -1.0))
        chords = _folded(differences, lambda near, low, high: two_slopes_from(near, low, high, -1.0))
        self._activate(Activation(path, _absolute(differences), slopes, chords))
        self._append(_plain(fold / 2), self.shape)


def _plain(weight: Float[Tensor, "rows columns"]) -> Affine:
    return Affine(weight, weight.new_zeros(len(weight)))


def _pairs(layer: nn.Module, positions: Tensor) -> tuple[Tensor, Tensor]:
    """Find which values are sorted against each other by sorting their positions: the larger comes first."""
    larger = layer(positions).flatten().long()
    smaller = layer(-positions).neg().flatten().long()
    return smaller[smaller < larger], larger[smaller < larger]


def _absolute(differences: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda values: torch.where(differences.to(values.device), values.abs(), values)


def _folded(differences: Tensor, rule: Callable[..., _Ends]) -> Callable[..., _Ends]:
    """Apply a rule for absolute values to the differences; the slopes of the sums are 1."""

    def slopes(*ends: Any) -> _Ends:
        least, greatest = rule(*ends)
        folded = differences.to(least.device)
        return torch.where(folded, least, 1.0), torch.where(folded, greatest, 1.0)

    return slopes
