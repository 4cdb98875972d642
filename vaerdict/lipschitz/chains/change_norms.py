"""How long the changes of a module's output are when its input moves in a ball, of however many outputs (THEORY 2).

The last layer's ellipsoids are not made: with `G` those before it and `G <= L L^T + e I`,

    |S W v|^2 <= |S W L|^2 + e |S W|^2,

where `S` are the steepest slopes of an activation behind it; `W L` has one column per input of the last layer.
"""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Float64
from torch import Tensor, nn

from vaerdict.lipschitz.chains.affine import Affine, times_power
from vaerdict.lipschitz.chains.carry import (
    LEAST_RADIUS,
    Carried,
    activation_inputs,
    centers_at_once,
    check_own_balls,
    normalised,
    widened,
)
from vaerdict.lipschitz.chains.chain import Chain, dense_chain
from vaerdict.lipschitz.chains.changes import Balls
from vaerdict.lipschitz.chains.ellipsoids import bound_norms
from vaerdict.lipschitz.floats import UNIT, gamma
from vaerdict.lipschitz.graph.trace import trace
from vaerdict.lipschitz.sizes import norm_of_each

_SLACK = 1.001  # for the rounding of the error bounds themselves
_UP = 1 + 1e-12  # for that of norms
_RIDGE = 1e-12  # of the trace: keeps the factor of a shape without full rank
_LEAST = 1e-9  # slope, in proposals only


def bound_local_change_norms(
    module: nn.Module, centers: Float[Tensor, "batch ..."], radii: Float[Tensor, "batch radii"], steps: int = 20
) -> Float64[Tensor, "batch radii"]:
    """Bound `|f(x + d) - f(x)| / |d|` from above, wherever `|d|` is at most a radius, for layers in a row.

    Only changes from the centre are held, not those between any two points of a ball.

    Args:
        module: what `dense_chain` can write out.
        centers: of the balls, in the units of the input; their device does the work, in float64.
        radii: of each centre's balls, in the same units, at least 0.
        steps: of gradient descent on each centre's multipliers, twice; 0 takes closed forms, which also stand where
            they are tighter.

    Returns:
        Outputs per unit of input; infinite where nothing is proved.

    Raises:
        NoSoundBound: the module is not layers in a row of known kinds.
        ValueError: a centre or radius is not finite, a radius is negative, or their numbers differ.

    >>> net = nn.Sequential(nn.Linear(1, 1, bias=False), nn.ReLU())
    >>> net[0].weight.data = torch.tensor([[2.0]])
    >>> bound_local_change_norms(net, torch.tensor([[-1.0]]), torch.tensor([[0.9, 3.0]])).round(decimals=6)
    tensor([[0.0000, 1.3333]], dtype=torch.float64)
    """
    check_own_balls(centers, radii, steps)
    chain = dense_chain(trace(module, tuple(centers.shape[1:])))
    every = (centers.flatten(1), radii)
    parts = (one.double().to(centers.device).split(centers_at_once(chain, radii.shape[1])) for one in every)
    with torch.no_grad():
        return torch.cat([_Norms(chain, *some).bound(steps) for some in zip(*parts, strict=True)])


@dataclass(frozen=True)
class _Norms:
    chain: Chain
    centers: Float64[Tensor, "batch n"]
    radii: Float64[Tensor, "batch radii"]

    def bound(self, steps: int) -> Float64[Tensor, "batch radii"]:
        """Take the smaller of what closed forms and what found multipliers prove."""
        kept = len(self.chain.maps) - 1
        inner = replace(self.chain, maps=self.chain.maps[:kept], activations=self.chain.activations[:kept])
        balls = Balls(inner, self.centers, self.radii)
        lengths = self._lengths(balls.carry(self.radii, None))
        if (proposal := balls.propose(steps, self._steepest_weights)) is not None:
            lengths = torch.minimum(lengths, self._lengths(balls.carry(self.radii, proposal)))
        return lengths.unflatten(0, self.radii.shape)

    def _lengths(self, carried: Carried) -> Float64[Tensor, " balls"]:
        image = self._image(carried, self.radii)
        lengths = times_power(image.bound_norms(self._steepest(image, self.radii)), image.power)
        return (lengths * (1 + 4 * UNIT) + 1e-300).nan_to_num(torch.inf, torch.inf)

    def _image(self, carried: Carried, radii: Float64[Tensor, "batch radii"]) -> "_Image":
        last, power = normalised(self.chain.maps[-1].to(self.centers.device))
        return _through_last(carried.shapes.expand(radii.numel(), -1, -1), last, power + carried.power)

    def _steepest(self, image: "_Image", radii: Float64[Tensor, "batch radii"]) -> Float64[Tensor, "balls outputs"]:
        """Bound the moduli of the slopes of chords from the centre in what follows the last map."""
        if len(self.chain.activations) < len(self.chain.maps):
            return torch.ones_like(image.rows)
        maps = [one.to(self.centers.device) for one in self.chain.maps]
        *_, last = activation_inputs(maps, self.chain.activations, self.centers)
        middle, off = (one.repeat_interleave(radii.shape[1], 0) for one in last)
        reach = radii.flatten().clamp(min=LEAST_RADIUS)[:, None]
        width = times_power(reach * image.rows, image.power).nan_to_num(torch.inf) * (1 + 16 * UNIT)
        low, high = self.chain.activations[-1].chords(widened(middle, off), *widened(middle, width + off))
        return torch.maximum(low.abs(), high.abs())

    def _steepest_weights(
        self, carried: Carried, radii: Float64[Tensor, "batch 1"]
    ) -> Float64[Tensor, "batch outputs n"]:
        """Give the last map's weights times the slopes behind it."""
        slopes = self._steepest(self._image(carried, radii), radii).clamp(min=_LEAST)
        return slopes[:, :, None] * self.chain.maps[-1].weight.to(slopes)


@dataclass(frozen=True)
class _Image:
    """What a matrix makes of ellipsoids, divided by `2 ** power`.

    Attributes:
        root: `W L`, as computed.
        rows: bounds each output's change.
        off: bounds how much longer a change may be than `root` says, by rounding.
        left: bounds `e^(1/2) |W|`.
    """

    root: Float64[Tensor, "balls outputs n"]
    rows: Float64[Tensor, "balls outputs"]
    off: Float64[Tensor, " balls"]
    left: Float64[Tensor, " balls"]
    power: int

    def bound_norms(self, slopes: Float64[Tensor, "balls outputs"]) -> Float64[Tensor, " balls"]:
        """Bound the norms of changes whose outputs are multiplied by at most so much; NaN or infinite without proof."""
        scaled, steepest = slopes[:, :, None] * self.root, slopes.amax(1)
        gram = scaled.mT @ scaled if scaled.shape[1] >= scaled.shape[2] else scaled @ scaled.mT
        rounding = gamma(max(scaled.shape[1:]) + 8) * _size(scaled).square() * _SLACK + 1e-290
        held = 0.5 * (gram + gram.mT) + torch.diag_embed(rounding[:, None].expand(-1, gram.shape[1]))
        finite = torch.isfinite(held).flatten(1).all(1)
        norms = bound_norms(torch.where(finite[:, None, None], held, 0.0)) + steepest * self.off
        return torch.where(finite, torch.hypot(norms, steepest * self.left) * _UP, torch.inf)


def _through_last(shapes: Float64[Tensor, "balls n n"], last: Affine, power: int) -> _Image:
    """Factor the shapes with what is left over, and multiply; row `j` of `fl(W L)` is off by `gamma |W_j| |L|`."""
    size = shapes.shape[1]
    ridge = _RIDGE * shapes.diagonal(dim1=1, dim2=2).sum(1)
    factor = torch.linalg.cholesky_ex(shapes + torch.diag_embed(ridge[:, None].expand(-1, size)))[0]
    lengths = _size(factor)
    left = _size(shapes - factor @ factor.mT) + gamma(size + 8) * (lengths.square() + _size(shapes))
    left = (_SLACK * left + 1e-290).sqrt()
    root = last.weight @ factor
    rows, rounding = norm_of_each(last.weight) * _SLACK, _SLACK * gamma(size + 4)
    own = _UP * root.norm(dim=2) + _SLACK * (rounding * rows + last.weight_error) * lengths[:, None]
    return _Image(
        root=root,
        rows=_UP * torch.hypot(own, _SLACK * (rows + last.weight_error) * left[:, None]) + 1e-290,
        off=_SLACK * (rounding * last.size + last.weight_error) * lengths + 1e-290,
        left=_SLACK * (last.size + last.weight_error) * left,
        power=power,
    )


def _size(matrices: Float64[Tensor, "balls _ _"]) -> Float64[Tensor, " balls"]:
    return _SLACK * norm_of_each(matrices)
