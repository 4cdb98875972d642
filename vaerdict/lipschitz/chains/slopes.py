"""Slope intervals of activations: every chord between two points of an interval has its slope in them (THEORY 3).

By the mean value theorem the range of the derivative will do. Results are moved outward by more than the rounding of
their evaluation.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

_ROUNDING = 1e-13
_SATURATED = 700.0  # beyond it the derivatives are within _ROUNDING of their limits

# The derivative of SiLU turns at +-2.39935728..., where it is 1/2 +- 0.59983931...; that of GELU, Phi(x) + x phi(x),
# at +-sqrt(2), where it is 1/2 +- 0.62890415...
_SILU = (2.39935728, 0.5998394)
_GELU = (math.sqrt(2.0), 0.6289043)

_Interval = tuple[Tensor, Tensor]
SlopeRule = Callable[[Any, Tensor, Tensor], _Interval]


def slope_interval(
    layer: nn.Module, low: Float[Tensor, "*neurons"], high: Float[Tensor, "*neurons"]
) -> tuple[Float[Tensor, "*neurons"], Float[Tensor, "*neurons"]]:
    """Bound the slopes of an elementwise activation between any two points of `[low, high]`, in float64.

    Args:
        layer: one of the classes in `SLOPE_RULES`.
        low: lower ends; `-inf` and `inf` give the global interval.
        high: upper ends.

    Raises:
        ValueError: the layer's options are outside what is proved.

    >>> slope_interval(nn.ReLU(), torch.tensor([-1.0, 0.0]), torch.tensor([1.0, 2.0]))
    (tensor([0., 1.], dtype=torch.float64), tensor([1., 1.], dtype=torch.float64))
    """
    return SLOPE_RULES[type(layer)](layer, low.double(), high.double())


def chord_interval(
    layer: nn.Module,
    nearest: tuple[Float[Tensor, "*neurons"], Float[Tensor, "*neurons"]],
    low: Float[Tensor, "*neurons"],
    high: Float[Tensor, "*neurons"],
) -> tuple[Float[Tensor, "*neurons"], Float[Tensor, "*neurons"]]:
    """Bound the slopes of an elementwise activation from a point of `nearest` to any of `[low, high]`, in float64.

    Narrower than `slope_interval` where the activation has two slopes: a chord from far above 0 to little below it is
    nearly as steep as above.

    >>> ends = torch.tensor([-1.0]).double(), torch.tensor([5.0]).double()
    >>> chord_interval(nn.ReLU(), (torch.tensor([3.0]).double(),) * 2, *ends)
    (tensor([0.7500], dtype=torch.float64), tensor([1.], dtype=torch.float64))
    """
    if type(layer) is nn.ReLU:
        return two_slopes_from(nearest, low, high, 0.0)
    if type(layer) is nn.LeakyReLU:
        return two_slopes_from(nearest, low, high, _finite(layer.negative_slope))
    return slope_interval(layer, low, high)


def two_slopes(low: Tensor, high: Tensor, negative: float) -> _Interval:
    """Bound the slopes of a function that has slope `negative` below 0 and 1 above it."""
    one = torch.ones_like(low)  # two numbers would make float32
    at_low = torch.where(low >= 0, one, negative)
    at_high = torch.where(high <= 0, negative, one)
    return torch.minimum(at_low, at_high), torch.maximum(at_low, at_high)


def two_slopes_from(nearest: _Interval, low: Tensor, high: Tensor, negative: float) -> _Interval:
    """Bound the slopes of the same function's chords from a point of `nearest` to one of `[low, high]`.

    From `c > 0` to `y < 0` the slope is `s + (1 - s) negative` with `s = c / (c - y)`, from `c < 0` to `y > 0` it is
    `s negative + (1 - s)`. It is farthest from the slope at `c` where `s` is least: at the farthest `y`, from the `c`
    that is nearest to 0.
    """
    anywhere = two_slopes(low, high, negative)
    one, other = torch.ones_like(low), torch.full_like(low, negative)
    above = _share(nearest[0], -low)
    below = _share(-nearest[1], high)
    from_right = one, torch.lerp(other, one, above)
    from_left = other, torch.lerp(one, other, below)
    slack = _ROUNDING * (1.0 + abs(negative))
    ends = [
        torch.where(nearest[0] > 0, right, torch.where(nearest[1] < 0, left, end))
        for right, left, end in zip(_sorted(from_right), _sorted(from_left), anywhere, strict=True)
    ]
    return torch.maximum(ends[0] - slack, anywhere[0]), torch.minimum(ends[1] + slack, anywhere[1])


def _share(near: Tensor, far: Tensor) -> Tensor:
    """Give `near / (near + far)`, 1 where nothing is beyond 0; what is not above 0 is not used."""
    return torch.where(far > 0, (near / (near + far)).nan_to_num(0.0), 1.0)


def _sorted(pair: _Interval) -> _Interval:
    return torch.minimum(*pair), torch.maximum(*pair)


def _between(low: Tensor, high: Tensor, least: float, greatest: float) -> _Interval:
    return (low - _ROUNDING).clamp(least, greatest), (high + _ROUNDING).clamp(least, greatest)


def _bell(derivative: Callable[[Tensor], Tensor], peak: float) -> SlopeRule:
    """Handle an even derivative that falls away from 0."""

    def rule(_: nn.Module, low: Tensor, high: Tensor) -> _Interval:
        nearest = torch.where((low <= 0) & (high >= 0), torch.zeros_like(low), torch.minimum(low.abs(), high.abs()))
        farthest = torch.maximum(low.abs(), high.abs())
        return _between(derivative(farthest), derivative(nearest), 0.0, peak)

    return rule


def _turning(derivative: Callable[[Tensor], Tensor], turn: float, height: float) -> SlopeRule:
    """Handle a derivative `1/2 + odd` that rises between `-turn` and `turn`, to `1/2 + height`, and falls outside."""

    def rule(layer: nn.Module, low: Tensor, high: Tensor) -> _Interval:
        if getattr(layer, "approximate", "none") != "none":
            raise ValueError("expected the exact GELU, got an approximation")
        ends = [derivative(end.clamp(-_SATURATED, _SATURATED)) for end in (low, high)]
        least, greatest = _between(torch.minimum(*ends), torch.maximum(*ends), 0.5 - height, 0.5 + height)
        near = 1e-6  # how far the turning points may be from where they are said to be
        top = (low <= turn + near) & (high >= turn - near)
        bottom = (low <= near - turn) & (high >= -near - turn)
        return torch.where(bottom, 0.5 - height, least), torch.where(top, 0.5 + height, greatest)

    return rule


def _silu_slope(x: Tensor) -> Tensor:
    return torch.sigmoid(x) * (1.0 + x * torch.sigmoid(-x))


def _gelu_slope(x: Tensor) -> Tensor:
    return 0.5 * torch.erfc(-x / math.sqrt(2.0)) + x * torch.exp(-0.5 * x * x) / math.sqrt(2.0 * math.pi)


def _softplus(layer: nn.Softplus, low: Tensor, high: Tensor) -> _Interval:
    # torch switches to the identity at beta * x = threshold: a jump of log1p(exp(-threshold)) / beta.
    if not (0 < layer.beta < math.inf and layer.threshold >= 40):
        raise ValueError("expected beta > 0 and threshold >= 40, below which the switch to the identity is a jump")
    return _between(torch.sigmoid(layer.beta * low), torch.sigmoid(layer.beta * high), 0.0, 1.0)


def _elu(layer: nn.ELU, low: Tensor, high: Tensor) -> _Interval:
    """Bound the slope `alpha exp(x)` below 0, which is monotone, and 1 above it."""
    alpha = _finite(layer.alpha)
    slack = _ROUNDING * abs(alpha)
    at_low = torch.where(low >= 0, 1.0, alpha * torch.exp(low.clamp(max=0.0)))
    at_high = torch.where(high > 0, 1.0, alpha * torch.exp(high.clamp(max=0.0)))
    at_zero = torch.where((low < 0) & (high > 0), alpha, at_high)
    ends = torch.stack([at_low, at_high, at_zero])
    return ends.amin(0) - slack, ends.amax(0) + slack


def _finite(value: float) -> float:
    if not math.isfinite(value):
        raise ValueError(f"expected a finite slope, got {value}")
    return value


SLOPE_RULES: dict[type[nn.Module], SlopeRule] = {
    nn.ReLU: lambda _, low, high: two_slopes(low, high, 0.0),
    nn.LeakyReLU: lambda layer, low, high: two_slopes(low, high, _finite(layer.negative_slope)),
    nn.Tanh: _bell(lambda x: torch.cosh(x.clamp(max=_SATURATED)) ** -2, 1.0),
    nn.Sigmoid: _bell(lambda x: torch.sigmoid(x) * torch.sigmoid(-x), 0.25),
    nn.Softplus: _softplus,
    nn.ELU: _elu,
    nn.SiLU: _turning(_silu_slope, *_SILU),
    nn.GELU: _turning(_gelu_slope, *_GELU),
}
"""The elementwise activations whose slopes are known."""
