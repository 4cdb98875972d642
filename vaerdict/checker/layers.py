"""What each known layer is: its shape, its Lipschitz constant and its matrix, all without torch."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from vaerdict.checker.convolution import MOST_ENTRIES, convolution_matrix, output_sizes
from vaerdict.checker.printed import Call
from vaerdict.checker.spectral import bound_matrix_norm

Shape = tuple[int, ...]


class Unknown(Exception):
    """This layer cannot be recomputed here; the message says why."""


@dataclass(frozen=True)
class Layer:
    """One layer: as printed, its tensors in float64, and the shape of its input without the batch axis."""

    call: Call
    shape: Shape
    tensors: dict[str, np.ndarray] = field(default_factory=dict)

    def option(self, name: str, place: int, default: Any) -> Any:
        """Give an argument by its name, or by its place among those printed without a name."""
        given = self.call.by_position
        return self.call.by_name.get(name, given[place] if 0 <= place < len(given) else default)

    @property
    def is_linear(self) -> bool:
        """Whether it is a matrix and a bias."""
        return self.call.kind in ("Linear", *_CONVOLUTIONS)

    @cached_property
    def output_shape(self) -> Shape:
        """The shape of its output.

        Raises:
            Unknown: it is not known here.
        """
        rule = _SHAPES.get(self.call.kind)
        if rule is not None:
            return rule(self)
        if self.call.kind in _SLOPES:
            return self.shape
        raise Unknown(f"the shape that {self.call.kind} gives is not known here")

    @cached_property
    def matrix(self) -> np.ndarray:
        """The matrix of a linear layer, rows for outputs.

        Raises:
            Unknown: it is too large to be written out.
        """
        if self.call.kind == "Linear":
            return self.tensors["weight"]
        return _convolution(self)

    def bound(self) -> float:
        """Bound its Lipschitz constant in L2 from above.

        Raises:
            Unknown: there is no rule for it here.
        """
        return self._bound

    @cached_property
    def _bound(self) -> float:
        if self.is_linear:
            return bound_matrix_norm(self.matrix)
        rule = _SLOPES.get(self.call.kind)
        if rule is None:
            raise Unknown(f"no constant of {self.call.kind} is known here")
        return rule(self)


def _conv(layer: Layer) -> dict[str, Any]:
    axes = layer.tensors["weight"].ndim - 2
    padding = layer.option("padding", -1, (0,) * axes)
    if not isinstance(padding, tuple) or layer.option("padding_mode", -1, "zeros") not in ("zeros", "circular"):
        raise Unknown(f"the padding of {layer.call.kind} is not known here")
    return {
        "stride": layer.option("stride", -1, (1,) * axes),
        "padding": padding,
        "dilation": layer.option("dilation", -1, (1,) * axes),
    }


def _conv_shape(layer: Layer) -> Shape:
    weight, facts = layer.tensors["weight"], _conv(layer)
    sizes, kernel = layer.shape[1:], weight.shape[2:]
    if not layer.call.kind.startswith("ConvTranspose"):
        return weight.shape[0], *output_sizes(sizes, kernel, **facts)
    extra = layer.option("output_padding", -1, (0,) * len(sizes))
    sides = zip(sizes, kernel, *facts.values(), extra, strict=True)
    groups = layer.option("groups", -1, 1)
    return weight.shape[1] * groups, *((n - 1) * s - 2 * p + d * (k - 1) + e + 1 for n, k, s, p, d, e in sides)


def _convolution(layer: Layer) -> np.ndarray:
    """Write a convolution out; a transposed one is the transpose of the convolution with the same weights."""
    if math.prod(layer.shape) * math.prod(layer.output_shape) > MOST_ENTRIES:
        raise Unknown(f"{layer.call.kind} is too large to be written out as a matrix")
    facts: dict[str, Any] = {**_conv(layer), "groups": layer.option("groups", -1, 1)}
    weight = layer.tensors["weight"]
    if layer.call.kind.startswith("ConvTranspose"):
        return convolution_matrix(weight, layer.output_shape[1:], **facts, output=layer.shape[1:]).T
    circular = layer.option("padding_mode", -1, "zeros") == "circular"
    return convolution_matrix(weight, layer.shape[1:], **facts, circular=circular)


def batch_norm_factors(layer: Layer) -> np.ndarray:
    """Give what a batch normalisation multiplies each channel by, but for a few roundings.

    Raises:
        Unknown: it depends on the batch.
    """
    if "running_var" not in layer.tensors:
        raise Unknown("batch normalisation without running statistics depends on the batch")
    deviation = np.sqrt(layer.tensors["running_var"] + layer.option("eps", 1, 1e-5))
    return layer.tensors.get("weight", np.ones_like(deviation)) / deviation


def _batch_norm(layer: Layer) -> float:
    return float(np.max(np.abs(batch_norm_factors(layer)))) * (1 + 1e-15)


def _by(name: str, default: float) -> Callable[[Layer], float]:
    return lambda layer: max(1.0, abs(float(layer.option(name, 0, default))))


def _softplus(layer: Layer) -> float:
    if not (layer.option("beta", 0, 1.0) > 0 and layer.option("threshold", 1, 20.0) >= 40):
        raise Unknown("Softplus jumps where it switches to the identity, unless its threshold is >= 40")
    return 1.0


def _gelu(layer: Layer) -> float:
    if layer.option("approximate", 0, "none") != "none":
        raise Unknown("only the exact GELU is known here")
    return 1.1289043


def _always(value: float) -> Callable[[Layer], float]:
    return lambda layer: value


def _flat(layer: Layer) -> Shape:
    start, end = layer.option("start_dim", 0, 1), layer.option("end_dim", 1, -1)
    if (start, end) != (1, -1):
        raise Unknown("only the flattening of all axes is known here")
    return (math.prod(layer.shape),)


def _unflat(layer: Layer) -> Shape:
    sizes = tuple(layer.option("unflattened_size", 1, ()))
    if layer.option("dim", 0, None) != 1 or math.prod(sizes) != layer.shape[0]:
        raise Unknown("only the unflattening of axis 1 into given sizes is known here")
    return *sizes, *layer.shape[1:]


def selected(layer: Layer) -> slice:
    """Give the channels that a `Select` keeps."""
    return slice(layer.option("start", 0, 0), layer.option("stop", 1, None))


_CONVOLUTIONS = ("Conv1d", "Conv2d", "ConvTranspose1d", "ConvTranspose2d")
_SLOPES: dict[str, Callable[[Layer], float]] = {
    **dict.fromkeys(("ReLU", "Tanh", "MaxMin", "GroupSort", "Householder"), _always(1.0)),
    **dict.fromkeys(("Identity", "Flatten", "Unflatten", "Select", "Dropout", "Dropout2d"), _always(1.0)),
    "Sigmoid": _always(0.25),
    "SiLU": _always(1.0998394),
    "GELU": _gelu,
    "Softplus": _softplus,
    "LeakyReLU": _by("negative_slope", 0.01),
    "ELU": _by("alpha", 1.0),
    "BatchNorm1d": _batch_norm,
    "BatchNorm2d": _batch_norm,
    "Scale": lambda layer: abs(float(layer.option("factor", 0, None))),
}
"""Constants in L2: the largest slope of an activation; 1 for what sorts, reflects, moves or drops values."""

_SHAPES: dict[str, Callable[[Layer], Shape]] = {
    "Linear": lambda layer: (*layer.shape[:-1], layer.tensors["weight"].shape[0]),
    **dict.fromkeys(_CONVOLUTIONS, _conv_shape),
    "Flatten": _flat,
    "Unflatten": _unflat,
    "Select": lambda layer: (len(range(layer.shape[0])[selected(layer)]), *layer.shape[1:]),
}
