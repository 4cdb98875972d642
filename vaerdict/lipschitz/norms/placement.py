"""Where a convolution's taps read: the geometry, apart from the weights.

A transposed convolution is the adjoint of the convolution with the same weight, so it is read as that one: its norm is
the same, and its input is that one's output.
"""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int, Shaped
from torch import nn

from vaerdict.lipschitz.norms.scaling import scale_to_one, to_numpy

ConvolutionLayer = nn.Conv1d | nn.Conv2d | nn.ConvTranspose1d | nn.ConvTranspose2d
_MODES = ("zeros", "circular", "reflect", "replicate")


@dataclass(frozen=True)
class Axis:
    """One axis of a convolution: output `o` and tap `t` read at `stride * o + dilation * t - before`.

    `size` pixels are read and `outputs` written; both are None where the input's shape is not known.
    """

    taps: int
    stride: int
    dilation: int
    before: int
    after: int
    size: int | None
    outputs: int | None

    @property
    def known(self) -> tuple[int, int]:
        """The size and the outputs, where they are known."""
        assert self.size is not None
        assert self.outputs is not None
        return self.size, self.outputs

    @property
    def reach(self) -> int:
        """Distance of the last tap from the first, in pixels."""
        return self.dilation * (self.taps - 1)


@dataclass(frozen=True)
class Convolution:
    """A convolution with its weights divided by `2**power`: `(groups, outputs, inputs, *taps)`, entries in [-1, 1]."""

    weight: Shaped[np.ndarray, "groups outputs inputs *taps"]
    power: int
    axes: tuple[Axis, ...]
    mode: str
    transposed: bool


def read_convolution(layer: ConvolutionLayer, input_shape: tuple[int, ...] | None) -> Convolution:
    """Read a layer's weights and geometry.

    Args:
        layer: the layer; a transposed one is read as its adjoint.
        input_shape: `(channels, *sizes)` of the layer's input, or None.

    Raises:
        ValueError: the weights are complex or not finite, the padding mode is unknown, or the shape does not fit.
    """
    if layer.weight.is_complex():
        raise ValueError("expected real weights, got complex ones")
    if layer.padding_mode not in _MODES:
        raise ValueError(f"expected `padding_mode` to be one of {', '.join(_MODES)}, got {layer.padding_mode!r}")
    weight = to_numpy(layer.weight)
    scaled, power = scale_to_one(weight)
    grouped = scaled.reshape(layer.groups, weight.shape[0] // layer.groups, *weight.shape[1:])
    sizes = _sizes(layer, input_shape)
    axes = tuple(_axis(layer, number, size) for number, size in enumerate(sizes))
    transposed = isinstance(layer, nn.ConvTranspose1d | nn.ConvTranspose2d)
    return Convolution(grouped, power, axes, layer.padding_mode, transposed)


def _sizes(layer: ConvolutionLayer, input_shape: tuple[int, ...] | None) -> tuple[int | None, ...]:
    dimensions = layer.weight.ndim - 2
    if input_shape is None:
        return (None,) * dimensions
    if len(input_shape) != dimensions + 1 or input_shape[0] != layer.in_channels or min(input_shape) < 1:
        raise ValueError(
            f"expected `input_shape` with {layer.in_channels} channels and {dimensions} sizes, got {input_shape}"
        )
    return input_shape[1:]


def _padding(layer: ConvolutionLayer, number: int, reach: int) -> tuple[int, int]:
    if layer.padding_mode != "zeros":  # torch pads by what it computed when the layer was made
        before, after = layer._reversed_padding_repeated_twice[::-1][2 * number : 2 * number + 2][::-1]
        return int(before), int(after)
    if layer.padding == "valid":
        return 0, 0
    if layer.padding == "same":
        return reach // 2, reach - reach // 2
    each = int(layer.padding[number])
    if each < 0:
        raise ValueError(f"expected `padding` >= 0, got {layer.padding}")
    return each, each


def _axis(layer: ConvolutionLayer, number: int, given: int | None) -> Axis:
    taps, stride, dilation = layer.weight.shape[2 + number], layer.stride[number], layer.dilation[number]
    reach = dilation * (taps - 1)
    before, after = _padding(layer, number, reach)
    if given is None:
        return Axis(taps, stride, dilation, before, after, None, None)
    if isinstance(layer, nn.ConvTranspose1d | nn.ConvTranspose2d):
        size, outputs = (given - 1) * stride + reach + 1 - 2 * before + int(layer.output_padding[number]), given
    else:
        size, outputs = given, (given + before + after - reach - 1) // stride + 1
    limit = {"reflect": size - 1, "circular": size}.get(layer.padding_mode, math.inf)
    if size < 1 or outputs < 1 or max(before, after) > limit:
        raise ValueError(f"expected `input_shape` to fit the kernel and the padding, got size {given}")
    return Axis(taps, stride, dilation, before, after, size, outputs)


def pixels_read(axis: Axis, mode: str) -> Int[np.ndarray, "taps outputs"]:
    """Give the pixel that each tap reads at each output, -1 where that is zero padding.

    >>> pixels_read(Axis(taps=3, stride=1, dilation=1, before=1, after=1, size=2, outputs=2), "replicate")
    array([[0, 0],
           [0, 1],
           [1, 1]])
    """
    size, count = axis.known
    taps, outputs = np.arange(axis.taps)[:, None], np.arange(count)
    pixel = axis.stride * outputs + axis.dilation * taps - axis.before
    if mode == "circular":
        return pixel % size
    if mode == "replicate":
        return pixel.clip(0, size - 1)
    if mode == "reflect":
        return size - 1 - abs(size - 1 - abs(pixel))
    return np.where((pixel >= 0) & (pixel < size), pixel, -1)
