"""Proved upper bounds on the Lipschitz constant of a module (THEORY 3). An unknown layer is refused by name."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from vaerdict.lipschitz.floats import round_up
from vaerdict.lipschitz.graph.nodes import Graph, Node, NoSoundBound
from vaerdict.lipschitz.graph.trace import trace
from vaerdict.lipschitz.rules import Site, layer_constant


@dataclass(frozen=True)
class Factor:
    """One step's share of a bound: where it stands, what it is, its constant and where the constant comes from.

    For a sum or a concatenation the constant is that of all from the input up to there.
    """

    path: str
    layer: str
    value: float
    evidence: str


@dataclass(frozen=True)
class LipschitzBound:
    """A proved upper bound: `float()` gives the number, `print()` the factors as a table."""

    value: float
    factors: tuple[Factor, ...]
    assumptions: tuple[str, ...]
    norm: float = 2

    def __float__(self) -> float:
        return self.value

    def __str__(self) -> str:
        width = max((len(factor.path) for factor in self.factors), default=0)
        lines = [f"{f.path:<{width}}  {f.value:<12.6g} {f.layer}: {f.evidence}" for f in self.factors]
        name = "L2" if self.norm == 2 else "maximum"
        return "\n".join([*lines, f"product {self.value:.6g}, in the {name} norm", *self.assumptions])


ASSUMPTIONS = (
    "holds for the weights as stored and exact arithmetic between layers; rounding of the evaluation is not included",
)


def bound_lipschitz(module: nn.Module, input_shape: tuple[int, ...] | None = None, norm: float = 2) -> LipschitzBound:
    """Bound the Lipschitz constant of a module in evaluation mode from above.

    Layers in a row multiply their constants, sums add those of their terms, concatenations take the root of the sum of
    squares (the maximum in the maximum norm). Each layer's constant is proved, rounding included.

    Args:
        module: a layer, a (nested) `nn.Sequential`, or, with an `input_shape`, any module that `torch.fx` can trace.
        input_shape: shape of one input without the batch axis; makes the bounds of convolutions tighter.
        norm: 2, or `math.inf` for the maximum norm.

    Raises:
        NoSoundBound: names the first layer for which no bound is known, or whose weights are not finite; or says why
            the module cannot be traced.
        ValueError: another norm.

    >>> float(bound_lipschitz(nn.Sequential(nn.Flatten(), nn.Sigmoid())))
    0.25
    """
    if norm not in (2, math.inf):
        raise ValueError(f"expected `norm` 2 or math.inf, got {norm}")
    graph = trace(module, input_shape)
    factors: list[Factor] = []
    constants = [1.0]  # of the map from the input to each node
    for node in graph.nodes[1:]:
        factor = _factor(graph, node, [constants[i] for i in node.inputs], norm)
        factors.append(factor)
        joined = node.layer is None
        constants.append(factor.value if joined else multiply_up(factor.value, constants[node.inputs[0]]))
    if not math.isfinite(constants[-1]):
        raise NoSoundBound(f"the product of the layers' constants is not finite: {constants[-1]}")
    return LipschitzBound(constants[-1], tuple(factors), ASSUMPTIONS, norm)


def _factor(graph: Graph, node: Node, constants: Sequence[float], norm: float) -> Factor:
    if node.layer is None:
        value, evidence = _join(node.kind, constants, norm)
    else:
        value, evidence = layer_constant(node, Site(norm, graph.nodes[node.inputs[0]].shape))
    return Factor(node.path, node.name, value, evidence)


def _join(kind: str, constants: Sequence[float], norm: float) -> tuple[float, str]:
    if kind == "add":
        return add_up(constants), "sum of the constants up to here"
    if norm == math.inf:
        return max(constants), "largest of the constants up to here"
    squares = add_up([multiply_up(constant, constant) for constant in constants])
    return round_up(math.sqrt(squares)), "root of the sum of squares of the constants up to here"


def multiply_up(first: float, second: float) -> float:
    """Multiply two numbers >= 0, rounding up; exact where one of them is 0 or 1."""
    exact = {first, second} & {0.0, 1.0}
    return first * second if exact else round_up(first * second)


def add_up(values: Sequence[float]) -> float:
    """Add numbers >= 0, rounding up."""
    return round_up(math.fsum(values)) if sum(value != 0.0 for value in values) > 1 else math.fsum(values)
