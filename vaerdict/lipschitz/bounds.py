"""Proved upper bounds on the Lipschitz constant of a module (THEORY 3). An unknown layer is refused by name."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import _global_forward_hooks, _global_forward_pre_hooks
from torch.nn.utils import parametrize

from vaerdict.lipschitz.layers import MaxMin, Scale, Select
from vaerdict.lipschitz.spectral import bound_spectral_norm, round_up


class NoSoundBound(ValueError):
    """No Lipschitz constant is known for a layer; the message names the layer."""


@dataclass(frozen=True)
class Factor:
    """One layer's share of a bound: where it stands, what it is, its constant and where the constant comes from."""

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

    def __float__(self) -> float:
        return self.value

    def __str__(self) -> str:
        width = max((len(factor.path) for factor in self.factors), default=0)
        lines = [f"{f.path:<{width}}  {f.value:<12.6g} {f.layer}: {f.evidence}" for f in self.factors]
        return "\n".join([*lines, f"product {self.value:.6g}, in the L2 norm", *self.assumptions])


ASSUMPTIONS = (
    "holds for the weights as stored and exact arithmetic between layers; rounding of the evaluation is not included",
)
_Rule = Callable[[Any], tuple[float, str]]


def bound_lipschitz(module: nn.Module, input_shape: tuple[int, ...] | None = None, norm: float = 2) -> LipschitzBound:
    """Bound the L2 Lipschitz constant of a module in evaluation mode from above.

    Sequences multiply the constants of their layers; each layer's constant is proved, rounding included.

    Args:
        module: a layer or a (nested) `nn.Sequential` of layers.
        input_shape: shape of one input without the batch axis; no rule for the present layers depends on it.
        norm: only 2.

    Raises:
        NoSoundBound: names the first layer for which no bound is known, or whose weights are not finite.
        ValueError: `norm` is not 2.

    >>> float(bound_lipschitz(nn.Sequential(nn.Flatten(), nn.Sigmoid())))
    0.25
    """
    if norm != 2:
        raise ValueError(f"expected `norm` 2, got {norm}")
    factors = tuple(_factor(path, layer) for path, layer in _leaves("", module))
    product = _product([factor.value for factor in factors])
    if not math.isfinite(product):
        raise NoSoundBound(f"the product of the layers' constants is not finite: {product}")
    return LipschitzBound(product, factors, ASSUMPTIONS)


def _product(values: Sequence[float]) -> float:
    product = 1.0
    for value in values:
        exact = value in (0.0, 1.0) or product in (0.0, 1.0)
        product = product * value if exact else round_up(product * value)
    return product


def _leaves(path: str, module: nn.Module) -> list[tuple[str, nn.Module]]:
    _refuse_overrides(path, module)
    if type(module) is not nn.Sequential:
        return [(path, module)]
    # Not `named_children`, which leaves out a layer's second use.
    named = [
        (f"{path}.{name}" if path else name, child) for name, child in module._modules.items() if child is not None
    ]
    return [leaf for name, child in named for leaf in _leaves(name, child)]


def _refuse_overrides(path: str, module: nn.Module) -> None:
    hooks = (module._forward_hooks, module._forward_pre_hooks, _global_forward_hooks, _global_forward_pre_hooks)
    replaced = [name for name in vars(module) if callable(getattr(type(module), name, None))]
    if any(hooks) or replaced or module._compiled_call_impl is not None:
        raise NoSoundBound(
            f"layer {_title(path, module)} has hooks or replaced methods, which may change what it computes"
        )


def _title(path: str, module: nn.Module) -> str:
    return f"`{path}` ({_kind(module).__name__})" if path else f"({_kind(module).__name__})"


def _kind(module: nn.Module) -> type[nn.Module]:
    """Give the layer's class; a parametrised layer computes as the class it was made from, with the weight it shows."""
    kind = type(module)
    plain = parametrize.is_parametrized(module) and kind.forward is kind.__bases__[0].forward  # type: ignore[attr-defined]
    return kind.__bases__[0] if plain else kind


def _factor(path: str, module: nn.Module) -> Factor:
    kind = _kind(module)
    if kind not in _RULES:
        raise NoSoundBound(f"layer {_title(path, module)} has no Lipschitz bound")
    try:
        with torch.no_grad():
            _refuse_not_finite(module)
            value, evidence = _RULES[kind](module)
    except ValueError as error:
        raise NoSoundBound(f"layer {_title(path, module)} has no Lipschitz bound: {error}") from None
    return Factor(path, kind.__name__, value, evidence)


def _refuse_not_finite(module: nn.Module) -> None:
    for name, values in [*module.named_parameters(), *module.named_buffers()]:
        if not torch.isfinite(values).all():
            raise ValueError(f"expected finite weights, got NaN or infinity in {name!r}")


def _constant(value: float, evidence: str) -> _Rule:
    return lambda _: (value, evidence)


def _dense(layer: nn.Linear) -> tuple[float, str]:
    return bound_spectral_norm(layer.weight), "verified Cholesky"


def _overlap(layer: nn.Conv2d | nn.ConvTranspose2d) -> int:
    """Count how many of the kernel's placements can cover one pixel."""
    if isinstance(layer.padding, str) or layer.padding_mode != "zeros":
        raise ValueError(f"expected zero padding by numbers, got {layer.padding_mode} {layer.padding}")
    axes = zip(layer.weight.shape[2:], layer.stride, layer.dilation, strict=True)
    return math.prod(math.ceil(size / stride) if dilation == 1 else size for size, stride, dilation in axes)


def _convolution(layer: nn.Conv2d | nn.ConvTranspose2d) -> tuple[float, str]:
    """Bound by the kernel as a matrix on patches: the patches repeat a pixel at most `overlap` times.

    A transposed convolution is the adjoint of the convolution with the same weight, groups are blocks on a diagonal.
    """
    overlap = _overlap(layer)
    groups = layer.weight.flatten(1).chunk(layer.groups)
    norm = max(bound_spectral_norm(group) for group in groups)
    return round_up(norm * round_up(math.sqrt(overlap))), f"kernel matrix times sqrt({overlap})"


def _batch_norm(layer: nn.BatchNorm1d | nn.BatchNorm2d) -> tuple[float, str]:
    if layer.training or layer.running_var is None:
        raise ValueError("expected evaluation mode and running statistics")
    deviation = torch.sqrt(layer.running_var.double() + layer.eps)
    scale = torch.ones_like(deviation) if layer.weight is None else layer.weight.double()
    value = float((scale.abs() / deviation).max())
    if not math.isfinite(value):
        raise ValueError("expected finite weights, got NaN or infinity")
    return round_up(value, 4), "max |weight| / sqrt(var + eps)"


def _dropout(layer: nn.Dropout) -> tuple[float, str]:
    if layer.training:
        raise ValueError("expected evaluation mode")
    return 1.0, "identity in evaluation mode"


def _finite(value: float) -> float:
    if not math.isfinite(value):
        raise ValueError(f"expected a finite constant, got {value}")
    return value


def _softplus(layer: nn.Softplus) -> tuple[float, str]:
    # torch switches to the identity at beta * x = threshold: a jump of log1p(exp(-threshold)) / beta.
    if layer.beta <= 0 or layer.threshold < 40:
        raise ValueError("expected beta > 0 and threshold >= 40, below which the switch to the identity is a jump")
    return 1.0, "slope; the jump at the threshold is below float64 rounding"


def _gelu(layer: nn.GELU) -> tuple[float, str]:
    if layer.approximate != "none":
        raise ValueError("expected the exact GELU, got an approximation")
    return 1.129, "max slope 1.12890, rounded up"


_RULES: dict[type[nn.Module], _Rule] = {
    nn.Linear: _dense,
    nn.Conv2d: _convolution,
    nn.ConvTranspose2d: _convolution,
    nn.BatchNorm1d: _batch_norm,
    nn.BatchNorm2d: _batch_norm,
    nn.Dropout: _dropout,
    nn.Softplus: _softplus,
    nn.GELU: _gelu,
    Scale: lambda layer: (_finite(abs(float(layer.factor))), "|factor|"),
    nn.LeakyReLU: lambda layer: (max(1.0, _finite(abs(layer.negative_slope))), "max slope"),
    nn.ELU: lambda layer: (max(1.0, _finite(abs(layer.alpha))), "max slope"),
    nn.Sigmoid: _constant(0.25, "max slope"),
    nn.SiLU: _constant(1.1, "max slope 1.0998, rounded up"),
    **dict.fromkeys((nn.ReLU, nn.Tanh), _constant(1.0, "max slope")),
    **dict.fromkeys((nn.Identity, nn.Flatten, nn.Unflatten, nn.PixelShuffle), _constant(1.0, "moves values only")),
    Select: _constant(1.0, "drops values"),
    MaxMin: _constant(1.0, "sorts values"),
}
