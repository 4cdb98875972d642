"""How far a module's output moves when its input moves in a ball: changes from the centre alone (THEORY 2).

They are smaller than those between any two points: a ReLU well above 0 at the centre loses little on the way to a point
just below, so that its chord from the centre is nearly as steep as a line. And multipliers are made for each centre.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vaerdict.lipschitz.chains.affine import times_power
from vaerdict.lipschitz.chains.carry import Carried, carry_ellipsoids, centers_at_once, check_own_balls
from vaerdict.lipschitz.chains.chain import Activation, Chain, dense_chain
from vaerdict.lipschitz.chains.ellipsoids import bound_activation, bound_norms
from vaerdict.lipschitz.chains.proposals import Proposal, propose_multipliers
from vaerdict.lipschitz.graph.trace import trace

_ROUNDS = 2
_RATE = 0.2  # a few steps are to do
_Ends = tuple[Tensor, Tensor]


def bound_local_changes(
    module: nn.Module,
    centers: Float[Tensor, "batch ..."],
    radii: Float[Tensor, "batch radii"],
    units: Float[Tensor, "batch outputs"] | None = None,
    steps: int = 20,
) -> Float[Tensor, "batch radii outputs outputs"]:
    """Bound the changes of a module's output on balls from above, for layers in a row, by ellipsoids.

    Only changes from the centre are held, not those between any two points of a ball.

    Args:
        module: what `dense_chain` can write out.
        centers: of the balls, in the units of the input; their device does the work, in float64.
        radii: of each centre's balls, in the same units, at least 0, rising.
        units: of the outputs, above 0; the ellipsoids are made tight for changes in these.
        steps: of gradient descent on each centre's multipliers, twice; 0 takes closed forms, which also stand where
            they are tighter.

    Returns:
        Matrices `V` with `v v^T <= V` for `v = (f(x + d) - f(x)) / |d|`, wherever `|d|` is at most the radius; infinite
        where nothing is proved.

    Raises:
        NoSoundBound: the module is not layers in a row of known kinds.
        ValueError: a centre, radius or unit is not finite, a radius is negative, a unit is not above 0, or their
            numbers differ.

    >>> net = nn.Sequential(nn.Linear(1, 1), nn.ReLU(), nn.Linear(1, 1))
    >>> net[0].weight.data, net[0].bias.data = torch.tensor([[2.0]]), torch.tensor([-1.0])
    >>> net[2].weight.data = torch.tensor([[3.0]])
    >>> bound_local_changes(net, torch.tensor([[1.0]]), torch.tensor([[0.4]])).round(decimals=6)
    tensor([[[[36.]]]], dtype=torch.float64)
    """
    check_own_balls(centers, radii, steps)
    chain = dense_chain(trace(module, tuple(centers.shape[1:])))
    outputs = (len(centers), len(chain.maps[-1].bias))
    units = radii.new_ones(outputs) if units is None else units
    if units.shape != outputs:
        raise ValueError(f"expected `units` of shape {outputs}, got {tuple(units.shape)}")
    if not ((units > 0) & torch.isfinite(units)).all():
        raise ValueError(f"expected finite `units` > 0, got {units.tolist()}")
    every = (centers.flatten(1), radii, units)
    parts = (one.double().to(centers.device).split(centers_at_once(chain, radii.shape[1])) for one in every)
    with torch.no_grad():
        held = torch.cat(
            [_changes(Balls(chain, *some), some_units, steps) for *some, some_units in zip(*parts, strict=True)]
        )
    return torch.where(torch.isfinite(held).flatten(2).all(2)[:, :, None, None], held, torch.inf)


def _changes(
    balls: "Balls", units: Float[Tensor, "batch outputs"], steps: int
) -> Float[Tensor, "batch radii outputs outputs"]:
    carried = balls.carry(balls.radii, None)
    shapes = carried.shapes
    if (proposal := balls.propose(steps, lambda *_: _last_weights(balls, units))) is not None:
        proposed = balls.carry(balls.radii, proposal).shapes
        smaller = _sizes(proposed, balls, units) < _sizes(shapes, balls, units)
        shapes = torch.where(smaller[:, None, None], proposed, shapes)
    lost = 1e-290 * torch.eye(shapes.shape[-1]).to(shapes)  # to underflow
    return (times_power(shapes, 2 * carried.power) + lost).unflatten(0, balls.radii.shape)


def _last_weights(balls: "Balls", units: Float[Tensor, "batch outputs"]) -> Float[Tensor, "batch outputs n"]:
    """Give what follows the last activation, the outputs in their units."""
    after = len(balls.chain.maps) > len(balls.chain.activations)
    last = balls.chain.maps[-1].weight if after else torch.eye(units.shape[1])
    return last.to(units) / units[:, :, None]


def _sizes(
    shapes: Float[Tensor, "balls outputs outputs"], balls: "Balls", units: Float[Tensor, "batch outputs"]
) -> Float[Tensor, " balls"]:
    """Give the lengths of the largest axes in the outputs' units."""
    units = units.repeat_interleave(balls.radii.shape[1], 0)
    whitened = shapes / units[:, :, None] / units[:, None]
    finite = torch.isfinite(whitened).flatten(1).all(1)
    return bound_norms(torch.where(finite[:, None, None], whitened, 0.0)).where(finite, torch.inf)


@dataclass(frozen=True)
class Balls:
    """Balls of a chain's inputs.

    Attributes:
        chain: what they go through.
        centers: in float64.
        radii: of each centre's balls.
    """

    chain: Chain
    centers: Float[Tensor, "batch n"]
    radii: Float[Tensor, "batch radii"]

    def propose(self, steps: int, last: Callable[[Carried, Tensor], Tensor]) -> Proposal | None:
        """Find multipliers for each centre's third largest ball; better ones narrow its slopes, so do it twice.

        Args:
            steps: of gradient descent.
            last: gives the weights after the last activation, `[batch, outputs, n]`, from the third largest balls
                carried through the chain, and their radii.
        """
        third = self.radii.sort(dim=1, descending=True).values[:, :3][:, -1:]
        inner = self.chain.maps[: len(self.chain.activations)]
        weights = [one.to(self.centers.device).weight for one in inner]
        proposal = None
        for _ in range(_ROUNDS if steps and third.numel() and inner else 0):
            carried = self.carry(third, proposal)
            ends = carried.slopes
            middles, halves = [0.5 * (low + high) for low, high in ends], [0.5 * (high - low) for low, high in ends]
            try:
                proposal = propose_multipliers([*weights, last(carried, third)], middles, halves, steps, _RATE)
            except torch.linalg.LinAlgError:  # no multipliers: the closed forms stand
                break
        return proposal

    def carry(self, radii: Float[Tensor, "batch radii"], proposal: Proposal | None) -> Carried:
        """Carry ellipsoids of changes from the centres, by multipliers or by closed forms."""

        def enclose(index: int, shapes: Tensor, low: Tensor, high: Tensor) -> Tensor:
            if proposal is None:
                return bound_activation(shapes, low, high)
            own = (part[index].repeat_interleave(radii.shape[1], 0) for part in (proposal.shares, proposal.gaps))
            return bound_activation(shapes, low, high, *own)

        return carry_ellipsoids(self.chain, self.centers, radii, _from_center, enclose)


def _from_center(activation: Activation, nearest: _Ends, low: Tensor, high: Tensor) -> _Ends:
    return activation.chords(nearest, low, high)
