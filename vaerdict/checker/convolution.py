"""Convolutions written out as matrices, entry by entry."""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Float64

MOST_ENTRIES = 2**23
"""A matrix with more entries is not written out."""

_Sizes = Sequence[int]


def output_sizes(sizes: _Sizes, kernel: _Sizes, stride: _Sizes, padding: _Sizes, dilation: _Sizes) -> tuple[int, ...]:
    """Give the sides of a convolution's output.

    >>> output_sizes((8,), (4,), (2,), (1,), (1,))
    (4,)
    """
    return tuple(
        (n + 2 * p - d * (k - 1) - 1) // s + 1
        for n, k, s, p, d in zip(sizes, kernel, stride, padding, dilation, strict=True)
    )


def convolution_matrix(
    weight: Float[np.ndarray, "outputs inputs *kernel"],
    sizes: _Sizes,
    *,
    stride: _Sizes,
    padding: _Sizes,
    dilation: _Sizes,
    groups: int,
    circular: bool = False,
    output: _Sizes | None = None,
) -> Float64[np.ndarray, "rows columns"]:
    """Write out the convolution of images with sides `sizes`; rows are outputs, columns inputs, channels first.

    Output pixel `y` reads input pixel `y * stride - padding + tap * dilation` with the kernel's weight at `tap`; what
    lies outside the image is zero, or with `circular` the other side. `output` overrides the output's sides, as the
    transpose of a transposed convolution needs.

    >>> kernel = np.array([[[1.0, 2.0]]])
    >>> convolution_matrix(kernel, (3,), stride=(1,), padding=(0,), dilation=(1,), groups=1)
    array([[1., 2., 0.],
           [0., 1., 2.]])
    """
    kernel = weight.shape[2:]
    output = output_sizes(sizes, kernel, stride, padding, dilation) if output is None else output
    outputs, inputs = weight.shape[0], weight.shape[1] * groups
    matrix = np.zeros((outputs, *output, inputs, *sizes))
    per_group, channels = outputs // groups, weight.shape[1]
    for place in itertools.product(*map(range, output)):
        for tap in itertools.product(*map(range, kernel)):
            source = [y * s - p + i * d for y, i, s, p, d in zip(place, tap, stride, padding, dilation, strict=True)]
            if circular:
                source = [x % n for x, n in zip(source, sizes, strict=True)]
            elif not all(0 <= x < n for x, n in zip(source, sizes, strict=True)):
                continue
            for group in range(groups):
                rows = slice(group * per_group, (group + 1) * per_group)
                columns = slice(group * channels, (group + 1) * channels)
                entries: Any = (rows, *place, columns, *source)
                taps: Any = (rows, slice(None), *tap)
                matrix[entries] += weight[taps]
    return matrix.reshape(outputs * int(np.prod(output)), inputs * int(np.prod(sizes)))
