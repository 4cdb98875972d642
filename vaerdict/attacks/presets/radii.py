"""A margin by bisection of the radius, with any optimiser: what Camuto et al. (2021) do by a downward scan."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from vaerdict.attacks.batch import Batch
from vaerdict.attacks.margins.bisection import MarginSearch, Trail
from vaerdict.attacks.objectives import Objective
from vaerdict.attacks.optimisers.common import Optimiser
from vaerdict.attacks.threat import COUNTS, Ball, size, where
from vaerdict.options import require


@dataclass(frozen=True, kw_only=True)
class RadiusBisection:
    """Options of the search: a full attack at each radius, which is halved until the first success, then bisected.

    Args:
        optimiser: of the attacks; each is independent of the others.
        levels: radii tried, the largest included; fewer where counts leave no more to try.

    >>> from vaerdict.attacks.optimisers.pgd import PGD
    >>> RadiusBisection(optimiser=PGD()).name
    'radii-pgd'
    """

    optimiser: Optimiser
    levels: int = 10

    def __post_init__(self) -> None:
        require(self.levels >= 1, "`levels` >= 1", self.levels)

    @property
    def name(self) -> str:
        """The beginning of the method's name in the results."""
        return f"radii-{self.optimiser.name}"

    def narrow(self, batch: Batch, objective: Objective, ball: Ball, options: MarginSearch) -> Trail:
        """Give each sample's smallest success; a radius succeeds by the `p`-quantile of `|Delta|`, as elsewhere."""
        r, level = batch.question.r, batch.question.p
        zero = torch.zeros_like(batch.images)
        clean = batch.quantile(ball.apply(zero), "select/clean", options.selection, level)
        delta, high, radius, low = zero, ball.radius, ball.radius, torch.full_like(ball.radius, -1)
        found = sane = torch.zeros_like(ball.radius, dtype=torch.bool)
        radii, outcomes = [], []
        for k in range(self.levels):
            here = ball.with_radius(radius)
            # The middle of two counts, rounded down, may be the smaller one, which failed.
            new = here.radius > low
            if ball.norm in COUNTS and not bool(new.any()):
                break
            candidate, finite = self.optimiser.search(batch, objective, here, f"margin/{k}")
            success = batch.quantile(here.apply(candidate), f"select/{k}", options.selection, level) > r
            success = success & new
            radii.append(here.radius)
            outcomes.append(success)
            high = torch.where(success, size(candidate, ball.norm), high)
            delta, found, sane = where(success, candidate, delta), found | success, sane | (finite & new)
            # A box may cut a success below the radius of an earlier failure, which then says nothing.
            low = _largest_failure(radii, outcomes, high) * found
            radius = torch.where(found, (low + high) / 2, here.radius / 2)
        return Trail(
            delta=delta,
            found=found,
            fragile=clean > r,
            sane=sane & clean.isfinite(),
            radii=torch.stack(radii),
            success=torch.stack(outcomes),
        )


def _largest_failure(
    radii: list[Float[Tensor, " batch"]], outcomes: list[Bool[Tensor, " batch"]], high: Float[Tensor, " batch"]
) -> Float[Tensor, " batch"]:
    """Give the largest radius below `high` that failed, else zero."""
    tried = torch.stack(radii)
    return torch.where(~torch.stack(outcomes) & (tried < high), tried, 0).amax(0)
