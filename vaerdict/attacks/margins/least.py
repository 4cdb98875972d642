"""Several margin searches, and per sample the smallest perturbation that any of them found."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from vaerdict.attacks.batch import Batch
from vaerdict.attacks.margins import bisection
from vaerdict.attacks.margins.bisection import MarginSearch
from vaerdict.attacks.margins.minimum import DDN, FMN
from vaerdict.attacks.margins.trail import KEPT, Trail, in_order
from vaerdict.attacks.margins.verify import place
from vaerdict.attacks.margins.walk import is_damage
from vaerdict.attacks.objectives import Objective
from vaerdict.attacks.question import AttackNorm
from vaerdict.attacks.threat import Ball, size


@runtime_checkable
class Narrower(Protocol):
    """What a margin needs of a search; its own options are a frozen dataclass."""

    @property
    def name(self) -> str:
        """The beginning of the method's name in the results."""
        ...

    def narrow(self, batch: Batch, objective: Objective, ball: Ball, options: MarginSearch) -> Trail:
        """Give each sample's most promising perturbation within the largest ball; nothing is claimed yet."""
        ...


@dataclass(frozen=True, kw_only=True)
class Bisection:
    """Ever smaller balls between the last failure and the last success, as `MarginSearch` says.

    >>> Bisection().name
    'bisection'
    """

    @property
    def name(self) -> str:
        """The beginning of the method's name in the results."""
        return "bisection"

    def narrow(self, batch: Batch, objective: Objective, ball: Ball, options: MarginSearch) -> Trail:
        """Search each ball with gradients."""
        return bisection.narrow(batch, objective, ball, options)


def standard_searches(norm: AttackNorm, objective: Objective) -> tuple[Narrower, ...]:
    """Give the searches that need no choice: all that know the norm and the objective.

    >>> from vaerdict.attacks.objectives import MaximumDamage
    >>> [search.name for search in standard_searches("2", MaximumDamage())]
    ['bisection', 'ddn', 'fmn']
    """
    walks = (DDN(), FMN()) if is_damage(objective) else ()
    return (Bisection(), *(walk for walk in walks if norm in walk.norms))


def narrow_all(
    searches: Sequence[Narrower], batch: Batch, objective: Objective, ball: Ball, options: MarginSearch
) -> Trail:
    """Give the pointwise minimum of the searches' trails, the rest as spares; a tie goes to the search named first."""
    trails = [search.narrow(batch, objective, ball, options) for search in searches]
    if len(trails) == 1:
        return trails[0]
    order = torch.stack([_length(batch, ball, trail, options) for trail in trails]).argsort(dim=0, stable=True)
    tiers = zip_longest(*((trail.delta, *trail.spares) for trail in trails), fillvalue=torch.zeros_like(batch.images))
    delta, *spares = [one for tier in tiers for one in in_order(tier, order)]
    return replace(
        trails[0],
        delta=delta,
        spares=tuple(spares[: max(KEPT, len(trails)) - 1]),
        found=torch.stack([trail.found for trail in trails]).any(0),
        sane=torch.stack([trail.sane for trail in trails]).any(0),
        radii=torch.cat([trail.radii for trail in trails]),
        success=torch.cat([trail.success for trail in trails]),
    )


def _length(batch: Batch, ball: Ball, trail: Trail, options: MarginSearch) -> Float[Tensor, " batch"]:
    """Give the norm at which, on draws common to all searches, `|Delta|` has its quantile at `r` along the same ray."""
    delta, question = trail.delta, batch.question
    for _ in range(2):  # the box bends the ray: the second time begins near
        delta = place(batch, ball, delta, question.r, question.p, options.selection, "least")
    return torch.where(trail.found, size(delta, ball.norm), math.inf)
