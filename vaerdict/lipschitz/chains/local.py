"""Lipschitz constants that hold on balls: there, most ReLUs are known to be on or off (THEORY 2)."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vaerdict.lipschitz.chains.affine import times_power
from vaerdict.lipschitz.chains.carry import carry_ellipsoids, centers_at_once, check_balls
from vaerdict.lipschitz.chains.chain import Activation, Chain, dense_chain
from vaerdict.lipschitz.chains.ellipsoids import bound_activation, bound_last_activation, bound_norms
from vaerdict.lipschitz.chains.multipliers import bound_slope_restricted
from vaerdict.lipschitz.floats import UNIT
from vaerdict.lipschitz.graph.trace import trace

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
    check_balls(centers, radii)
    chain = dense_chain(trace(module, tuple(centers.shape[1:])))
    anywhere = bound_slope_restricted(chain, steps=steps)
    ordered, order = radii.double().to(centers.device).sort()
    with torch.no_grad():
        bounds = _on_balls(chain, centers.flatten(1).double(), ordered, refine).clamp(max=anywhere)
        bounds = bounds.flip(1).cummin(1).values.flip(1)
    return bounds[:, order.argsort()]


def _on_balls(chain: Chain, centers: Tensor, radii: Tensor, refine: int) -> Float[Tensor, "batch radii"]:
    columns = [
        torch.cat([_norms(chain, some, few, refine) for some in centers.split(centers_at_once(chain, len(few)))])
        for few in radii.split(centers_at_once(chain, 1))
    ]
    return torch.cat(columns, 1)


def _norms(chain: Chain, centers: Tensor, radii: Tensor, refine: int) -> Float[Tensor, "batch radii"]:
    inner = len(chain.maps) - 1

    def enclose(index: int, shapes: Tensor, low: Tensor, high: Tensor) -> Tensor:
        return (bound_activation if index < inner else bound_last_activation)(shapes, low, high)

    carried = carry_ellipsoids(chain, centers, radii.expand(len(centers), -1), _between_any, enclose)
    shapes = carried.shapes
    finite = torch.isfinite(shapes).flatten(1).all(1)
    norms = bound_norms(torch.where(finite[:, None, None], shapes, 0.0)).where(finite, torch.inf)
    bounds = times_power(norms, carried.power).nan_to_num(torch.inf, torch.inf) * (1 + 4 * UNIT) + 1e-300
    for ball in range(len(bounds)) if refine else ():
        ends_here = [(low[ball].cpu(), high[ball].cpu()) for low, high in carried.slopes]
        bounds[ball] = min(float(bounds[ball]), bound_slope_restricted(chain, ends_here, refine))
    return bounds.reshape(len(centers), -1)


def _between_any(activation: Activation, _: _Ends, low: Tensor, high: Tensor) -> _Ends:
    """Bound the slopes between any two points, as a Lipschitz constant asks for."""
    return activation.slopes(low, high)
