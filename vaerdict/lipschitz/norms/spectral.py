"""Spectral norms from above, the rounding of the computation included (THEORY 3 and 7.2).

Power and Lanczos iterations converge to the norm from below: here they only propose what is then proved.
"""

import math
from collections.abc import Callable, Iterable

import numpy as np
from jaxtyping import Inexact
from scipy.linalg import blas, lapack
from torch import Tensor

from vaerdict.lipschitz.floats import UNIT, gamma, round_up
from vaerdict.lipschitz.norms.lanczos import estimate_largest_eigenvalue
from vaerdict.lipschitz.norms.scaling import scale_back, scale_to_one, to_numpy

_EXCESSES = (1e-11, 1e-9, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
_DENSE = 256
"""Up to this many rows all eigenvalues are computed, by numpy. Above it Lanczos' method is faster, and scipy's kernels,
which copy nothing; numpy's are not mixed in, as each library has threads of its own, which spin while they wait."""
_TOGETHER = 32
"""Up to this many rows the matrices of a stack are factored in one call."""
_Vector = Inexact[np.ndarray, " n"]


def bound_largest_eigenvalue(matrix: Inexact[np.ndarray, "*stack n n"], error: float = 0.0) -> float:
    """Bound from above the largest eigenvalue of a Hermitian matrix, or of any in a stack of them.

    A float64 eigenvalue proposes `tau`; the Cholesky factorisation of `tau I - M` proves it. If it runs to completion,
    the factored matrix has no eigenvalue below `-gamma/(1-gamma) trace` (Higham 2002, Theorem 10.3, with `|R^T||R|`
    bounded by its trace). `gamma` is taken for four times the terms, which covers kernels that multiply by a rounded
    reciprocal, and complex arithmetic; underflow is covered by the term of Rump (BIT 46, 2006), generously.

    Args:
        matrix: float64 or complex128; only the Hermitian part that its lower triangle defines counts.
        error: a bound on the spectral norm of the difference between the matrix and the one that is meant.

    Raises:
        ValueError: an entry is NaN or infinite, or the proof does not succeed.

    >>> 2.0 <= bound_largest_eigenvalue(np.diag([2.0, -5.0])) < 2.0 + 1e-9
    True
    """
    return bound_largest_of_all([matrix], error)


def bound_largest_of_all(stacks: Iterable[Inexact[np.ndarray, "*stack n n"]], error: float = 0.0) -> float:
    """Bound as `bound_largest_eigenvalue` does, over stacks that are made one after the other.

    A matrix for which the present `tau` is proved needs no eigenvalue of its own, so a stack costs little more than
    its factorisations, whatever the order; least where neighbours differ.

    >>> 3.0 <= bound_largest_of_all([np.eye(2), 3.0 * np.eye(2)]) < 3.0 + 1e-9
    True
    """
    tau = bound = -math.inf
    for stack in stacks:
        exact = stack.astype(np.complex128 if np.iscomplexobj(stack) else np.float64, copy=False)
        pieces = exact.reshape(-1, *exact.shape[-2:])
        for piece in [pieces] if pieces.shape[-1] <= _TOGETHER else pieces[:, None]:
            proved = _prove(piece, tau) if tau > -math.inf else None
            if proved is None:
                own, proved = _propose_and_prove(piece)
                tau = max(tau, own)
            bound = max(bound, proved)
    return round_up(bound + error, 8)


def _propose_and_prove(stack: Inexact[np.ndarray, "stack n n"]) -> tuple[float, float]:
    # Some Cholesky kernels let NaN pass as positive.
    if not np.isfinite(stack).all():
        raise ValueError("expected finite entries, got NaN or infinity")
    size = stack.shape[-1]
    scale = float(np.abs(np.diagonal(stack, axis1=1, axis2=2)).mean(-1).max())
    if size <= _DENSE:
        proposal, doubt = float(np.linalg.eigvalsh(stack)[:, -1].max()), 0.0
    else:
        proposal, doubt = estimate_largest_eigenvalue(_product(stack[0]), size, scale, dtype=stack.dtype.type)
    return climb(lambda tau: _prove(stack, tau), proposal, doubt, scale, size)


def _product(matrix: Inexact[np.ndarray, "n n"]) -> Callable[[_Vector], _Vector]:
    """Multiply by the Hermitian matrix that the lower triangle defines (of the transpose, in Fortran's order)."""
    if np.iscomplexobj(matrix):
        return lambda vector: blas.zhemv(1.0, matrix.T, vector.conj(), lower=0).conj()
    return lambda vector: blas.dsymv(1.0, matrix.T, vector, lower=0)


def climb(
    prove: Callable[[float], float | None], proposal: float, doubt: float, scale: float, size: int
) -> tuple[float, float]:
    """Raise `tau` from a proposed eigenvalue until it can be proved.

    Args:
        prove: gives the bound that a factorisation at `tau` proves, or None where it fails.
        proposal: an estimate of the largest eigenvalue.
        doubt: how far below it the estimate may be.
        scale: of the matrix, where the eigenvalue is near 0.
        size: rows of the matrix.

    Returns:
        The `tau` that was proved, and the bound.

    Raises:
        ValueError: the proof does not succeed.
    """
    unit = abs(proposal) + scale + 1e-290  # a matrix of zeros has a bound too
    first = max(doubt / unit, 1e-13 if size <= _DENSE else 1e-12)
    for excess in (first, *(later for later in _EXCESSES if later > first)):
        tau = proposal + excess * unit
        proved = prove(tau)
        if proved is not None:
            return tau, proved
    raise ValueError(f"could not prove a bound for a matrix of {size} rows")


def _prove(stack: Inexact[np.ndarray, "stack n n"], tau: float) -> float | None:
    """Bound the largest eigenvalue if every `tau I - matrix` has a Cholesky factor in floating point."""
    size = stack.shape[-1]
    shifted = np.negative(stack)
    index = np.arange(size)
    diagonal = tau + shifted[:, index, index].real
    shifted[:, index, index] = diagonal
    if not _factorises(shifted):
        return None
    largest = float(np.abs(stack[:, index, index]).max())
    return proved_bound(tau, float(diagonal.sum(-1).max()), largest, size)


def proved_bound(tau: float, trace: float, largest: float, size: int) -> float:
    """Bound the largest eigenvalue of `M`, given that the Cholesky factorisation of `tau I - M` ran to completion.

    Args:
        tau: the shift.
        trace: of the shifted matrix, summed in any order.
        largest: the largest magnitude on the diagonal of `M`.
        size: rows of `M`.
    """
    factorisation = 2.0 * gamma(4 * size + 4) * trace * (1.0 + gamma(size + 1))
    shift = 4.0 * UNIT * (abs(tau) + largest)
    underflow = size * (size + abs(tau) + largest) * 2.0**-1000
    return round_up(tau + factorisation + shift + underflow, 8)


def _factorises(shifted: Inexact[np.ndarray, "stack n n"]) -> bool:
    """Try the Cholesky factorisation of every matrix; overwrites them."""
    if shifted.shape[-1] <= _DENSE:
        try:
            factor = np.linalg.cholesky(shifted)
        except np.linalg.LinAlgError:
            return False
        return bool(np.isfinite(np.diagonal(factor, axis1=1, axis2=2)).all())
    factorise = lapack.zpotrf if np.iscomplexobj(shifted) else lapack.dpotrf
    for matrix in shifted:
        # The transpose is in Fortran's order: nothing is copied, and its upper triangle is the lower one's conjugate.
        factor, failed = factorise(matrix.T, lower=0, clean=0, overwrite_a=1)
        if failed or not np.isfinite(factor.diagonal()).all():
            return False
    return True


def bound_spectral_norm(weight: Inexact[Tensor, "rows columns"], relative_error: float = 0.0) -> float:
    """Bound the largest singular value of a matrix from above.

    The root of a bound on the largest eigenvalue of `W^T W`, the rounding of that product included (THEORY 7.2). Holds
    for the weights as stored, in any float dtype up to float64.

    Args:
        weight: the matrix.
        relative_error: how far, relatively, any entry may be from the one that is meant.

    Raises:
        ValueError: a weight is NaN, infinite or complex, or the proof does not succeed.

    >>> import torch
    >>> 2.0 <= bound_spectral_norm(torch.diag(torch.tensor([2.0, 1.0]))) < 2.0 + 1e-9
    True
    """
    if weight.is_complex():
        raise ValueError("expected real weights, got complex ones")
    matrix = to_numpy(weight)
    scaled, power = scale_to_one(matrix if matrix.shape[0] >= matrix.shape[1] else matrix.T)
    if not scaled.any():
        return 0.0
    rows, columns = scaled.shape
    # One triangle, without a copy: either the matrix or its transpose is in Fortran's order.
    gram = (blas.dsyrk(1.0, scaled, trans=1) if scaled.flags.f_contiguous else blas.dsyrk(1.0, scaled.T)).T
    frobenius_squared = float(np.trace(gram)) * (1.0 + 4.0 * gamma(rows * columns))
    product = 4.0 * gamma(rows + 1) * frobenius_squared + rows * columns * 2.0**-1000
    squared = bound_largest_eigenvalue(gram, product)
    meant = 2.0 * relative_error * math.sqrt(frobenius_squared)
    return scale_back(round_up(math.sqrt(max(squared, 0.0)) + meant, 8), power)
