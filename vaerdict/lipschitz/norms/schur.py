"""A bound on a convolution's norm that needs no image size, from the correlations of its kernel."""

import math

import numpy as np
from jaxtyping import Float
from torch import Tensor

from vaerdict.lipschitz.floats import gamma, round_up
from vaerdict.lipschitz.layers.convolution import split_phases
from vaerdict.lipschitz.norms.scaling import scale_back, scale_to_one

_SQUARINGS = 14


def bound_kernel_norm(kernel: Float[Tensor, "rows columns height width"], stride: int = 1) -> float:
    """Bound the norm of a convolution, or its adjoint, with zero padding, on any images; tight for AOL's kernels.

    Schur's test for the operator's `P^T P`: `|P|^2 <= max_i sum_j |P^T P|_ij q_j / q_i` for every positive `q`, one
    weight per channel and phase. Power steps propose `q`; any `q` proves. Computed in float64, with the rounding
    of every sum added (THEORY 7.2).

    Args:
        kernel: as stored, `[out, in, ...]` of a convolution or `[in, out, ...]` of a transposed one.
        stride: the same along both axes.

    Raises:
        ValueError: a weight is NaN or infinite, or beyond 1e300.

    >>> import torch
    >>> bound_kernel_norm(torch.ones(1, 1, 3, 3)) < 9.0 + 1e-9
    True
    """
    phases = split_phases(kernel.detach().cpu().double(), stride).numpy()
    if not phases.any():
        return 0.0
    phases, power = scale_to_one(phases)
    squared = min(_bound_by_columns(phases), _bound_by_columns(phases.swapaxes(0, 1)))
    return scale_back(round_up(math.sqrt(squared), 8), power)


def _bound_by_columns(kernel: np.ndarray) -> float:
    """Apply Schur's test to `P^T P`."""
    sums = np.abs(kernel).sum((2, 3))
    terms = kernel[:, 0].size
    slack = gamma(5 * terms + 64) * (sums.T @ sums) + terms * 2.0**-1000
    overlaps = _overlaps(kernel) + 2.0 * slack
    power = overlaps
    for _ in range(_SQUARINGS):  # towards the eigenvector, for which the test gives the largest eigenvalue
        power = power @ power / np.square(power).sum()
    proposals = np.ones(len(overlaps)), np.maximum(power.sum(1) / power.max(), 1e-200)
    quotient = min(float((overlaps @ weights / weights).max()) for weights in proposals)
    return (1.0 + 4.0 * gamma(2 * len(overlaps))) * quotient


def _overlaps(kernel: np.ndarray) -> np.ndarray:
    """Sum the magnitudes of all shifted correlations of two columns, `[columns, columns]`."""
    height, width = kernel.shape[2:]
    total = np.zeros((kernel.shape[1], kernel.shape[1]))
    for down in range(height):
        for right in range(1 - width, width):
            first = kernel[:, :, down:, max(right, 0) : width + min(right, 0)]
            second = kernel[:, :, : height - down, max(-right, 0) : width - max(right, 0)]
            shifted = np.abs(np.tensordot(first, second, axes=([0, 2, 3], [0, 2, 3])))
            if down == 0:
                total += shifted
            else:  # the opposite shift gives the transpose
                total += shifted + shifted.T
    return total
