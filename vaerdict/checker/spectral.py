"""An upper bound of a spectral norm that trusts numpy's products, within their known error, and nothing else."""

import math

import numpy as np
from jaxtyping import Float64

from vaerdict.checker.products import UNIT, Near, round_up


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
    squared = _attempt(Near(w) @ Near(w.T))
    return round_up(math.sqrt(round_up(squared)) + lost) * scale


def _attempt(gram: Near) -> float:
    """Bound the largest eigenvalue of the matrix that `gram` is near to."""
    size = len(gram.values)
    largest = float(np.linalg.eigvalsh(gram.values)[-1])
    for gap in (2.0, 16.0, 256.0, 65536.0):
        tau_squared = largest * (1 + gap * size * UNIT) + 2.0**-1000
        rest = Near(tau_squared * np.eye(size)).minus(gram)
        try:
            factor = Near(np.linalg.cholesky(rest.values))
        except np.linalg.LinAlgError:
            continue
        residual = (factor @ Near(factor.values.T)).minus(rest)
        return round_up(tau_squared + residual.size, 8)
    return gram.size


def bound_eigenvalues(near: Near) -> Float64[np.ndarray, " size"]:
    """Bound every eigenvalue of the positive semi-definite matrix that a symmetric one is near to, in rising order.

    With any numbers `l` and any square matrix `Q`: by Ostrowski's theorem the eigenvalues of `Q diag(l) Q^T` are at
    most `max(l, 0) |Q|^2`, each the one of its rank, and by Weyl's those of another matrix are at most their distance
    farther up. Computed eigenvectors make that distance tiny; were they wrong, the bounds would be large, not false.

    >>> bound_eigenvalues(Near(np.diag([3.0, 1.0]))).round(9)
    array([1., 3.])
    """
    values, vectors = np.linalg.eigh(near.values)
    q = Near(vectors)
    stretch = (Near(vectors.T) @ q).minus(Near(np.eye(len(values)))).size
    apart = (q.scaled(values) @ Near(vectors.T)).minus(near).size
    bounds = np.sort(values.clip(min=0.0)) * (1 + round_up(stretch, 4)) + apart
    return np.nextafter(np.nextafter(bounds, np.inf), np.inf)
