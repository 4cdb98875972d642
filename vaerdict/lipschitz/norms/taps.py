"""The Gram matrix of a convolution as an operator on images, from the products of its taps; the operator is not formed.

The convolution is `A = sum_i S_i (x) K_i`: tap `i` reads, at output `o`, the pixel `p(o, i)` (`S_i` selects it, or
nothing where that is zero padding), and applies `K_i`. So `A^T A` has at pixels `(x, y)` the block
`sum_ij #{o: p(o, i) = x, p(o, j) = y} K_i^T K_j`, and `A A^T` has at outputs `(o, q)` the block
`sum_ij [p(o, i) = p(q, j)] K_i K_j^T`. The counts are products over the axes, and few patterns of them are distinct.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float, Int
from scipy import sparse

from vaerdict.lipschitz.floats import gamma
from vaerdict.lipschitz.norms.placement import Axis, pixels_read
from vaerdict.lipschitz.norms.selection import operator_size, selections

_TRIVIAL = Axis(taps=1, stride=1, dilation=1, before=0, after=0, size=1, outputs=1)


@dataclass(frozen=True)
class Pairs:
    """The counts of one axis: at places `(first, second)`, the row `pattern` of `counts` (over pairs of taps)."""

    places: int
    first: Int[np.ndarray, " pairs"]
    second: Int[np.ndarray, " pairs"]
    pattern: Int[np.ndarray, " pairs"]
    counts: Float[np.ndarray, "patterns tap_pairs"]


def pair_pixels(axis: Axis, mode: str) -> Pairs:
    """Count, for two pixels, the outputs at which one pair of taps reads them."""
    return _pairs(selections(axis, mode), axis.taps)


def pair_outputs(axis: Axis, mode: str) -> Pairs:
    """Tell, for two outputs, which pairs of taps read the same pixel there."""
    return _pairs([part.T.tocsr() for part in selections(axis, mode)], axis.taps)


def _pairs(parts: list[sparse.csr_array], taps: int) -> Pairs:
    places = parts[0].shape[1]
    rows, columns, values = [], [], []
    for number in range(taps * taps):
        product = (parts[number // taps].T @ parts[number % taps]).tocoo()
        rows.append(product.row.astype(np.int64) * places + product.col)
        columns.append(np.full(product.nnz, number))
        values.append(product.data)
    where, index = np.unique(np.concatenate(rows), return_inverse=True)
    table = np.zeros((len(where), taps * taps))
    table[index, np.concatenate(columns)] = np.concatenate(values)
    counts, pattern = np.unique(table, axis=0, return_inverse=True)
    return Pairs(places, where // places, where % places, pattern.reshape(-1), counts)


@dataclass(frozen=True)
class TapGram:
    """A Gram matrix in blocks over the places of the first axis.

    Attributes:
        maps: the taps, the channels of the matrix's side first, those that are summed over second.
        first: the counts of the first axis.
        second: those of the second.
        error: a bound on the spectral norm of the difference from the exact Gram matrix.
    """

    maps: Float[np.ndarray, "channels summed taps1 taps2"]
    first: Pairs
    second: Pairs
    error: float

    @property
    def channels(self) -> int:
        """Values at one pixel."""
        return len(self.maps)

    @property
    def side(self) -> int:
        """Rows of one block."""
        return self.second.places * self.channels

    @property
    def size(self) -> int:
        """Rows of the whole matrix."""
        return self.first.places * self.side

    @cached_property
    def products(self) -> Float[np.ndarray, "tap_pairs1 rest"]:
        """The products of all pairs of taps."""
        kept, summed, first, second = self.maps.shape
        flat = np.ascontiguousarray(self.maps.transpose(2, 3, 0, 1)).reshape(-1, summed)
        pairs = (flat @ flat.T).reshape(first, second, kept, first, second, kept)
        return pairs.transpose(0, 3, 1, 4, 2, 5).reshape(first * first, -1)

    def block(self, pattern: int) -> Float[np.ndarray, "side side"]:
        """Compute the block of one pattern of the first axis."""
        taps = np.flatnonzero(self.first.counts[pattern])  # few of many
        inner = (self.first.counts[pattern, taps] @ self.products[taps]).reshape(self.second.counts.shape[1], -1)
        small = (self.second.counts @ inner).reshape(-1, self.channels, self.channels)
        places, channels = self.second.places, self.channels
        block = np.zeros((places, channels, places, channels))
        block[self.second.first, :, self.second.second, :] = small[self.second.pattern]
        return block.reshape(self.side, self.side)

    @cached_property
    def patterns(self) -> dict[tuple[int, int], int]:
        """The pattern at two places of the first axis; where there is none, the block is zero."""
        pairs = zip(self.first.first.tolist(), self.first.second.tolist(), strict=True)
        return dict(zip(pairs, self.first.pattern.tolist(), strict=True))

    @property
    def band(self) -> int:
        """How far from the diagonal a block can be, in blocks."""
        return int(abs(self.first.first - self.first.second).max())

    def dense(self) -> Float[np.ndarray, "size size"]:
        """Assemble the whole matrix."""
        places, side = self.first.places, self.side
        whole = np.zeros((places, side, places, side))
        for pattern in range(len(self.first.counts)):
            chosen = self.first.pattern == pattern
            whole[self.first.first[chosen], :, self.first.second[chosen], :] = self.block(pattern)
        return whole.reshape(self.size, self.size)


def gram_of_taps(weight: Float[np.ndarray, "outputs inputs *taps"], axes: tuple[Axis, ...], mode: str) -> TapGram:
    """Prepare the Gram matrix of the smaller side of one group.

    Rounding: every entry is a sum of products over channels, then over pairs of taps, so it errs by at most
    `gamma |A|^T |A|`, of norm at most `gamma |A|_F^2`, with `|A|_F <= sum_i sqrt(reads of tap i) |K_i|_F`.
    """
    if len(axes) == 1:
        weight, axes = weight[..., None], (*axes, _TRIVIAL)
    elif (axes[0].size or 0) < (axes[1].size or 0):  # the longer axis first makes smaller blocks, and more zeros
        weight, axes = weight.swapaxes(2, 3), axes[::-1]
    columns = math.prod(axis.size or 0 for axis in axes) * weight.shape[1] <= operator_size(weight, axes)
    maps = weight.swapaxes(0, 1) if columns else weight
    pair = pair_pixels if columns else pair_outputs
    terms = 4 * (maps.shape[1] + axes[0].taps ** 2 + axes[1].taps ** 2 + 8)
    error = gamma(terms) * _frobenius(weight, axes, mode) ** 2 + weight.size**2 * 2.0**-900
    return TapGram(maps, pair(axes[0], mode), pair(axes[1], mode), error)


def _frobenius(weight: Float[np.ndarray, "outputs inputs taps1 taps2"], axes: tuple[Axis, ...], mode: str) -> float:
    reads = [(pixels_read(axis, mode) >= 0).sum(axis=1) for axis in axes]
    norms = np.sqrt((weight**2).sum(axis=(0, 1)))
    return float((np.sqrt(np.outer(*reads)) * norms).sum()) * (1.0 + gamma(4 * weight.size + 8))
