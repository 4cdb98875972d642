"""Spectral norms from above, the rounding of the computation included (THEORY 3 and 7.2).

Power iteration converges to the norm from below and is not used to bound anything here.
"""

import math

import numpy as np
from jaxtyping import Float, Inexact
from torch import Tensor

_UNIT = 2.0**-53  # unit roundoff of float64


def round_up(value: float, steps: int = 1) -> float:
    """Give a float64 at least `steps` representable numbers above `value`.

    >>> round_up(1.0) > 1.0
    True
    """
    for _ in range(steps):
        value = math.nextafter(value, math.inf)
    return value


def _gamma(terms: int) -> float:
    """Bound the relative error of a sum of `terms` products in any order, `k u / (1 - k u)` (Higham 2002, 3.1)."""
    return terms * _UNIT / (1.0 - terms * _UNIT)


def bound_spectral_norm(weight: Inexact[Tensor, "rows columns"]) -> float:
    """Bound the largest singular value of a matrix from above.

    A float64 eigenvalue proposes `tau`; it is the Cholesky factorisation of `tau^2 I - W^T W` that proves it. If it
    runs to completion, the factored matrix has no eigenvalue below `-gamma/(1-gamma) trace` (Higham 2002, Theorem
    10.3, with `|R^T||R|` bounded by its trace), so `|W|_2^2 <= tau^2` plus that, plus the rounding of `W^T W` and of
    the diagonal (THEORY 7.2). `gamma` is taken for four times the terms, which covers kernels that multiply by a
    rounded reciprocal. Holds for the weights as stored, in any float dtype up to float64.

    Raises:
        ValueError: a weight is NaN, infinite or complex, or the proof does not succeed.

    >>> import torch
    >>> 2.0 <= bound_spectral_norm(torch.diag(torch.tensor([2.0, 1.0]))) < 2.0 + 1e-9
    True
    """
    if weight.is_complex():
        raise ValueError("expected real weights, got complex ones")
    matrix = weight.detach().cpu().double().numpy()
    if not np.isfinite(matrix).all():
        raise ValueError("expected finite weights, got NaN or infinity")
    if matrix.shape[0] < matrix.shape[1]:
        matrix = matrix.T
    rows, columns = matrix.shape
    scale = float(np.abs(matrix).max(initial=0.0))
    if scale == 0.0:
        return 0.0
    power = math.frexp(scale)[1]
    matrix = np.ldexp(matrix, -power)  # entries in [-1, 1]: no overflow, and what underflows is below the slack
    gram = matrix.T @ matrix
    frobenius_squared = float(np.trace(gram)) * (1.0 + 4.0 * _gamma(rows * columns))
    proposal = float(np.linalg.eigvalsh(gram)[-1])
    for excess in (1e-13, 1e-11, 1e-9, 1e-6):
        squared = proposal * (1.0 + excess) + excess * frobenius_squared / columns
        if _is_positive_definite(squared * np.eye(columns) - gram):
            break
    else:
        raise ValueError(f"could not prove a norm for a matrix of shape {tuple(weight.shape)}")
    factorisation = 2.0 * _gamma(4 * columns + 4) * columns * squared  # the trace is at most columns * squared
    product = 4.0 * _gamma(rows + 1) * frobenius_squared
    diagonal = 4.0 * _UNIT * (squared + frobenius_squared)
    underflow = rows * columns * 2.0**-1000
    scaled = round_up(math.sqrt(squared + factorisation + product + diagonal + underflow), 8)
    if power > 1000:
        raise ValueError(f"expected weights below 1e300, got {scale:g}")
    bound = math.ldexp(scaled, power)
    return bound if bound > 1e-300 else round_up(bound)  # a subnormal result was rounded to nearest


def _is_positive_definite(matrix: Float[np.ndarray, "n n"]) -> bool:
    try:
        np.linalg.cholesky(matrix)
    except np.linalg.LinAlgError:
        return False
    return True
