"""Linear layers written out: each is applied to the identity in float64, as the layer with its bias left out."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vaerdict.lipschitz.chains.affine import Affine
from vaerdict.lipschitz.floats import gamma
from vaerdict.lipschitz.graph.nodes import kind_of
from vaerdict.lipschitz.layers.elementary import Move, Scale, Select, Shift
from vaerdict.lipschitz.sizes import frobenius

LARGEST = 4096
"""Inputs or outputs beyond which a layer is not written out."""

_MOVES = (
    nn.Identity,
    nn.Flatten,
    nn.Unflatten,
    nn.PixelShuffle,
    nn.PixelUnshuffle,
    Select,
    Move,
    nn.Dropout,
    nn.Upsample,
)
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d)
_TRANSPOSED = {nn.ConvTranspose1d: F.conv_transpose1d, nn.ConvTranspose2d: F.conv_transpose2d}
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
_POOLS = (nn.AvgPool1d, nn.AvgPool2d)
_NONE = torch.zeros((), dtype=torch.float64)
_ROUNDING = 2.0**-48  # relative; more than the few roundings of an entry of a normalisation or a mean


def moves_values(layer: nn.Module) -> bool:
    """Say whether a layer only reorders, drops or repeats values.

    >>> moves_values(nn.Flatten())
    True
    """
    kind = kind_of(layer)
    if kind is nn.Dropout and layer.training:
        raise ValueError("expected evaluation mode")
    if kind is nn.Upsample and cast(nn.Upsample, layer).mode != "nearest":
        raise ValueError(f"expected mode 'nearest', got {cast(nn.Upsample, layer).mode!r}")
    return kind in _MOVES


def linear_part(layer: nn.Module, shape: tuple[int, ...]) -> tuple[Affine, tuple[int, ...]]:
    """Write a layer out for inputs of a shape; give the shape of its outputs as well.

    Raises:
        ValueError: the layer is not a known linear one, or too large.

    >>> affine, outputs = linear_part(nn.AvgPool1d(2), (1, 4))
    >>> affine.weight
    tensor([[0.5000, 0.5000, 0.0000, 0.0000],
            [0.0000, 0.0000, 0.5000, 0.5000]], dtype=torch.float64)
    """
    meaning = _meaning(layer, len(shape) + 1)
    outputs = tuple(meaning.operator(torch.zeros(1, *shape, dtype=torch.float64)).shape[1:])
    if max(math.prod(shape), math.prod(outputs)) > LARGEST:
        raise ValueError(f"expected at most {LARGEST} values, got {max(math.prod(shape), math.prod(outputs))}")
    basis = torch.eye(math.prod(shape), dtype=torch.float64).reshape(-1, *shape)
    weight = meaning.operator(basis).flatten(1).T.contiguous()
    bias = _spread(meaning.bias, outputs)
    bias_error = _ROUNDING * frobenius(_spread(meaning.bias_size, outputs))
    return Affine(weight, bias, meaning.weight_error(weight), bias_error), outputs


@dataclass(frozen=True)
class _Meaning:
    """The linear map, the bias as it broadcasts over outputs, and the sizes that their roundings are relative to."""

    operator: Callable[[Tensor], Tensor]
    bias: Tensor = _NONE
    weight_error: Callable[[Tensor], float] = lambda _: 0.0
    bias_size: Tensor = _NONE


def _few_roundings(weight: Tensor) -> float:
    return _ROUNDING * frobenius(weight) + 2.0**-1000


def _meaning(layer: Any, axes: int) -> _Meaning:
    kind = kind_of(layer)
    if kind is nn.Linear:
        weight = _exact(layer.weight)
        return _Meaning(lambda x: x @ weight.T, _bias(layer))
    if kind in _CONVOLUTIONS:
        weight = _exact(layer.weight)
        bias = _channels(_bias(layer), axes)
        return _Meaning(lambda x: layer._conv_forward(x, weight, None), bias, _taps_error(layer, weight))
    if kind in _TRANSPOSED:
        weight, function = _exact(layer.weight), _TRANSPOSED[kind]
        options = (layer.stride, layer.padding, layer.output_padding, layer.groups, layer.dilation)
        return _Meaning(lambda x: function(x, weight, None, *options), _channels(_bias(layer), axes))
    if kind in _NORMS:
        return _normalisation(layer, axes)
    if kind in _POOLS:
        return _Meaning(layer, weight_error=_few_roundings)
    if kind is Scale:
        return _Meaning(lambda x: x * float(layer.factor), weight_error=_few_roundings)  # it may be a reciprocal
    if kind is Shift:
        return _Meaning(lambda x: x, _exact(torch.as_tensor(layer.constant, dtype=torch.float64)))
    raise ValueError("it is neither linear nor a known activation")


def _taps_error(layer: Any, weight: Tensor) -> Callable[[Tensor], float]:
    """Bound the rounding of entries that are sums of taps: with wrapped or mirrored padding, several may read a value.

    Each tap alone would be a matrix with its kernel entries repeated once for every output position.
    """
    if layer.padding_mode == "zeros":
        return lambda _: 0.0
    taps = sum(frobenius(tap) for tap in weight.flatten(2).unbind(2))
    terms = weight[0, 0].numel()
    return lambda matrix: 1.001 * gamma(terms) * math.sqrt(len(matrix) / len(weight)) * taps


def _spread(values: Tensor, outputs: tuple[int, ...]) -> Tensor:
    spread = torch.zeros(1, *outputs, dtype=torch.float64) + values
    if spread.shape != (1, *outputs):
        raise ValueError(f"expected a bias for outputs of shape {outputs}, got {tuple(values.shape)}")
    return spread.flatten()


def _exact(values: Tensor) -> Tensor:
    if values.is_complex():
        raise ValueError("expected real weights, got complex ones")
    return values.detach().cpu().double()


def _bias(layer: Any) -> Tensor:
    return _NONE if layer.bias is None else _exact(layer.bias)


def _channels(values: Tensor, axes: int) -> Tensor:
    """Put a value per channel on axis 1 of so many."""
    return values.reshape(-1, *[1] * (axes - 2)) if values.ndim else values


def _normalisation(layer: Any, axes: int) -> _Meaning:
    if layer.training or layer.running_var is None:
        raise ValueError("expected evaluation mode and running statistics")
    mean, variance = _exact(layer.running_mean), _exact(layer.running_var)
    weight = torch.ones_like(mean) if layer.weight is None else _exact(layer.weight)
    scale = weight / torch.sqrt(variance + layer.eps)
    shift, bias = mean * scale, _bias(layer)
    return _Meaning(
        lambda x: x * _channels(scale, x.ndim),
        _channels(bias - shift, axes),
        _few_roundings,
        _channels(bias.abs() + shift.abs(), axes),
    )
