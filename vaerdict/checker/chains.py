"""Rows of layers in which linear ones that follow each other count as one matrix: the seam (THEORY 2)."""

import math
from collections.abc import Sequence
from functools import reduce

import numpy as np
from flint import arb

from vaerdict.checker.convolution import MOST_ENTRIES
from vaerdict.checker.layers import Layer, Unknown, batch_norm_factors, selected
from vaerdict.checker.products import UNIT, Near, frobenius, round_up
from vaerdict.checker.spectral import bound_matrix_norm

_MOVES = ("Identity", "Flatten", "Unflatten", "Dropout", "Dropout2d")
_LINEAR = ("Linear", "BatchNorm1d", "BatchNorm2d", "Scale", "Select")


def bound_chain(layers: Sequence[Layer], last: Near) -> tuple[arb, arb]:
    """Bound the Lipschitz constant of layers in a row with one more matrix after them.

    Returns:
        The product of the merged matrices' norms and of the steepest slopes between them; and how much of it may be
        rounding, which is all of it where matrices cancel.

    Raises:
        Unknown: a layer has no rule here, or is too large to be written out.

    >>> from vaerdict.checker.printed import read_call
    >>> one = Layer(read_call("Linear(2, 2)"), (2,), {"weight": np.diag([8.0, 0.0])})
    >>> bool(bound_chain([one], Near(np.diag([0.0, 8.0])))[0] < 1e-9)
    True
    """
    product, held = arb(1), arb(1)
    run: list[Layer] = []
    for layer in layers:
        if layer.call.kind in _MOVES:
            continue
        if layer.is_linear or layer.call.kind in _LINEAR:
            run.append(layer)
            continue
        slope = arb(layer.bound())
        norm, error = _norm(run)
        product, held, run = product * slope * (norm + error), held * slope * norm, []
    norm, error = _norm(run, last)
    product, held = product * (norm + error), held * norm
    return product, product - held


def _norm(run: Sequence[Layer], last: Near | None = None) -> tuple[arb, arb]:
    """Bound the norm of the product of linear layers as computed, and how far the meant one is from it."""
    if last is None and len(run) < 2:
        return arb(run[0].bound() if run else 1), arb(0)
    matrices = [*map(written_out, run), *([] if last is None else [last])]
    merged = reduce(lambda before, after: after @ before, matrices)
    return arb(bound_matrix_norm(merged.values)), arb(merged.error)


def written_out(layer: Layer) -> Near:
    """Write a linear layer out for flattened values, rows for outputs.

    Raises:
        Unknown: it is too large, or not linear.

    >>> from vaerdict.checker.printed import read_call
    >>> written_out(Layer(read_call("Select(1, None)"), (2,))).values
    array([[0., 1.]])
    """
    inputs, outputs, kind = math.prod(layer.shape), math.prod(layer.output_shape), layer.call.kind
    if inputs * outputs > MOST_ENTRIES:
        raise Unknown(f"{kind} is too large to be written out as a matrix")
    if kind == "Linear":
        return Near(np.kron(np.eye(inputs // layer.shape[-1]), layer.matrix))
    if layer.is_linear:
        return Near(layer.matrix)
    if kind == "Select":
        kept = np.arange(inputs).reshape(layer.shape)[selected(layer)]
        return Near(np.eye(inputs)[kept.ravel()])
    if kind == "Scale":
        return _diagonal(np.full(inputs, float(layer.option("factor", 0, None))))
    if kind in ("BatchNorm1d", "BatchNorm2d"):
        return _diagonal(np.repeat(batch_norm_factors(layer), inputs // layer.shape[0]))
    raise Unknown(f"{kind} is not linear")


def _diagonal(values: np.ndarray) -> Near:
    """Give a diagonal matrix whose entries are a few roundings off."""
    return Near(np.diag(values), round_up(8 * UNIT * frobenius(values), 4))
