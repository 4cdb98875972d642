"""The proof by Cholesky factorisation for the Gram matrix of a convolution, block row by block row.

Pixels further apart than the kernel's reach have nothing in common, so the matrix is banded in blocks. Only as many
block rows as the band is wide are kept. The order in which a Cholesky factorisation subtracts its products changes
nothing in Theorem 10.3 of Higham (2002), so the bound is that of `vaerdict.lipschitz.norms.spectral`.
"""

from collections import deque

import numpy as np
from jaxtyping import Float
from scipy.linalg import blas, lapack

from vaerdict.lipschitz.norms.spectral import proved_bound
from vaerdict.lipschitz.norms.taps import TapGram

_CALL = 2e6
_Panel = Float[np.ndarray, "side width"]


def factorisation_cost(gram: TapGram) -> float:
    """Count the floating-point operations of the proof, roughly; a call counts as much as it takes."""
    widths = [min(place, gram.band) for place in range(gram.first.places)]
    return sum(gram.side**3 * (1 / 3 + width + width * (width + 1)) + _CALL * (width + 1) for width in widths)


def prove_banded(gram: TapGram, tau: float) -> float | None:
    """Bound the largest eigenvalue of a Gram matrix if `tau I - gram` has a Cholesky factor in floating point."""
    side, band = gram.side, gram.band
    panels: deque[_Panel] = deque(maxlen=band + 1)  # the last one is the present row's
    trace = largest = 0.0
    for row in range(gram.first.places):
        low = max(0, row - band)
        panels.append(np.zeros((side, (band + 1) * side), order="F"))
        for column in range(low, row + 1):
            part = _minus_block(gram, row, column)
            if column == row:
                largest = max(largest, float(np.abs(part.diagonal()).max()))
                diagonal = tau + part.diagonal()
                np.fill_diagonal(part, diagonal)
                trace += float(diagonal.sum())
            _eliminate(panels, part, row - column, row - low, side)
            if not _finish(panels, part, row - column, side):
                return None
    return proved_bound(tau, trace, largest, gram.size)


def _minus_block(gram: TapGram, row: int, column: int) -> Float[np.ndarray, "side side"]:
    """Give a block in Fortran's order: the transpose of the one across the diagonal."""
    pattern = gram.patterns.get((column, row))
    block = np.zeros((gram.side, gram.side)) if pattern is None else gram.block(pattern)
    return np.negative(block, out=block).T


def _eliminate(panels: deque[_Panel], part: Float[np.ndarray, "side side"], back: int, filled: int, side: int) -> None:
    """Subtract the products of the block columns that the present row and the one `back` before it share."""
    own, other = panels[-1], panels[-1 - back]
    width = own.shape[1] - side  # where a panel's diagonal block starts
    shared = (filled - back) * side
    if shared:
        end = width - back * side
        left, right = own[:, end - shared : end], other[:, width - shared : width]
        blas.dgemm(-1.0, left, right, beta=1.0, c=part, trans_b=1, overwrite_c=1)


def _finish(panels: deque[_Panel], part: Float[np.ndarray, "side side"], back: int, side: int) -> bool:
    """Divide by the diagonal block above, or factor the diagonal block itself."""
    own, other = panels[-1], panels[-1 - back]
    width = own.shape[1] - side
    if back:
        solved = blas.dtrsm(1.0, other[:, width:], part, side=1, lower=1, trans_a=1, overwrite_b=1)
        own[:, width - back * side : width - (back - 1) * side] = solved
        return True
    factor, failed = lapack.dpotrf(part, lower=1, clean=1, overwrite_a=1)
    own[:, width:] = factor
    return not failed and bool(np.isfinite(factor.diagonal()).all())
