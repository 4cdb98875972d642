"""The Lipschitz constant of each layer (THEORY 3), in the L2 and in the maximum norm, by the layer's exact class."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vaerdict.lipschitz.floats import UNIT, round_up
from vaerdict.lipschitz.graph.nodes import Node, NoSoundBound, kind_of
from vaerdict.lipschitz.layers import ConvexPotential, GroupSort, Householder, MaxMin, Scale, Select
from vaerdict.lipschitz.layers.attention import BallAttention, L2SelfAttention
from vaerdict.lipschitz.layers.elementary import Move, Shift
from vaerdict.lipschitz.norms.attention import bound_ball_attention, bound_l2_attention
from vaerdict.lipschitz.norms.convolution import bound_convolution_norm
from vaerdict.lipschitz.norms.infinity import bound_inf_norm, bound_inf_norm_of_convolution
from vaerdict.lipschitz.norms.placement import ConvolutionLayer
from vaerdict.lipschitz.norms.schur import bound_kernel_norm
from vaerdict.lipschitz.norms.spectral import bound_spectral_norm

_LARGEST = 4096  # pixels of a channel that is written out


@dataclass(frozen=True)
class Site:
    """Where a layer's constant is asked for: the norm, 2 or infinity, and the shape of its input, where known."""

    norm: float
    shape: tuple[int, ...] | None


Rule = Callable[[Any, Site], tuple[float, str]]
"""From a layer and its site to the constant and where it comes from; raises ValueError where there is none."""


def layer_constant(node: Node, site: Site) -> tuple[float, str]:
    """Bound the Lipschitz constant of one layer.

    Raises:
        NoSoundBound: names the layer, and says why there is no bound.
    """
    layer = node.layer
    assert layer is not None
    kind = kind_of(layer)
    try:
        if kind not in RULES:
            raise ValueError(INSTEAD.get(kind, "no constant is known for layers of this class"))
        with torch.no_grad():
            _refuse_bad_weights(layer)
            value, evidence = RULES[kind](layer, site)
            if not math.isfinite(value):
                raise ValueError(f"expected a finite constant, got {value}")
    except ValueError as error:
        raise NoSoundBound(f"layer {node.title} has no Lipschitz bound: {error}") from None
    return value, evidence


def _refuse_bad_weights(layer: nn.Module) -> None:
    for name in getattr(layer, "parametrizations", ()):
        if not torch.equal(getattr(layer, name), getattr(layer, name)):
            raise ValueError(f"expected a parametrisation that always gives the same {name!r}, and finite weights")
    for name, values in [*layer.named_parameters(), *layer.named_buffers()]:
        if type(values) not in (Tensor, nn.Parameter, nn.Buffer):
            raise ValueError(f"expected plain tensors, got {type(values).__name__} in {name!r}")
        if values.is_complex():
            raise ValueError(f"expected real weights, got complex ones in {name!r}")
        if not torch.isfinite(values).all():
            raise ValueError(f"expected finite weights, got NaN or infinity in {name!r}")


def _constant(value: float, evidence: str) -> Rule:
    return lambda layer, site: (value, evidence)


def _dense(layer: nn.Linear, site: Site) -> tuple[float, str]:
    if site.norm == 2:
        return bound_spectral_norm(layer.weight), "verified Cholesky"
    return bound_inf_norm(layer.weight), "largest sum of a row"


def _convolution(layer: ConvolutionLayer, site: Site) -> tuple[float, str]:
    if site.norm == 2:
        known = bound_convolution_norm(layer, site.shape)
        return known if site.shape or not _one_stride(layer) else min(known, _by_schur(layer))
    return bound_inf_norm_of_convolution(layer, site.shape), "largest sum of an output's weights"


def _one_stride(layer: ConvolutionLayer) -> bool:
    images = layer.weight.ndim == 4 and layer.padding_mode == "zeros" and layer.groups == 1
    return images and layer.stride[0] == layer.stride[-1] and set(layer.dilation) == {1}


def _by_schur(layer: ConvolutionLayer) -> tuple[float, str]:
    return bound_kernel_norm(layer.weight, layer.stride[0]), "Schur's test on the kernel"


def _convex_potential(layer: ConvexPotential, site: Site) -> tuple[float, str]:
    if site.norm != 2:
        raise ValueError("a constant is known in the L2 norm only")
    kernel, evidence = _convolution(layer.convolution(), site)
    return (
        1.0 if kernel <= 1.0 else round_up(2.0 * kernel * kernel - 1.0, 4)
    ), f"max(1, 2 |K|^2 - 1), |K| by {evidence}"


def _batch_norm(layer: nn.BatchNorm1d | nn.BatchNorm2d, site: Site) -> tuple[float, str]:
    if layer.training or layer.running_var is None:
        raise ValueError("expected evaluation mode and running statistics")
    if (layer.running_var < 0).any():
        raise ValueError("expected running variances >= 0")
    deviation = torch.sqrt(layer.running_var.double() + layer.eps)
    scale = torch.ones_like(deviation) if layer.weight is None else layer.weight.double()
    value = float((scale.abs() / deviation).max())
    return round_up(value, 4), "max |weight| / sqrt(var + eps)"


def _normalisation(layer: nn.GroupNorm | nn.LayerNorm, site: Site) -> tuple[float, str]:
    """Bound the slope of `(y - mean) / sqrt(var + eps)` by that at `var = 0`, the steepest."""
    if site.norm != 2:
        raise ValueError("a constant is known in the L2 norm only")
    if not layer.eps > 0:
        raise ValueError("expected eps > 0")
    largest = 1.0 if layer.weight is None else float(layer.weight.double().abs().max())
    return round_up(largest / math.sqrt(layer.eps), 4), "max |weight| / sqrt(eps): true, and too large to be of use"


def _in_evaluation(layer: nn.Module, site: Site) -> tuple[float, str]:
    if layer.training:
        raise ValueError("expected evaluation mode")
    return 1.0, "identity in evaluation mode"


def _softplus(layer: nn.Softplus, site: Site) -> tuple[float, str]:
    # torch switches to the identity at beta * x = threshold: a jump of log1p(exp(-threshold)) / beta.
    if not (layer.beta > 0 and layer.threshold >= 40):
        raise ValueError("expected beta > 0 and threshold >= 40, below which the switch to the identity is a jump")
    return 1.0, "slope; the jump at the threshold is below float64 rounding"


def _gelu(layer: nn.GELU, site: Site) -> tuple[float, str]:
    if layer.approximate != "none":
        raise ValueError("expected the exact GELU, got an approximation")
    return 1.129, "max slope 1.12890, rounded up"


def _average_pool(layer: nn.AvgPool1d | nn.AvgPool2d, site: Site) -> tuple[float, str]:
    """Bound as the convolution of each channel with a constant kernel, of the sizes that were given."""
    axes = 1 if isinstance(layer, nn.AvgPool1d) else 2
    if site.shape is not None and len(site.shape) != axes + 1:
        raise ValueError(f"expected inputs with channels and {axes} axes, got shape {site.shape}")
    kernel, stride, padding = (_per_axis(sizes, axes) for sizes in (layer.kernel_size, layer.stride, layer.padding))
    if getattr(layer, "divisor_override", None) is not None:
        raise ValueError("expected no `divisor_override`")
    if site.norm != 2:
        return 1.0, "an average"
    if layer.ceil_mode or (any(padding) and not layer.count_include_pad):
        return _cut_windows(layer, site)
    make = nn.Conv1d if axes == 1 else nn.Conv2d
    mean = make(1, 1, kernel, stride, padding, bias=False, dtype=torch.float64)  # type: ignore[arg-type]
    nn.init.constant_(mean.weight, round_up(1.0 / math.prod(kernel)))
    value, evidence = bound_convolution_norm(mean, None if site.shape is None else (1, *site.shape[1:]))
    return value, f"as a convolution: {evidence}"


def _cut_windows(layer: nn.AvgPool1d | nn.AvgPool2d, site: Site) -> tuple[float, str]:
    """Write the means of one channel out: windows cut at the border average fewer pixels."""
    if site.shape is None or math.prod(site.shape[1:]) > _LARGEST:
        raise ValueError(f"windows are cut at the border: expected `input_shape` with at most {_LARGEST} pixels")
    pixels = torch.eye(math.prod(site.shape[1:]), dtype=torch.float64).reshape(-1, 1, *site.shape[1:])
    return bound_spectral_norm(layer(pixels).flatten(1), relative_error=4.0 * UNIT), "verified Cholesky of one channel"


def _per_axis(sizes: int | tuple[int, ...], axes: int) -> tuple[int, ...]:
    return (sizes,) * axes if isinstance(sizes, int) else tuple(sizes)


def _upsample(layer: nn.Upsample, site: Site) -> tuple[float, str]:
    """Count how often a pixel is repeated."""
    if layer.mode != "nearest":
        raise ValueError(f"expected mode 'nearest', got {layer.mode!r}")
    if site.norm != 2:
        return 1.0, "repeats values"
    factor: Any = layer.scale_factor
    factors = list(factor) if isinstance(factor, tuple) else [factor]
    if layer.size is not None or not all(float(one).is_integer() for one in factors):
        raise ValueError("expected whole numbers as `scale_factor`, which repeat every value equally often")
    if not isinstance(factor, tuple):
        if site.shape is None:
            raise ValueError("the repetitions depend on the number of axes: give `input_shape`")
        factors *= len(site.shape) - 1
    for one, size in zip(factors, (site.shape or ())[1:] or (None,) * len(factors), strict=True):
        _refuse_uneven(int(one), size)
    times = math.prod(int(one) for one in factors)
    root = math.isqrt(times)
    return (float(root) if root * root == times else round_up(math.sqrt(times))), f"every value {times} times"


def _refuse_uneven(factor: int, size: int | None) -> None:
    """Refuse factors for which torch's division in floating point repeats some values once more than others."""
    if factor & (factor - 1) == 0:
        return
    if size is None:
        raise ValueError(f"a factor of {factor} may repeat values unevenly, depending on the size: give `input_shape`")
    for dtype in (torch.float32, torch.float64):
        places = torch.arange(size, dtype=dtype)
        repeated = nn.functional.interpolate(places[None, None], scale_factor=float(factor))[0, 0]
        if not torch.equal(repeated, places.repeat_interleave(factor)):
            raise ValueError(f"the factor {factor} repeats some of {size} values more often than others")


def _at_least_one(slope: float) -> tuple[float, str]:
    if not math.isfinite(slope):
        raise ValueError(f"expected a finite slope, got {slope}")
    return max(1.0, abs(slope)), "max slope"


def _sort(layer: MaxMin | GroupSort | Householder, site: Site) -> tuple[float, str]:
    """Refuse to sort across the batch; sorting and reflecting keep distances or shrink them."""
    if layer.axis == 0 or (site.shape is not None and layer.axis == -len(site.shape) - 1):
        raise ValueError("expected `axis` other than the batch's")
    if isinstance(layer, Householder):
        if layer.angle.shape != (layer.features // 2,):
            raise ValueError(f"expected {layer.features // 2} angles, got shape {tuple(layer.angle.shape)}")
        if site.norm == 2:
            return 1.0, "reflects pairs"
        return round_up(math.sqrt(2.0)), "reflects pairs, in which |cos| + |sin| is at most sqrt(2)"
    return 1.0, "sorts values"


def _tokens(site: Site) -> int:
    if site.shape is None or len(site.shape) != 2:
        raise ValueError("its constant grows with the number of tokens: give `input_shape` (tokens, features)")
    return site.shape[0]


def _l2_attention(layer: L2SelfAttention, site: Site) -> tuple[float, str]:
    tokens = _tokens(site)
    return bound_l2_attention(layer, tokens, site.norm), f"{tokens} tokens (THEORY 3.1)"


def _ball_attention(layer: BallAttention, site: Site) -> tuple[float, str]:
    if site.norm != 2:
        raise ValueError("a constant is known in the L2 norm only")
    tokens = _tokens(site)
    return bound_ball_attention(layer, tokens), f"{tokens} tokens on a ball of radius {layer.radius:g} (THEORY 3.1)"


def _reshape(layer: nn.Flatten | nn.Unflatten, site: Site) -> tuple[float, str]:
    axis: Any = layer.start_dim if isinstance(layer, nn.Flatten) else layer.dim
    if axis == 0 or (axis < 0 and site.shape is None):
        raise ValueError("expected an axis other than the batch's, counted from the front or with `input_shape`")
    return 1.0, "moves values only"


def _shuffle(layer: nn.PixelShuffle | nn.PixelUnshuffle, site: Site) -> tuple[float, str]:
    if site.shape is not None and len(site.shape) < 3:
        raise ValueError(f"expected images with channels, got shape {site.shape}")
    return 1.0, "moves values only"


RULES: dict[type[nn.Module], Rule] = {
    nn.Linear: _dense,
    **dict.fromkeys((nn.Conv1d, nn.Conv2d, nn.ConvTranspose1d, nn.ConvTranspose2d), _convolution),
    **dict.fromkeys((nn.BatchNorm1d, nn.BatchNorm2d), _batch_norm),
    **dict.fromkeys((nn.GroupNorm, nn.LayerNorm), _normalisation),
    **dict.fromkeys((nn.Dropout, nn.Dropout1d, nn.Dropout2d), _in_evaluation),
    **dict.fromkeys((nn.AvgPool1d, nn.AvgPool2d), _average_pool),
    nn.Upsample: _upsample,
    nn.UpsamplingNearest2d: _upsample,
    nn.Softplus: _softplus,
    nn.GELU: _gelu,
    nn.LeakyReLU: lambda layer, site: _at_least_one(layer.negative_slope),
    nn.ELU: lambda layer, site: _at_least_one(layer.alpha),
    nn.Sigmoid: _constant(0.25, "max slope"),
    nn.SiLU: _constant(1.1, "max slope 1.0998, rounded up"),
    **dict.fromkeys((nn.ReLU, nn.Tanh), _constant(1.0, "max slope")),
    **dict.fromkeys((nn.Flatten, nn.Unflatten), _reshape),
    **dict.fromkeys((nn.PixelShuffle, nn.PixelUnshuffle), _shuffle),
    nn.Identity: _constant(1.0, "identity"),
    Move: _constant(1.0, "moves or drops values"),
    Shift: _constant(1.0, "adds a constant"),
    Scale: lambda layer, site: (abs(float(layer.factor)), "|factor|"),
    Select: _constant(1.0, "drops values"),
    **dict.fromkeys((MaxMin, GroupSort, Householder), _sort),
    ConvexPotential: _convex_potential,
    L2SelfAttention: _l2_attention,
    BallAttention: _ball_attention,
}
"""The layers that are known."""

INSTEAD: dict[type[nn.Module], str] = {
    nn.MultiheadAttention: "dot-product attention has no Lipschitz constant; use L2SelfAttention or BallAttention",
    **dict.fromkeys(
        (nn.TransformerEncoderLayer, nn.TransformerDecoderLayer, nn.TransformerEncoder, nn.Transformer),
        "its dot-product attention has no Lipschitz constant; use L2SelfAttention or BallAttention",
    ),
    **dict.fromkeys((nn.InstanceNorm1d, nn.InstanceNorm2d, nn.RMSNorm), "use BatchNorm in evaluation mode"),
    **dict.fromkeys((nn.Softmax, nn.LogSoftmax), "softmax has no rule; leave it to the loss"),
}
"""What could be used in place of layers that have no constant."""
