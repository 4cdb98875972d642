"""The largest eigenvalue of a large Hermitian matrix, from below and with a guess of how far below: never a bound."""

from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Inexact
from scipy.linalg import blas, eigh_tridiagonal

_STEPS, _CHECK = 120, 5


def estimate_largest_eigenvalue(
    multiply: Callable[[Inexact[np.ndarray, " n"]], Inexact[np.ndarray, " n"]],
    size: int,
    scale: float = 0.0,
    tolerance: float = 1e-7,
    dtype: type = np.float64,
) -> tuple[float, float]:
    """Estimate the largest eigenvalue by Lanczos' method with full re-orthogonalisation, from a fixed random start.

    Args:
        multiply: applies the matrix to a vector.
        size: the matrix has `size` rows.
        scale: what the error may be relative to where the eigenvalue is near 0.
        tolerance: stop once the guessed error is this small, relatively.
        dtype: float64 or complex128.

    Returns:
        The largest Ritz value, at most the eigenvalue up to rounding, and the guess of the distance: the residual
        squared over the gap to the second Ritz value (Parlett 1998, 11.7), which holds when nothing was missed.

    >>> value, error = estimate_largest_eigenvalue(lambda vector: np.arange(9.0) * vector, 9)
    >>> abs(value - 8.0) < 1e-9
    True
    """
    steps = min(_STEPS, size)
    basis: Any = np.empty((size, steps), dtype, order="F")
    combine = blas.zgemv if dtype is np.complex128 else blas.dgemv
    diagonal, off = np.empty(steps), np.empty(steps)
    random = np.random.default_rng(0)
    start = random.standard_normal(size) + (1j * random.standard_normal(size) if dtype is np.complex128 else 0.0)
    basis[:, 0] = start / np.linalg.norm(start)
    value, error = -np.inf, np.inf
    for step in range(steps):
        vector = multiply(basis[:, step])
        diagonal[step] = np.vdot(basis[:, step], vector).real
        for _ in range(2):
            parts = combine(1.0, basis[:, : step + 1], vector, trans=2)
            vector = combine(-1.0, basis[:, : step + 1], parts, beta=1.0, y=vector)
        off[step] = np.linalg.norm(vector)
        ended = step + 1 == steps or off[step] <= 1e-14 * (abs(diagonal[0]) + scale)
        if ended or step % _CHECK == _CHECK - 1:
            value, error, residual = _ritz(diagonal[: step + 1], off[: step + 1])
            wanted = tolerance * max(abs(value), scale)
            # The guess is wrong where two eigenvalues are closer than the residual: that must be small as well.
            if ended or (error <= wanted and residual <= 100 * wanted):
                break
        basis[:, step + 1] = vector / off[step]
    return value, error


def _ritz(diagonal: Inexact[np.ndarray, " k"], off: Inexact[np.ndarray, " k"]) -> tuple[float, float, float]:
    last = len(diagonal) - 1
    values, vectors = eigh_tridiagonal(diagonal, off[:-1], select="i", select_range=(max(last - 1, 0), last))
    residual = float(off[-1] * abs(vectors[-1, -1]))
    gap = max(float(values[-1] - values[0]), residual)
    return float(values[-1]), residual * residual / gap if gap > 0.0 else 0.0, residual
