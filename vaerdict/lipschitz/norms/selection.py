"""A convolution as the sum of its taps, each one a selection of pixels and a matrix on channels: made to be applied."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy import sparse

from vaerdict.lipschitz.norms.placement import Axis, pixels_read

_Vector = Float[np.ndarray, " values"]


def operator_size(weight: Float[np.ndarray, "outputs inputs *taps"], axes: tuple[Axis, ...]) -> int:
    """Give the smaller side of the operator of one group, in values."""
    read = weight.shape[1] * math.prod(axis.size or 0 for axis in axes)
    written = weight.shape[0] * math.prod(axis.outputs or 0 for axis in axes)
    return min(read, written)


def selections(axis: Axis, mode: str) -> list[sparse.csr_array]:
    """Give, for every tap of one axis, the matrix of zeros and ones (outputs by pixels) that says what it reads."""
    parts = []
    for pixels in pixels_read(axis, mode):
        outputs = np.flatnonzero(pixels >= 0)
        entries = (np.ones(len(outputs)), (outputs, pixels[outputs]))
        parts.append(sparse.csr_array(entries, shape=(len(pixels), axis.size)))
    return parts


def reads_anything(weight: Float[np.ndarray, "outputs inputs *taps"], axes: tuple[Axis, ...], mode: str) -> bool:
    """Tell whether any tap that is not zero ever reads a pixel."""
    for number, axis in enumerate(axes):
        weight = weight.compress((pixels_read(axis, mode) >= 0).any(axis=1), axis=2 + number)
    return bool(weight.any())


def gram_operator(
    weight: Float[np.ndarray, "outputs inputs *taps"], axes: tuple[Axis, ...], mode: str
) -> tuple[Callable[[_Vector], _Vector], int]:
    """Give the product of the operator and its adjoint, as a function on input images, and their size."""
    selected = sparse.vstack(selections(axes[0], mode))
    for axis in axes[1:]:
        selected = sparse.kron(selected, sparse.vstack(selections(axis, mode)))
    # Rows are (tap, output) of each axis in turn: bring the taps together.
    sides = [side for axis in axes for side in (axis.taps, axis.known[1])]
    rows: Any = np.arange(math.prod(sides)).reshape(sides)
    gather = sparse.csr_array(selected)[np.moveaxis(rows, range(0, len(sides), 2), range(len(axes))).reshape(-1)]
    scatter = sparse.csr_array(gather.T)
    matrix = weight.reshape(len(weight), -1)
    channels, pixels = weight.shape[1], gather.shape[1]

    def multiply(values: _Vector) -> _Vector:
        patches = (gather @ values.reshape(channels, pixels).T).T.reshape(matrix.shape[1], -1)
        back = (matrix.T @ (matrix @ patches)).reshape(channels, -1)
        return (scatter @ back.T).T.reshape(-1)

    return multiply, channels * pixels
