"""A user's module as one graph of layers; exponentials and roots of standard deviations, too, become layers."""

import copy
from dataclasses import dataclass, replace

from torch import nn

from vaerdict.certify.propagation.pieces import Exponential, Root
from vaerdict.lipschitz import NoSoundBound, Scale, remove_parametrizations, trace
from vaerdict.lipschitz.graph.nodes import Graph, Node
from vaerdict.models.gaussian import HalfExponential, SquareRoot

_LAST = (HalfExponential, SquareRoot)


@dataclass(frozen=True)
class Parts:
    """A module cut before the function that makes a standard deviation of its values.

    Attributes:
        body: everything before it.
        last: the function, or None.
        after: what moves its values afterwards.
    """

    body: nn.Sequential
    last: nn.Module | None
    after: nn.Sequential


def cut(module: nn.Module) -> Parts:
    """Copy a module without parametrisations, and cut it.

    Raises:
        NoSoundBound: something but `nn.Flatten` and `nn.Identity` follows the function.

    >>> cut(nn.Sequential(nn.Linear(2, 2), HalfExponential())).last
    HalfExponential()
    """
    duplicate = copy.deepcopy(module).eval().requires_grad_(False)
    remove_parametrizations(duplicate)
    layers = _children(duplicate)
    places = [i for i, layer in enumerate(layers) if isinstance(layer, _LAST)]
    if not places:
        return Parts(nn.Sequential(*layers), None, nn.Sequential())
    body, after = layers[: places[0]], layers[places[0] + 1 :]
    if not all(type(layer) in (nn.Flatten, nn.Identity) for layer in after):
        raise NoSoundBound(f"expected {layers[places[0]]} last, which is followed by more layers")
    return Parts(nn.Sequential(*body), layers[places[0]], nn.Sequential(*after))


def _children(module: nn.Module) -> list[nn.Module]:
    if type(module) is not nn.Sequential or module._forward_hooks or module._forward_pre_hooks:
        return [module]
    return [layer for child in module for layer in _children(child)]


def read(parts: Parts, input_shape: tuple[int, ...]) -> Graph:
    """Give the graph of layers of a cut module, with a shape at every node, and one axis at the last.

    Raises:
        NoSoundBound: the module cannot be traced.
    """
    nodes = list(trace(parts.body, input_shape).nodes) if len(parts.body) else [Node("", "input", shape=input_shape)]
    if isinstance(parts.last, HalfExponential):
        nodes.append(_next(nodes, "std", Scale(0.5)))
        nodes.append(_next(nodes, "std", Exponential()))
    elif parts.last is not None:
        nodes.append(_next(nodes, "std", Root()))
    shape = nodes[-1].shape
    assert shape is not None  # an input shape was given
    if len(shape) != 1:
        size = 1
        for length in shape:
            size *= length
        nodes.append(replace(_next(nodes, "flat", nn.Flatten()), shape=(size,)))
    return Graph(tuple(nodes))


def _next(nodes: list[Node], path: str, layer: nn.Module) -> Node:
    return Node(path, "layer", layer, (len(nodes) - 1,), nodes[-1].shape)
