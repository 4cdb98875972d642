"""An upper bound of a spectral norm that trusts numpy's products, within their known error, and nothing else."""

import math

import numpy as np
from jaxtyping import Float64

UNIT = 2.0**-53
"""Unit roundoff of float64."""


def bound_matrix_norm(matrix: Float64[np.ndarray, "rows columns"]) -> float:
    """Bound `|W|_2` from above, for a matrix of finite numbers.

    For any numbers `tau` and `L` whatever: `|W|^2 <= tau^2 + |R|_F` with `R = L L^T - (tau^2 I - W W^T)`, because
    `tau^2 I - W W^T + R` is `L L^T`, which has no negative eigenvalue. A singular value just above the computed one and
    the computed Cholesky factor make `R` tiny; were either of them wrong, the bound would be large, not false.
    Its products are computed in float64: `|fl(A B) - A B| <= gamma_n |A| |B|` in any order of summation.

    Raises:
        ValueError: a number is not finite.

    >>> 2.0 <= bound_matrix_norm(np.diag([1.0, 2.0])) <= 2.0 * (1 + 1e-13)
    True
    """
    if not np.isfinite(matrix).all():
        raise ValueError("expected finite weights, got NaN or infinity")
    scale = 2.0 ** math.frexp(float(np.abs(matrix).max(initial=0.0)))[1]
    if scale == 1.0 and not matrix.any():
        return 0.0
    w = matrix / scale  # a power of two: exact, but for numbers that are far too small to matter
    w = w if w.shape[0] <= w.shape[1] else w.T
    lost = 2.0**-1020 * w.size  # what such numbers add to |W| at most
    gram, gram_error = _product_with_transpose(w)
    squared = _attempt(gram, gram_error)
    return _up(math.sqrt(_up(squared)) + lost) * scale


def _attempt(gram: np.ndarray, gram_error: float) -> float:
    """Bound the largest eigenvalue of the matrix that `gram` is near to."""
    size = len(gram)
    largest = float(np.linalg.eigvalsh(gram)[-1])
    for gap in (2.0, 16.0, 256.0, 65536.0):
        tau_squared = largest * (1 + gap * size * UNIT) + 2.0**-1000
        rest = tau_squared * np.eye(size) - gram
        try:
            factor = np.linalg.cholesky(rest)
        except np.linalg.LinAlgError:
            continue
        product, product_error = _product_with_transpose(factor)
        residual = product - rest
        # Two subtractions were rounded: each is off by a unit of its result.
        rounding = 2 * UNIT * (_norm(rest) + _norm(residual))
        return _up(tau_squared + _norm(residual) + rounding + gram_error + product_error, 8)
    return _up(_norm(gram) + gram_error)


def _product_with_transpose(a: np.ndarray) -> tuple[np.ndarray, float]:
    """Give `A A^T` with a bound of the error's Frobenius norm, underflow included."""
    inner = a.shape[1]
    gamma = inner * UNIT / (1 - inner * UNIT)
    magnitude = np.abs(a)
    bound = _norm(magnitude @ magnitude.T) * (1 + 2 * gamma)
    return a @ a.T, _up(gamma * bound + inner * a.shape[0] * 2.0**-1070, 4)


def _norm(matrix: np.ndarray) -> float:
    """Bound the Frobenius norm of a stored matrix from above."""
    return float(np.linalg.norm(matrix)) * (1 + 2 * (matrix.size + 4) * UNIT)


def _up(value: float, steps: int = 2) -> float:
    for _ in range(steps):
        value = math.nextafter(value, math.inf)
    return value
