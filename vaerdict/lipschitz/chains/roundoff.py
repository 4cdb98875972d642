"""How far an evaluation in floating point may be from the real function near given points, by ellipsoids (THEORY 7.1).

Layer by layer as it is evaluated, one ellipsoid holds the change of the exact values over the ball, another the error
of the computed ones. Each layer moves both, and adds a box of its own rounding to the second.
"""

from dataclasses import dataclass, replace
from itertools import zip_longest

import torch
from jaxtyping import Float, Float64
from torch import Tensor, nn

from vaerdict.lipschitz.chains.affine import Affine
from vaerdict.lipschitz.chains.carry import check_balls
from vaerdict.lipschitz.chains.chain import Activation
from vaerdict.lipschitz.chains.ellipsoids import bound_activation, bound_linear
from vaerdict.lipschitz.chains.evaluated import Evaluated, evaluated_layers
from vaerdict.lipschitz.floats import UNIT, gamma
from vaerdict.lipschitz.graph.trace import trace
from vaerdict.lipschitz.rounding.arithmetic import Arithmetic, read_arithmetic
from vaerdict.lipschitz.rounding.bound import refuse_other_weights
from vaerdict.lipschitz.sizes import norm_of_each

_UP = 1.0 + 1e-9  # more than the float64 rounding of a sum of at most 2**24 terms above 0
_EVALUATION = 2.0**-48  # of an activation's evaluation in float64, relative to its input and output together
_LEAST = 1e-120  # its square does not underflow
_CHUNK = 2**24  # numbers in one array


def bound_local_rounding(
    module: nn.Module,
    centers: Float[Tensor, "batch ..."],
    radii: Float[Tensor, " batch"],
    dtype: torch.dtype = torch.float32,
) -> Float64[Tensor, "batch outputs outputs"]:
    """Bound `e = fl(f)(y) - f(y)` for every input `y` of some balls, by ellipsoids.

    `f` and `fl(f)` are those of `bound_rounding`, under the same settings and refusals, on the centres' device.

    Args:
        module: layers in a row that `evaluated_layers` knows, in evaluation mode, with all weights in `dtype`.
        centers: of the balls, in the units of the input.
        radii: of the balls, in the same units, in the L2 norm.
        dtype: of the evaluation, float32 or float64.

    Returns:
        Matrices `E` with `e e^T <= E`; infinite where nothing is proved.

    Raises:
        NoSoundBound: a layer, or a setting of torch, for which nothing is known.
        ValueError: a centre or radius is not finite, or a radius is negative.

    >>> errors = bound_local_rounding(nn.Linear(100, 1), torch.zeros(1, 100), torch.ones(1))
    >>> 0 < float(errors.sqrt()) < 1e-5
    True
    """
    check_balls(centers, radii)
    refuse_other_weights(module, dtype)
    layers = evaluated_layers(trace(module, tuple(centers.shape[1:])))
    arithmetic = read_arithmetic(dtype, centers.device, convolves=any(one.convolves for one in layers))
    count = max(1, _CHUNK // max(one.widest for one in layers) ** 2)
    points, reach = centers.flatten(1).double(), radii.double().to(centers.device).clamp(min=_LEAST)
    with torch.no_grad():
        parts = [_walk(layers, *part, arithmetic) for part in zip(points.split(count), reach.split(count), strict=True)]
    errors = torch.cat(parts)
    return torch.where(torch.isfinite(errors).flatten(1).all(1)[:, None, None], errors, torch.inf)


@dataclass(frozen=True)
class _State:
    """What is known of the values after some layers.

    Attributes:
        values: of the centres, near the exact ones.
        off: how far from those at most.
        reach: radii of the balls.
        changes: shapes that hold the changes of the exact values, divided by the radius.
        errors: shapes that hold the errors of the computed values; None where there are none.
    """

    values: Float64[Tensor, "batch n"]
    off: Float64[Tensor, "batch n"]
    reach: Float64[Tensor, "batch 1"]
    changes: Float64[Tensor, "some n n"]
    errors: Float64[Tensor, "batch n n"] | None = None

    @property
    def width(self) -> Float64[Tensor, "batch n"]:
        """Bound the changes of every exact value."""
        return _UP * self.reach * _roots(self.changes)

    @property
    def error(self) -> Float64[Tensor, "batch n"]:
        """Bound the error of every computed value."""
        return torch.zeros_like(self.off) if self.errors is None else _UP * _roots(self.errors)

    @property
    def largest(self) -> Float64[Tensor, "batch n"]:
        """Bound the computed values."""
        return _UP * (self.values.abs() + self.off + self.width + self.error)

    def sums(self, magnitudes: Float64[Tensor, "m n"]) -> Float64[Tensor, "batch m"]:
        """Bound the sums of the computed values' magnitudes, with weights at least 0."""
        size = (self.values.abs() + self.off) @ magnitudes.T + self.reach * _spread(magnitudes, self.changes)
        return _UP * (size if self.errors is None else size + _spread(magnitudes, self.errors))


def _walk(layers: list[Evaluated], centers: Tensor, reach: Tensor, arithmetic: Arithmetic) -> Tensor:
    unit = torch.eye(centers.shape[1], dtype=torch.float64, device=centers.device)[None]
    state = _State(centers, torch.zeros_like(centers), reach[:, None], unit)
    for layer in layers:
        added = _added(layer, state, arithmetic)
        for one, activation in zip_longest(layer.maps, layer.activations):
            if one is not None:
                state = _through(state, one.to(centers.device))
            if activation is not None:
                state = _activated(state, activation)
        if added is not None:
            state = replace(state, errors=_with_box(state.errors, added))
    return torch.zeros_like(state.values).diag_embed() if state.errors is None else state.errors


def _added(layer: Evaluated, state: _State, arithmetic: Arithmetic) -> Float64[Tensor, "batch m"] | None:
    """Bound what rounding adds to every value in a layer; infinite where one may overflow, None where nothing is added.

    Sums of products are in any order, with fused operations or without; underflow is counted as in `bound_rounding`.
    """
    if layer.terms is not None:
        (one,) = layer.maps
        assert one is not None  # only moves and activations leave it out
        return _of_products(one.to(state.values.device), layer.terms, state, arithmetic)
    if layer.slope is None:
        return None
    size = _UP * layer.slope * state.largest
    return _unless_overflow(size, arithmetic.gamma(3) * size + 8 * arithmetic.tiny, arithmetic)


def _of_products(one: Affine, terms: int, state: _State, arithmetic: Arithmetic) -> Float64[Tensor, "batch m"]:
    magnitudes = one.weight.abs()
    size = state.sums(magnitudes) + one.bias.abs()
    lost = 2 * terms + 4 + terms * state.largest.amax(1, True) + magnitudes.sum(1)
    return _unless_overflow(2 * size, arithmetic.product_error(terms) * size + 2 * arithmetic.tiny * lost, arithmetic)


def _unless_overflow(largest: Tensor, added: Tensor, arithmetic: Arithmetic) -> Tensor:
    return torch.where(largest <= arithmetic.largest, _UP * added, torch.inf)


def _through(state: _State, one: Affine) -> _State:
    """Move everything through a matrix that is known exactly."""
    magnitudes, size = one.weight.abs(), one.size
    rounding = gamma(one.weight.shape[1] + 4) * (state.values.abs() @ magnitudes.T + one.bias.abs())
    return _State(
        values=state.values @ one.weight.T + one.bias,
        off=_UP * (state.off @ magnitudes.T + rounding) + _LEAST,
        reach=state.reach,
        changes=bound_linear(state.changes, one.weight, 0.0, size),
        errors=None if state.errors is None else bound_linear(state.errors, one.weight, 0.0, size),
    )


def _activated(state: _State, activation: Activation) -> _State:
    """Use chords from the centre for the changes, those between any two values for the errors."""
    middle, off = state.values, state.off
    low, high = _ends(middle, off + state.width)
    chords = activation.chords(_ends(middle, off), low, high)
    after = activation.apply(middle)
    least, greatest = activation.slopes(*_ends(middle, off))
    steepest = torch.maximum(least.abs(), greatest.abs())
    errors = state.errors
    if errors is not None:
        errors = bound_activation(errors, *activation.slopes(*_ends(middle, off + state.width + state.error)))
    return _State(
        values=after,
        off=_UP * (steepest * off + _EVALUATION * (middle.abs() + after.abs())) + _LEAST,
        reach=state.reach,
        changes=bound_activation(state.changes.expand(len(middle), -1, -1), *chords),
        errors=errors,
    )


def _with_box(errors: Tensor | None, sides: Float64[Tensor, "batch n"]) -> Tensor:
    """Hold the sums of what is held so far and of any vector with `|v_i| <= sides_i`.

    The box lies in the ellipsoid of shape `diag(sides_i sum(sides))`, as `sum v_i^2 / (sides_i sum) <= 1`, and
    `(x + y)(x + y)^T <= (1 + 1/t) x x^T + (1 + t) y y^T` for any `t > 0`; this one has the least trace.
    """
    sides = sides.clamp(min=_LEAST)
    box = _UP * sides * sides.sum(1, keepdim=True)
    if errors is None:
        return torch.diag_embed(box)
    t = (errors.diagonal(dim1=1, dim2=2).sum(1) / box.sum(1)).sqrt().clamp(1e-9, 1e9)[:, None]
    held = (_UP * (1 + 1 / t))[:, :, None] * errors
    return held + torch.diag_embed(_UP * (1 + t) * box + 8 * UNIT * _UP * norm_of_each(held)[:, None])


def _spread(magnitudes: Float64[Tensor, "m n"], shapes: Float64[Tensor, "some n n"]) -> Float64[Tensor, "some m"]:
    """Bound `sum_k M_jk |v_k|` for what shapes hold: with any signs, it is `a . v` with `|a| = M_j`."""
    return _UP * ((magnitudes @ shapes.abs()) * magnitudes).sum(2).sqrt()


def _roots(shapes: Float64[Tensor, "some n n"]) -> Float64[Tensor, "some n"]:
    return shapes.diagonal(dim1=1, dim2=2).sqrt()


def _ends(middle: Tensor, width: Tensor) -> tuple[Tensor, Tensor]:
    rounding = 4 * UNIT * (middle.abs() + width)
    return middle - width - rounding, middle + width + rounding
