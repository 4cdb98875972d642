"""What a graph of layers is made of."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize


class NoSoundBound(ValueError):
    """No bound is known; the message names the layer and says why."""


def kind_of(layer: nn.Module) -> type[nn.Module]:
    """Give the layer's class; a parametrised layer computes as the class it was made from, with the weight it shows.

    >>> kind_of(nn.utils.parametrizations.spectral_norm(nn.Linear(2, 2))).__name__
    'Linear'
    """
    kind = type(layer)
    added = {name for name, value in vars(kind).items() if callable(value)} - {"__getstate__", "__deepcopy__"}
    made_by_torch = kind.__name__ == f"Parametrized{kind.__bases__[0].__name__}" and not added
    return kind.__bases__[0] if parametrize.is_parametrized(layer) and made_by_torch else kind


@dataclass(frozen=True)
class Node:
    """One step of an evaluation.

    Attributes:
        path: where the layer stands in the module, for messages.
        kind: `input`, `layer`, `add` or `concat`.
        layer: the layer; a torch function stands as the equal module.
        inputs: indices of the nodes it reads.
        shape: of its output without the batch axis; None where no input shape was given.
        dimension: the axis joined by `concat`, counted with the batch axis.
    """

    path: str
    kind: str
    layer: nn.Module | None = None
    inputs: tuple[int, ...] = ()
    shape: tuple[int, ...] | None = None
    dimension: int | None = None

    @property
    def name(self) -> str:
        """The layer's class, or the kind of the node."""
        return self.kind if self.layer is None else kind_of(self.layer).__name__

    @property
    def title(self) -> str:
        """The node in a message."""
        return f"`{self.path}` ({self.name})" if self.path else f"({self.name})"

    def evaluate(self, arguments: Sequence[Tensor]) -> Tensor:
        """Compute the value from those of `inputs`."""
        if self.layer is not None:
            return self.layer(*arguments)
        if self.kind == "add":
            return sum(arguments[1:], start=arguments[0])
        assert self.dimension is not None  # of a concatenation
        return torch.cat(list(arguments), self.dimension)


@dataclass(frozen=True)
class Graph:
    """Nodes in the order of evaluation: the first is the input, the last the output."""

    nodes: tuple[Node, ...]

    def run(self, inputs: Tensor) -> list[Tensor]:
        """Give the value of every node for inputs `[batch, ...]`."""
        values = [inputs]
        for node in self.nodes[1:]:
            values.append(node.evaluate([values[i] for i in node.inputs]))
        return values


def layers_in_a_row(graph: Graph) -> list[Node]:
    """Give the layers of a graph in which nothing branches.

    Raises:
        NoSoundBound: there is a sum or a concatenation, or a value that is used twice.
    """
    for index, node in enumerate(graph.nodes[1:]):
        if node.inputs != (index,):
            raise NoSoundBound(f"{node.title} joins or branches, where layers in a row are expected")
    return list(graph.nodes[1:])


def first_features(graph: Graph) -> tuple[int, ...]:
    """Give the input's shape where the first layer shows it: a dense one, flattening apart.

    Raises:
        NoSoundBound: it does not.
    """
    for node in graph.nodes[1:]:
        if isinstance(node.layer, nn.Linear):
            return (node.layer.weight.shape[1],)
        if not isinstance(node.layer, nn.Flatten | nn.Identity):
            break
    raise NoSoundBound("expected `input_shape`, which the first layer does not show")
