"""Convolutions too large to write out, by their symbol `D(w) = sum_j K_j exp(-i j.w)`: a matrix for every frequency.

Three facts, each one giving a grid of frequencies and a factor for every axis. `K` stands for the polyphase kernel:
with stride `s`, the pixels of the (padded) input are dealt to `s` phases, which count as channels; then the stride is 1
and the kernel has `L = floor(dilation (taps - 1) / s) + 1` taps.

- *Embedding* (zero padding, known size). The padded input is zero outside the blocks `first..last`, and outputs
  `0..m-1` read blocks `0..m+L-2`. On a circle of `N >= max(last + 1, m + L - 1 - first)` no output reads a block that
  is not zero by going round, so the operator is a part of the circular convolution on `N`; its norm is at most the
  largest `|D|` on the grid of `N` frequencies. Multiplying block `x` by `exp(i t x)`, and output `o` by
  `exp(-i t o)`, changes no norm and shifts the grid by `t`: every shift is a bound, and the smallest may be taken.
- *Supremum* (zero padding, any size). The operator is a part of the convolution on all integers, of norm `sup |D|`.
  With `u, v` the singular vectors at the largest, `f = u* D v` is a trigonometric polynomial of degree `(L-1)/2`
  once centred, of modulus at most `M = sup |D|`, reached. Such a function satisfies `|f(w + h)| >= M cos((L-1) h / 2)`
  (M. Riesz), and some frequency of a grid of `N > L-1` is within `pi/N`: `M <= max over the grid / cos(pi (L-1)/(2N))`,
  one axis after the other. With stride 1, dilation leaves the set of values of `D` as it is.
- *Circular padding*. On `n` pixels with `g = gcd(stride, n)`, every output is a row of the circular convolution of the
  polyphase kernel of step `g` on `n/g` blocks, each row at most `ceil(m g / n)` times: exact frequencies, and the root
  of that number as the factor.
"""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from jaxtyping import Complex, Float

from vaerdict.lipschitz.floats import gamma, round_up
from vaerdict.lipschitz.norms.placement import Axis
from vaerdict.lipschitz.norms.spectral import bound_largest_of_all

_CHUNK = 2**21
"""Entries of the symbol that are computed at a time."""
_CALL = 2e6


@dataclass(frozen=True, order=True)
class Grid:
    """Frequencies of one axis: `2 pi (j + shift) / points`; the bound on them counts `factor` times."""

    points: int
    step: int
    dilation: int
    factor: float = 1.0
    shift: float = 0.0


def embedding_grid(axis: Axis) -> Grid:
    """Give the smallest circle that the zero-padded axis is a part of.

    Only every `g`-th pixel is read, `g = gcd(stride, dilation)`; and where the stride is then 1, the outputs of each
    class modulo the dilation read a class of pixels of their own, so the dilation is 1 and the largest class counts.
    """
    size, outputs = axis.known
    common, stride, dilation = _reduced(axis)
    first, last = -(-axis.before // common), (axis.before + size - 1) // common
    blocks = dilation * (axis.taps - 1) // stride + 1
    if stride > 1:
        return Grid(_circle(first // stride, last // stride, outputs, blocks), stride, dilation)
    classes = [
        (-((number - first) // dilation), (last - number) // dilation, -((number - outputs) // dilation))
        for number in range(min(dilation, outputs))
    ]
    return Grid(max(_circle(*one, axis.taps) for one in classes), 1, 1)


def _reduced(axis: Axis) -> tuple[int, int, int]:
    common = math.gcd(axis.stride, axis.dilation)
    return common, axis.stride // common, axis.dilation // common


def _circle(first: int, last: int, outputs: int, blocks: int) -> int:
    return max(last + 1, outputs + blocks - 1 - first) if first <= last else 1


def supremum_grid(axis: Axis) -> Grid:
    """Give a grid of frequencies, and the factor (within 0.5 %) to what lies between them."""
    _, stride, dilation = _reduced(axis)
    dilation = 1 if stride == 1 else dilation
    degree = dilation * (axis.taps - 1) // stride
    points = max(16 * degree, 1)
    # The cosine is a few units in the last place off.
    factor = round_up(1.0 / math.cos(math.pi * degree / (2 * points)), 16) if degree else 1.0
    return Grid(points, stride, dilation, factor)


def circular_grid(axis: Axis) -> Grid:
    """Give the exact frequencies of a circular axis."""
    size, outputs = axis.known
    step = math.gcd(axis.stride, size)
    repeats = -(-outputs * step // size)
    return Grid(size // step, step, axis.dilation, round_up(math.sqrt(repeats)) if repeats > 1 else 1.0)


def polyphase(
    weight: Float[np.ndarray, "outputs inputs *taps"], grids: tuple[Grid, ...]
) -> Float[np.ndarray, "outputs channels *blocks"]:
    """Deal a kernel's taps to the phases of a stride, which count as channels."""
    for number, grid in enumerate(grids):
        axis = 2 + number
        reach = grid.dilation * (weight.shape[axis] - 1)
        blocks = reach // grid.step + 1
        spread = np.zeros((*weight.shape[:axis], blocks * grid.step, *weight.shape[axis + 1 :]))
        spread[(slice(None),) * axis + (slice(0, reach + 1, grid.dilation),)] = weight
        split = spread.reshape(*weight.shape[:axis], blocks, grid.step, *weight.shape[axis + 1 :])
        moved = np.moveaxis(split, axis + 1, 2)
        weight = moved.reshape(moved.shape[0], -1, *moved.shape[3:])
    used = weight.reshape(*weight.shape[:2], -1).any(axis=(0, 2))
    return weight[:, used] if used.any() else weight[:, :1]


def symbol_cost(weight: Float[np.ndarray, "outputs inputs *taps"], grids: tuple[Grid, ...]) -> float:
    """Count the floating-point operations of `bound_symbol`, roughly; a call counts as much as it takes."""
    sides = (weight.shape[0], weight.shape[1] * math.prod(grid.step for grid in grids))
    each = 8.0 * min(sides) ** 2 * (max(sides) + math.prod(weight.shape[2:]) + min(sides) / 6) + _CALL
    return each * math.prod(grid.points for grid in grids) / 2


def shifted(grids: tuple[Grid, ...]) -> list[tuple[Grid, ...]]:
    """Give the grids moved by half a step along any of the axes: with real weights those are symmetric too."""
    moves = [(0.0, 0.5) if grid.points > 1 else (0.0,) for grid in grids]
    return [
        tuple(replace(grid, shift=shift) for grid, shift in zip(grids, shifts, strict=True))
        for shifts in itertools.product(*moves)
    ]


def bound_symbol(weight: Float[np.ndarray, "outputs inputs *taps"], grids: tuple[Grid, ...]) -> float:
    """Bound the largest spectral norm of the symbol over the grid, the rounding of the symbol included.

    Every entry is a sum over the taps; with `E` its error, `|E| <= gamma sum_j |K_j|` entry by entry (the exponential,
    its argument reduced exactly to a whole number of turns, is a few units off, so 16 terms are added), and the
    spectral norm is at most Frobenius'. Of the Gram matrix of the smaller side, the largest eigenvalue is proved.
    """
    if not weight.any():
        return 0.0
    kernel = polyphase(weight, grids)
    if kernel.shape[0] > kernel.shape[1]:
        kernel = kernel.swapaxes(0, 1)
    taps = math.prod(kernel.shape[2:])
    magnitude = np.abs(kernel).reshape(*kernel.shape[:2], -1).sum(-1)
    frobenius = float(np.linalg.norm(magnitude)) * (1.0 + 4.0 * gamma(kernel.size + 4))
    symbol_error = gamma(4 * (taps + 16)) * frobenius + 1e-290
    gram_error = gamma(4 * (kernel.shape[1] + 4)) * (frobenius + symbol_error) ** 2 + 1e-290
    squared = bound_largest_of_all((_gram(stack) for stack in _symbols(kernel, grids)), gram_error)
    norm = round_up(math.sqrt(max(squared, 0.0)) + symbol_error, 8)
    for grid in grids:
        norm = norm if grid.factor == 1.0 else round_up(norm * grid.factor)
    return norm


def _gram(stack: Complex[np.ndarray, "stack rows columns"]) -> Complex[np.ndarray, "stack rows rows"]:
    return stack @ stack.conj().swapaxes(-1, -2)


def _symbols(
    kernel: Float[np.ndarray, "rows columns *blocks"], grids: tuple[Grid, ...]
) -> Iterator[Complex[np.ndarray, "stack rows columns"]]:
    """Give the symbol at half of the frequencies, scattered over the grid; the others are their conjugates."""
    flat = np.ascontiguousarray(np.moveaxis(kernel.reshape(*kernel.shape[:2], -1), 2, 0))
    waves = _waves(kernel.shape[2:], grids)
    stride = max(1, _CHUNK // flat[0].size)
    for start in range(0, len(waves), stride):
        part = waves[start : start + stride] @ flat.reshape(len(flat), -1)
        yield part.reshape(-1, *kernel.shape[:2])


@lru_cache(maxsize=2)
def _waves(blocks: tuple[int, ...], grids: tuple[Grid, ...]) -> Complex[np.ndarray, "frequencies blocks"]:
    """Tabulate `exp(-i j.w)` for one frequency of every conjugate pair."""
    tables = []
    for taps, grid in zip(blocks, grids, strict=True):
        # In units of half a step, so that the argument is reduced exactly.
        twice = 2 * np.arange(grid.points) + round(2 * grid.shift)
        turns = np.multiply.outer(twice, np.arange(taps)) % (2 * grid.points)
        tables.append(np.exp(-1j * np.pi * turns / grid.points))
    frequencies = [f for f in itertools.product(*(range(grid.points) for grid in grids)) if f <= _mirror(f, grids)]
    order = np.random.default_rng(0).permutation(len(frequencies))
    chosen = np.array(frequencies)[order]
    waves = tables[0][chosen[:, 0]]
    for number, table in enumerate(tables[1:], start=1):
        waves = (waves[:, :, None] * table[chosen[:, number]][:, None, :]).reshape(len(chosen), -1)
    return waves


def _mirror(frequency: tuple[int, ...], grids: tuple[Grid, ...]) -> tuple[int, ...]:
    pairs = zip(frequency, grids, strict=True)
    return tuple((-number - round(2 * grid.shift)) % grid.points for number, grid in pairs)
