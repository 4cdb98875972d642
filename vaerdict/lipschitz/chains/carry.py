"""Ellipsoids carried through a chain for many balls at once, with all rounding added (THEORY 3.2).

Layer by layer, an ellipsoid holds the change of every value over the ball. It says between which ends each activation's
input stays, hence which slopes it may have, hence the next ellipsoid.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from vaerdict.lipschitz.chains.affine import Affine, times_power
from vaerdict.lipschitz.chains.chain import Activation, Chain
from vaerdict.lipschitz.chains.ellipsoids import bound_linear
from vaerdict.lipschitz.floats import UNIT, gamma, round_up

_SLACK = 1.001  # for the rounding of the error bounds themselves
_EVALUATION = 2.0**-48  # of an activation's evaluation in float64, relative to its input and output together
_CHUNK = 2**24  # numbers in one array
LEAST_RADIUS = 1e-250
"""Smaller balls are taken to be so large: then nothing underflows."""
_Ends = tuple[Tensor, Tensor]
Slopes = Callable[[Activation, _Ends, Tensor, Tensor], _Ends]
"""Gives an activation's slopes from where its input is at the centre, and between which ends it stays."""
Enclose = Callable[[int, Tensor, Tensor, Tensor], Tensor]
"""Gives the shapes after an activation from its index, the shapes before it and the ends of its slopes."""


@dataclass(frozen=True)
class Carried:
    """Ellipsoids after the last layer, for all centres and, of each, all radii.

    Attributes:
        shapes: of the ellipsoids, divided by `4 ** power`.
        power: of two.
        slopes: of each activation on the way, least and greatest.
    """

    shapes: Float[Tensor, "balls n n"]
    power: int
    slopes: list[_Ends]


def check_balls(centers: Tensor, radii: Tensor) -> None:
    """Refuse balls that are not finite.

    Raises:
        ValueError: a centre or radius is not finite, or a radius is negative.
    """
    if not (centers.is_floating_point() and torch.isfinite(centers).all()):
        raise ValueError("expected finite `centers`, got NaN or infinity")
    if not (torch.isfinite(radii).all() and (radii >= 0).all()):
        raise ValueError(f"expected finite `radii` >= 0, got {radii.tolist()}")


def check_own_balls(centers: Tensor, radii: Tensor, steps: int) -> None:
    """Refuse balls of which each centre should have its own, and numbers of steps.

    Raises:
        ValueError: a centre or radius is not finite, a radius is negative, their numbers differ, or `steps` < 0.
    """
    check_balls(centers, radii)
    if len(radii) != len(centers):
        raise ValueError(f"expected `radii` of {len(centers)} centres, got {len(radii)}")
    if steps < 0:
        raise ValueError(f"expected `steps` >= 0, got {steps}")


def centers_at_once(chain: Chain, radii: int) -> int:
    """Give how many centres are done together, so that an array stays below a size."""
    widest = max(len(one.bias) for one in chain.maps)
    return max(1, _CHUNK // widest**2 // max(1, radii))


def carry_ellipsoids(
    chain: Chain,
    centers: Float[Tensor, "batch n"],
    radii: Float[Tensor, "batch radii"],
    slopes: Slopes,
    enclose: Enclose,
) -> Carried:
    """Carry the unit ball through the chain for all centres and radii; powers of two keep the numbers near 1."""
    steps = radii.shape[1]
    maps = [one.to(centers.device) for one in chain.maps]
    reach = radii.flatten().clamp(min=LEAST_RADIUS)
    shapes = torch.eye(centers.shape[1], dtype=torch.float64, device=centers.device)[None]
    power = 0
    found: list[_Ends] = []
    values = activation_inputs(maps, chain.activations, centers)
    for index, one in enumerate(maps):
        divided, exponent = normalised(one)
        power += exponent
        shapes = bound_linear(shapes, divided.weight, divided.weight_error, divided.size)
        shapes = shapes.expand(radii.numel(), -1, -1)
        if index < len(chain.activations):
            middle, off = (one.repeat_interleave(steps, 0) for one in next(values))
            width = times_power(reach[:, None] * _roots(shapes), power).nan_to_num(torch.inf) * (1 + 16 * UNIT)
            ends = slopes(chain.activations[index], widened(middle, off), *widened(middle, width + off))
            found.append(ends)
            shapes = enclose(index, shapes, *ends)
    return Carried(shapes, power, found)


def _roots(shapes: Tensor) -> Tensor:
    return shapes.diagonal(dim1=1, dim2=2).sqrt()


def widened(middle: Tensor, width: Tensor) -> _Ends:
    """Give the ends of intervals, moved outward by their rounding.

    >>> low, high = widened(torch.ones(1).double(), torch.ones(1).double())
    >>> bool(low < 0), bool(high > 2)
    (True, True)
    """
    rounding = 4 * UNIT * (middle.abs() + width)
    return middle - width - rounding, middle + width + rounding


def normalised(one: Affine) -> tuple[Affine, int]:
    """Divide a weight by a power of two near its Frobenius norm: exact but for what underflows.

    >>> normalised(Affine(8 * torch.eye(1).double(), torch.zeros(1).double()))[1]
    4
    """
    size = one.size
    power = math.frexp(size)[1] if 0.0 < size < math.inf else 0
    error = round_up(math.ldexp(one.weight_error, -power)) + one.weight.numel() * 2.0**-1020
    return Affine(times_power(one.weight, -power), one.bias, error, one.bias_error), power


def activation_inputs(maps: Sequence[Affine], activations: Sequence[Activation], centers: Tensor) -> Iterator[_Ends]:
    """Give every activation's input at the centres, and how far from the meant value it may be.

    >>> from vaerdict.lipschitz.chains.chain import dense_chain
    >>> from vaerdict.lipschitz.graph.trace import trace
    >>> chain = dense_chain(trace(torch.nn.Sequential(torch.nn.Linear(1, 2), torch.nn.ReLU())))
    >>> [tuple(one.shape) for one, _ in activation_inputs(chain.maps, chain.activations, torch.ones(1, 1).double())]
    [(1, 2)]
    """
    values, off = centers, torch.zeros_like(centers)
    for one, activation in zip(maps, activations, strict=False):
        magnitude, terms = one.weight.abs(), one.weight.shape[1]
        inner = values.norm(dim=1, keepdim=True) * _SLACK
        rounding = gamma(terms + 4) * (values.abs() @ magnitude.T + one.bias.abs())
        off = off @ magnitude.T + rounding + one.weight_error * inner + one.bias_error
        off = _SLACK * (off + one.weight_error * off.norm(dim=1, keepdim=True)) + 2.0**-1000
        values = values @ one.weight.T + one.bias
        yield values, off
        after = activation.apply(values)
        low, high = activation.slopes(values - off, values + off)
        off = _SLACK * torch.maximum(low.abs(), high.abs()) * off + _EVALUATION * (values.abs() + after.abs())
        values = after
