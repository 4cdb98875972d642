"""Lipschitz constants that hold on balls: there, most ReLUs are known to be on or off (THEORY 2).

Layer by layer, an ellipsoid holds the change of every value over the ball. It says between which ends each activation's
input stays, hence which slopes it may have, hence the next ellipsoid.
"""

import math
from collections.abc import Callable, Iterator

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vaerdict.lipschitz.chains.affine import Affine, times_power
from vaerdict.lipschitz.chains.chain import Activation, Chain, dense_chain
from vaerdict.lipschitz.chains.ellipsoids import bound_activation, bound_last_activation, bound_linear, bound_norms
from vaerdict.lipschitz.chains.multipliers import bound_slope_restricted
from vaerdict.lipschitz.floats import UNIT, gamma, round_up
from vaerdict.lipschitz.graph.trace import trace

_SLACK = 1.001  # for the rounding of the error bounds themselves
_EVALUATION = 2.0**-48  # of an activation's evaluation in float64, relative to its input and output together
_CHUNK = 2**24  # numbers in one array
_Ends = tuple[Tensor, Tensor]


def bound_local_lipschitz(
    module: nn.Module,
    centers: Float[Tensor, "batch ..."],
    radii: Float[Tensor, " radii"],
    steps: int = 100,
    refine: int = 0,
) -> Float[Tensor, "batch radii"]:
    """Bound the L2 Lipschitz constant on balls from above, for layers in a row.

    What is proved for a ball holds for the smaller ones in it: the bounds do not fall as the radius grows, and are
    never above the global bound.

    Args:
        module: what `dense_chain` can write out.
        centers: of the balls, in the units of the input; their device does the work, in float64.
        radii: of the balls, in the same units, at least 0, in any order.
        steps: of gradient descent on the multipliers of the global bound.
        refine: of gradient descent on those of every single ball, a second or so per ball for a few dozen; 0 for none.

    Raises:
        NoSoundBound: the module is not layers in a row of known kinds.
        ValueError: a centre or radius is not finite, or a radius is negative.

    >>> net = nn.Sequential(nn.Linear(1, 1), nn.ReLU())
    >>> net[0].weight.data, net[0].bias.data = torch.tensor([[2.0]]), torch.tensor([-1.0])
    >>> bound_local_lipschitz(net, torch.tensor([[0.0]]), torch.tensor([0.4, 0.6])).round(decimals=6)
    tensor([[0., 2.]], dtype=torch.float64)
    """
    _check(centers, radii)
    chain = dense_chain(trace(module, tuple(centers.shape[1:])))
    anywhere = bound_slope_restricted(chain, steps=steps)
    ordered, order = radii.double().to(centers.device).sort()
    with torch.no_grad():
        bounds = _on_balls(chain, centers.flatten(1).double(), ordered, refine).clamp(max=anywhere)
        bounds = bounds.flip(1).cummin(1).values.flip(1)
    return bounds[:, order.argsort()]


def bound_local_changes(
    module: nn.Module, centers: Float[Tensor, "batch ..."], radii: Float[Tensor, "batch radii"]
) -> Float[Tensor, "batch radii outputs outputs"]:
    """Bound the changes of a module's output on balls from above, for layers in a row, by ellipsoids.

    Args:
        module: what `dense_chain` can write out.
        centers: of the balls, in the units of the input; their device does the work, in float64.
        radii: of each centre's balls, in the same units, at least 0.

    Returns:
        Matrices `V` with `v v^T <= V` for `v = (f(x + d) - f(x)) / |d|`, wherever `|d|` is at most the radius; infinite
        where nothing is proved.

    Raises:
        NoSoundBound: the module is not layers in a row of known kinds.
        ValueError: a centre or radius is not finite, or a radius is negative.

    >>> net = nn.Sequential(nn.Linear(1, 1), nn.ReLU(), nn.Linear(1, 1))
    >>> net[0].weight.data, net[0].bias.data = torch.tensor([[2.0]]), torch.tensor([-1.0])
    >>> net[2].weight.data = torch.tensor([[3.0]])
    >>> bound_local_changes(net, torch.tensor([[1.0]]), torch.tensor([[0.4]])).round(decimals=6)
    tensor([[[[36.]]]], dtype=torch.float64)
    """
    _check(centers, radii)
    chain = dense_chain(trace(module, tuple(centers.shape[1:])))
    pieces = []
    with torch.no_grad():
        for some, few in zip(*(all_.split(_at_once(chain, radii.shape[1])) for all_ in (centers, radii)), strict=True):
            where = some.flatten(1).double(), few.double().to(centers.device)
            shapes, power, _ = _shapes(chain, *where, last=bound_activation)
            lost = 1e-290 * torch.eye(shapes.shape[-1], dtype=shapes.dtype, device=shapes.device)  # to underflow
            pieces.append((times_power(shapes, 2 * power) + lost).unflatten(0, few.shape))
    held = torch.cat(pieces)
    return torch.where(torch.isfinite(held).flatten(2).all(2)[:, :, None, None], held, torch.inf)


def _check(centers: Tensor, radii: Tensor) -> None:
    if not (centers.is_floating_point() and torch.isfinite(centers).all()):
        raise ValueError("expected finite `centers`, got NaN or infinity")
    if not (torch.isfinite(radii).all() and (radii >= 0).all()):
        raise ValueError(f"expected finite `radii` >= 0, got {radii.tolist()}")


def _at_once(chain: Chain, radii: int) -> int:
    """Give how many centres are done together, so that an array stays below a size."""
    widest = max(len(one.bias) for one in chain.maps)
    return max(1, _CHUNK // widest**2 // max(1, radii))


def _on_balls(chain: Chain, centers: Tensor, radii: Tensor, refine: int) -> Float[Tensor, "batch radii"]:
    columns = [
        torch.cat([_norms(chain, some, few, refine) for some in centers.split(_at_once(chain, len(few)))])
        for few in radii.split(_at_once(chain, 1))
    ]
    return torch.cat(columns, 1)


def _norms(chain: Chain, centers: Tensor, radii: Tensor, refine: int) -> Float[Tensor, "batch radii"]:
    shapes, power, slopes = _shapes(chain, centers, radii.expand(len(centers), -1))
    finite = torch.isfinite(shapes).flatten(1).all(1)
    norms = bound_norms(torch.where(finite[:, None, None], shapes, 0.0)).where(finite, torch.inf)
    bounds = times_power(norms, power).nan_to_num(torch.inf, torch.inf) * (1 + 4 * UNIT) + 1e-300
    for ball in range(len(bounds)) if refine else ():
        ends_here = [(low[ball].cpu(), high[ball].cpu()) for low, high in slopes]
        bounds[ball] = min(float(bounds[ball]), bound_slope_restricted(chain, ends_here, refine))
    return bounds.reshape(len(centers), -1)


def _shapes(
    chain: Chain,
    centers: Tensor,
    radii: Float[Tensor, "batch radii"],
    last: Callable[[Tensor, Tensor, Tensor], Tensor] = bound_last_activation,
) -> tuple[Tensor, int, list[_Ends]]:
    """Carry ellipsoids for all centres and radii through the chain; powers of two keep the numbers near 1.

    Gives the last shapes, one after the other, divided by `4 ** power`, the power, and the slopes on the way. What the
    last shapes hold after a last activation is up to `last`.
    """
    steps = radii.shape[1]
    maps = [_on_device(one, centers.device) for one in chain.maps]
    reach = radii.flatten().clamp(min=1e-250)  # nothing underflows; larger balls hold smaller ones
    shapes = torch.eye(centers.shape[1], dtype=torch.float64, device=centers.device)[None]
    power = 0
    slopes: list[_Ends] = []
    values = _values(maps, chain.activations, centers)
    for index, one in enumerate(maps):
        divided, exponent = _normalised(one)
        power += exponent
        shapes = bound_linear(shapes, divided.weight, divided.weight_error, divided.size)
        shapes = shapes.expand(radii.numel(), -1, -1)
        if index < len(chain.activations):
            middle, off = (one.repeat_interleave(steps, 0) for one in next(values))
            width = times_power(reach[:, None] * _roots(shapes), power).nan_to_num(torch.inf) * (1 + 16 * UNIT)
            ends = chain.activations[index].slopes(*_widened(middle, width + off))
            slopes.append(ends)
            shapes = (bound_activation if index < len(maps) - 1 else last)(shapes, *ends)
    return shapes, power, slopes


def _roots(shapes: Tensor) -> Tensor:
    return shapes.diagonal(dim1=1, dim2=2).sqrt()


def _widened(middle: Tensor, width: Tensor) -> _Ends:
    rounding = 4 * UNIT * (middle.abs() + width)
    return middle - width - rounding, middle + width + rounding


def _on_device(one: Affine, device: torch.device) -> Affine:
    return Affine(one.weight.to(device), one.bias.to(device), one.weight_error, one.bias_error)


def _normalised(one: Affine) -> tuple[Affine, int]:
    """Divide a weight by a power of two near its Frobenius norm: exact but for what underflows."""
    size = one.size
    power = math.frexp(size)[1] if 0.0 < size < math.inf else 0
    error = round_up(math.ldexp(one.weight_error, -power)) + one.weight.numel() * 2.0**-1020
    return Affine(times_power(one.weight, -power), one.bias, error, one.bias_error), power


def _values(maps: list[Affine], activations: tuple[Activation, ...], centers: Tensor) -> Iterator[_Ends]:
    """Give every activation's input at the centres, and how far from the meant value it may be."""
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
