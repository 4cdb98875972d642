"""Proved upper bounds on the spectral norm of convolutions (THEORY 3).

An operator that is small enough is factored as a whole, which is exact up to rounding. A larger one is bounded by its
symbol, which is above it at the borders of the image; if by much, and the factorisation can be afforded, that is done.
"""

import math
from dataclasses import replace

import numpy as np
from jaxtyping import Float

from vaerdict.lipschitz.floats import round_up
from vaerdict.lipschitz.norms.banded import factorisation_cost, prove_banded
from vaerdict.lipschitz.norms.lanczos import estimate_largest_eigenvalue
from vaerdict.lipschitz.norms.placement import Axis, Convolution, ConvolutionLayer, read_convolution
from vaerdict.lipschitz.norms.scaling import scale_back
from vaerdict.lipschitz.norms.selection import gram_operator, operator_size, reads_anything
from vaerdict.lipschitz.norms.spectral import bound_largest_eigenvalue, climb
from vaerdict.lipschitz.norms.symbol import (
    Grid,
    bound_symbol,
    circular_grid,
    embedding_grid,
    shifted,
    supremum_grid,
    symbol_cost,
)
from vaerdict.lipschitz.norms.taps import TapGram, gram_of_taps

_Kernel = Float[np.ndarray, "outputs inputs *taps"]
_DENSE, _LARGEST = 1024, 2**15
"""Rows of a Gram matrix that is factored at once, and of one that is factored at all."""
_CHEAP, _SHIFTS, _AFFORDABLE = 5e10, 2e11, 1.6e12
"""Operations that are always spent on a whole matrix, on shifted grids, and at all."""
_CLOSE = 1.01


def bound_convolution_norm(layer: ConvolutionLayer, input_shape: tuple[int, ...] | None = None) -> tuple[float, str]:
    """Bound the largest singular value of a convolution, as an operator on images, from above.

    Stride, padding, dilation, groups and output padding are all accounted for; a transposed convolution is the adjoint
    of the convolution with its weight.

    Args:
        layer: the layer, evaluated without its bias.
        input_shape: `(channels, *sizes)` of its input; without it the bound holds for every size.

    Returns:
        The bound, and how it was proved, in words.

    Raises:
        ValueError: the weights are not finite and real, the shape does not fit, or nothing is known for this padding.

    >>> import torch
    >>> _ = torch.nn.init.ones_((layer := torch.nn.Conv2d(1, 1, 3, padding=1)).weight)
    >>> bound, evidence = bound_convolution_norm(layer, (1, 8, 8))
    >>> bound < 8.3 < bound_convolution_norm(layer)[0]
    True
    """
    convolution = read_convolution(layer, input_shape)
    ceilings = [_ceiling(group, convolution) for group in convolution.weight]
    best = (0.0, "no group")
    for group, ceiling in sorted(enumerate(ceilings), key=lambda pair: -pair[1]):
        if ceiling > best[0]:
            best = max(best, _bound_group(convolution.weight[group], convolution))
    return scale_back(best[0], convolution.power), best[1]


def _ceiling(weight: _Kernel, convolution: Convolution) -> float:
    """Bound a group's norm cheaply, so that few of many groups need more."""
    if len(convolution.weight) == 1 or convolution.mode in ("reflect", "replicate"):
        return math.inf
    return bound_symbol(weight, tuple(_grid(axis, convolution.mode) for axis in convolution.axes))


def _bound_group(weight: _Kernel, convolution: Convolution) -> tuple[float, str]:
    axes, mode = convolution.axes, convolution.mode
    if axes[0].size is None:
        return by_symbol(weight, axes, mode)
    if not reads_anything(weight, axes, mode):
        return 0.0, "reads nothing"
    gram = gram_of_taps(weight, axes, mode) if operator_size(weight, axes) <= _LARGEST else None
    cost = math.inf if gram is None else factorisation_cost(gram)
    if gram is not None and (cost <= _CHEAP or (mode in ("reflect", "replicate") and cost <= _AFFORDABLE)):
        return _written_out(gram, weight, convolution)
    if mode in ("reflect", "replicate"):
        raise ValueError(f"expected zero or circular padding for an operator of this size, got {mode!r}")
    quick = by_symbol(weight, axes, mode)
    if gram is None or cost > _AFFORDABLE or quick[0] <= _CLOSE * math.sqrt(_estimate(weight, convolution)[0]):
        return quick
    return min(quick, _written_out(gram, weight, convolution))


def _estimate(weight: _Kernel, convolution: Convolution) -> tuple[float, float]:
    return estimate_largest_eigenvalue(*gram_operator(weight, convolution.axes, convolution.mode))


def _written_out(gram: TapGram, weight: _Kernel, convolution: Convolution) -> tuple[float, str]:
    if gram.size <= _DENSE:
        squared = bound_largest_eigenvalue(gram.dense(), gram.error)
    else:
        value, doubt = _estimate(weight, convolution)
        squared = climb(lambda tau: prove_banded(gram, tau), value, doubt, 0.0, gram.size)[1] + gram.error
    return round_up(math.sqrt(max(squared, 0.0)), 4), f"verified Cholesky of the Gram matrix of {gram.size} rows"


def by_symbol(weight: _Kernel, axes: tuple[Axis, ...], mode: str) -> tuple[float, str]:
    """Bound the norm of one group by its symbol: the image may have any size, and borders cost tightness."""
    grids = tuple(_grid(axis, mode) for axis in axes)
    choices = [grids]
    if mode == "zeros" and axes[0].size is not None:
        if symbol_cost(weight, grids) > _AFFORDABLE:
            choices = [tuple(supremum_grid(axis) for axis in axes)]
        elif 4 * symbol_cost(weight, grids) <= _SHIFTS:
            choices = shifted(grids)
    bound, chosen = min((bound_symbol(weight, choice), choice) for choice in choices)
    points = " x ".join(str(grid.points) for grid in chosen)
    return bound, f"verified Cholesky of the symbol on a {points} grid"


def _grid(axis: Axis, mode: str) -> Grid:
    if mode in ("reflect", "replicate"):
        raise ValueError(f"expected `input_shape` for {mode} padding, got None")
    if mode == "circular" and axis.size is not None:
        return circular_grid(axis)
    if mode == "circular":
        if axis.before + axis.after > axis.reach:
            raise ValueError("expected `input_shape` for circular padding wider than the kernel, got None")
        # No output repeats, so they are rows of the circular convolution of stride 1.
        return supremum_grid(replace(axis, stride=1))
    return supremum_grid(axis) if axis.size is None else embedding_grid(axis)
