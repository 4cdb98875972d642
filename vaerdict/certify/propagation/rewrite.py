"""A graph of layers, rewritten into the few operations that the backend is trusted with."""

import math
from collections import Counter
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vaerdict.certify.propagation.affine import AFFINE, affine_step
from vaerdict.certify.propagation.pieces import Dense, Exponential, Gate, Join, Network, Root, SmoothRamp, Sum, Swish
from vaerdict.lipschitz import MaxMin, NoSoundBound
from vaerdict.lipschitz.graph.nodes import Graph, Node, kind_of

_NO_JUMP = 40  # a Softplus with a lower threshold jumps there, and is not the function that is bounded
_AS_THEY_ARE = (nn.ReLU, nn.Sigmoid, nn.Tanh, Exponential, Root)


@dataclass(frozen=True)
class Run:
    """Consecutive nodes that become one step: affine layers, or a single node of any other kind."""

    nodes: tuple[Node, ...]
    affine: bool


def rewrite(graph: Graph) -> Network:
    """Rewrite a graph whose layers are in float64.

    The input is read by one linear operation, an identity where there is none: with L2 balls the backend is unsound
    for every other first operation.

    Raises:
        NoSoundBound: a layer that is not converted.

    >>> from vaerdict.lipschitz import trace
    >>> len(rewrite(trace(nn.Sequential(nn.ReLU(), nn.Linear(2, 3)).double(), (2,))).steps)
    3
    """
    runs = _runs(graph)
    input_shape = _shape(graph.nodes[0])
    readers = [index for index, run in runs.items() if 0 in run.nodes[0].inputs]
    steps: list[nn.Module] = []
    sources: list[tuple[int, ...]] = []
    sizes = [math.prod(input_shape)]
    place = {0: 0}
    made = {index: _step(run, _shape(graph.nodes[run.nodes[0].inputs[0]])) for index, run in runs.items()}
    if len(readers) != 1 or not isinstance(made[readers[0]], nn.Linear | nn.Conv2d | Dense):
        steps, sources, sizes, place = [affine_step([], input_shape, input_shape)], [(0,)], sizes * 2, {0: 1}
    for index, run in runs.items():
        inputs = run.nodes[0].inputs
        steps.append(made[index])
        sources.append(tuple(place[i] for i in inputs))
        sizes.append(math.prod(_shape(run.nodes[-1])))
        place[index] = len(steps)
    if getattr(steps[0], "flatten", False):  # flattened outside, so that the linear operation is the very first
        steps[0].flatten, input_shape = False, (sizes[0],)  # type: ignore[assignment]
    return Network(steps, sources, input_shape, sizes)


def _runs(graph: Graph) -> dict[int, Run]:
    """Join affine layers that only feed one another; keys are the indices of the last nodes."""
    readers = Counter(i for node in graph.nodes for i in node.inputs)
    runs: dict[int, Run] = {}
    for index, node in enumerate(graph.nodes[1:], 1):
        affine = node.layer is not None and kind_of(node.layer) in AFFINE
        before = runs.get(node.inputs[0])
        if affine and before is not None and before.affine and readers[node.inputs[0]] == 1:
            del runs[node.inputs[0]]
            runs[index] = Run((*before.nodes, node), True)
        else:
            runs[index] = Run((node,), affine)
    if not runs:
        raise NoSoundBound("expected a module with a layer")
    return runs


def _step(run: Run, inputs: tuple[int, ...]) -> nn.Module:
    node = run.nodes[0]
    if run.affine:
        layers = [one.layer for one in run.nodes if one.layer is not None]
        return affine_step(layers, inputs, _shape(run.nodes[-1]))
    if node.kind == "add":
        return Sum()
    if node.kind == "concat":
        assert node.dimension is not None  # of a concatenation
        return Join(node.dimension)
    assert node.layer is not None  # of a layer
    return _activation(node, node.layer, inputs)


def _activation(node: Node, layer: nn.Module, shape: tuple[int, ...]) -> nn.Module:
    kind = kind_of(layer)
    if kind in _AS_THEY_ARE:
        return kind()
    if kind is nn.SiLU:
        return Swish()
    if isinstance(layer, nn.Softplus) and kind is nn.Softplus and layer.beta == 1 and layer.threshold >= _NO_JUMP:
        return SmoothRamp()
    if isinstance(layer, nn.LeakyReLU) and kind is nn.LeakyReLU:
        return _leaky(node, layer.negative_slope, shape)
    if isinstance(layer, MaxMin) and kind is MaxMin:
        return _max_min(node, layer.axis, shape)
    raise NoSoundBound(f"layer {node.title} is not converted for bound propagation")


def _leaky(node: Node, slope: float, shape: tuple[int, ...]) -> Gate:
    """Give `y + (1 - slope) relu(-y)`: the backend's own bounds for LeakyReLU are unsound in 0.7.1 (Forward)."""
    _refuse_other_axes(node, shape)
    unit = torch.eye(shape[0], dtype=torch.float64)
    return Gate(_linear(-unit, len(shape)), _linear((1.0 - slope) * unit, len(shape)))


def _max_min(node: Node, axis: int, shape: tuple[int, ...]) -> Gate:
    """Give `(a, b) + (1, -1) relu(b - a)`."""
    _refuse_other_axes(node, shape, axis)
    unit = torch.eye(shape[0] // 2, dtype=torch.float64)
    difference = torch.stack([-unit, unit], 2).flatten(1)
    return Gate(_linear(difference, len(shape)), _linear(-difference.T, len(shape)))


def _refuse_other_axes(node: Node, shape: tuple[int, ...], axis: int = 1) -> None:
    if axis % (len(shape) + 1) != 1 or len(shape) not in (1, 3):
        raise NoSoundBound(
            f"layer {node.title} on axis {axis} of values {shape} is not converted for bound propagation"
        )


def _linear(matrix: Tensor, axes: int) -> nn.Module:
    """Give a matrix on the channels as a layer without offset: dense, or a convolution with kernels of one pixel."""
    outputs, inputs = matrix.shape
    layer: nn.Linear | nn.Conv2d = nn.Linear(inputs, outputs, bias=False, dtype=torch.float64)
    if axes == 3:
        layer = nn.Conv2d(inputs, outputs, 1, bias=False, dtype=torch.float64)
    layer.requires_grad_(False).weight.copy_(matrix.view_as(layer.weight))
    return layer


def _shape(node: Node) -> tuple[int, ...]:
    assert node.shape is not None  # an input shape was given
    return node.shape
