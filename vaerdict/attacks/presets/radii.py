"""A margin by bisection of the radius, with any optimiser: what Camuto et al. (2021) do by a downward scan."""

from dataclasses import dataclass

import torch

from vaerdict.attacks.batch import Batch
from vaerdict.attacks.margins.bisection import MarginSearch, Trail
from vaerdict.attacks.objectives import Objective
from vaerdict.attacks.optimisers.common import Optimiser
from vaerdict.attacks.threat import Ball, size, where
from vaerdict.options import require


@dataclass(frozen=True, kw_only=True)
class RadiusBisection:
    """Options of the search: a full attack at each radius, which is halved until the first success, then bisected.

    Args:
        optimiser: of the attacks; each is independent of the others.
        levels: radii tried, the largest included.

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
        delta, low, high, radius = zero, torch.zeros_like(ball.radius), ball.radius, ball.radius
        found = sane = torch.zeros_like(ball.radius, dtype=torch.bool)
        radii, outcomes = [], []
        for k in range(self.levels):
            here = ball.with_radius(radius)
            candidate, finite = self.optimiser.search(batch, objective, here, f"margin/{k}")
            success = batch.quantile(here.apply(candidate), f"select/{k}", options.selection, level) > r
            radii.append(radius)
            outcomes.append(success)
            low = torch.where(found & ~success, radius, low)
            high = torch.where(success, size(candidate, ball.norm), high)
            # A box may cut a success below the radius of an earlier failure, which then says nothing.
            low = torch.where(low < high, low, 0)
            delta, found, sane = where(success, candidate, delta), found | success, sane | finite
            radius = torch.where(found, (low + high) / 2, radius / 2)
        return Trail(
            delta=delta,
            found=found,
            fragile=clean > r,
            sane=sane & clean.isfinite(),
            radii=torch.stack(radii),
            success=torch.stack(outcomes),
        )
