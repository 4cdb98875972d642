"""What torch functions and tensor methods mean, as layers."""

import math
import operator
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

LAYERS: dict[Any, type[nn.Module]] = {
    # The arguments after the first are in the same order in the function and in the layer's constructor.
    **dict.fromkeys((F.relu, torch.relu, "relu"), nn.ReLU),
    **dict.fromkeys((F.sigmoid, torch.sigmoid, "sigmoid"), nn.Sigmoid),
    **dict.fromkeys((F.tanh, torch.tanh, "tanh"), nn.Tanh),
    F.leaky_relu: nn.LeakyReLU,
    F.elu: nn.ELU,
    F.silu: nn.SiLU,
    F.gelu: nn.GELU,
    F.softplus: nn.Softplus,
    F.avg_pool1d: nn.AvgPool1d,
    F.avg_pool2d: nn.AvgPool2d,
    F.interpolate: nn.Upsample,
    F.pixel_shuffle: nn.PixelShuffle,
    F.pixel_unshuffle: nn.PixelUnshuffle,
}
"""Functions that are layers."""

ADD = frozenset({operator.add, operator.iadd, torch.add, "add"})
SUBTRACT = frozenset({operator.sub, operator.isub, torch.sub, "sub"})
MULTIPLY = frozenset({operator.mul, operator.imul, torch.mul, "mul"})
DIVIDE = frozenset({operator.truediv, operator.itruediv, torch.div, "div"})
NEGATE = frozenset({operator.neg, torch.neg, "neg"})
CONCAT = frozenset({torch.cat, torch.concat})
IN_PLACE = frozenset({operator.iadd, operator.isub, operator.imul, operator.itruediv})
ARITHMETIC = ADD | SUBTRACT | MULTIPLY | DIVIDE | NEGATE
FRESH = (ARITHMETIC | CONCAT) - IN_PLACE
"""Functions whose result shares no memory with what they read."""

SEVERAL = frozenset({"chunk", "split", "unbind"})
_MOVES = (
    *("flatten", "reshape", "view", "permute", "transpose", "squeeze", "unsqueeze", "contiguous", "unflatten"),
    *("narrow", "select", *SEVERAL),
)
MOVES: dict[Any, str] = {
    **{name: name for name in _MOVES},
    **{getattr(torch, name): name for name in _MOVES if hasattr(torch, name)},
}
"""Functions and methods that move or select values and repeat none, by the name of the tensor's method."""


def is_basic_index(index: Any) -> bool:
    """Tell whether an index selects every value at most once: numbers, slices, `...` and `None`.

    >>> is_basic_index((slice(None), 0)), is_basic_index([0, 0])
    (True, False)
    """
    parts = index if isinstance(index, tuple) else (index,)
    return all(part is None or part is Ellipsis or type(part) in (int, slice) for part in parts)


def as_number(constant: Any) -> float:
    """Give the value of a number or a tensor of one element.

    Raises:
        ValueError: there are several values, or it is not finite.
    """
    if isinstance(constant, Tensor) and constant.numel() != 1:
        raise ValueError(f"expected one factor, got a tensor of shape {tuple(constant.shape)}")
    value = float(constant)
    if isinstance(constant, int) and int(value) != constant:
        raise ValueError(f"expected a factor that float64 holds, got {constant}")
    if not math.isfinite(value):
        raise ValueError(f"expected a finite factor, got {value}")
    return value


def reciprocal(value: float) -> float:
    """Give `1 / value`, rounded away from zero where it is not a float64.

    >>> reciprocal(4.0), Fraction(reciprocal(3.0)) > Fraction(1, 3)
    (0.25, True)
    """
    inverse = 1.0 / value
    exact = Fraction(inverse) * Fraction(value) == 1
    return inverse if exact else math.nextafter(inverse, math.copysign(math.inf, inverse))
