"""Several margin searches, and per sample the smallest perturbation that any of them found."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from vaerdict.attacks.batch import Batch
from vaerdict.attacks.margins import bisection
from vaerdict.attacks.margins.bisection import MarginSearch, Trail
from vaerdict.attacks.margins.minimum import DDN, FMN
from vaerdict.attacks.margins.verify import place
from vaerdict.attacks.objectives import Objective
from vaerdict.attacks.question import AttackNorm
from vaerdict.attacks.threat import Ball, size, where


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


def standard_searches(norm: AttackNorm) -> tuple[Narrower, ...]:
    """Give the searches that need no choice: all that know the norm.

    >>> [search.name for search in standard_searches("2")]
    ['bisection', 'ddn', 'fmn']
    """
    walks = (DDN(), FMN())
    return (Bisection(), *(walk for walk in walks if norm in walk.norms))


def narrow_all(
    searches: Sequence[Narrower], batch: Batch, objective: Objective, ball: Ball, options: MarginSearch
) -> Trail:
    """Give the pointwise minimum of the searches' trails; a tie goes to the search named first."""
    trails = [search.narrow(batch, objective, ball, options) for search in searches]
    best = trails[0]
    for other in trails[1:]:
        best = _smaller(batch, ball, best, other, options)
    return best


def _smaller(batch: Batch, ball: Ball, one: Trail, other: Trail, options: MarginSearch) -> Trail:
    shorter = _length(batch, ball, other, options) < _length(batch, ball, one, options)
    return replace(
        one,
        delta=where(shorter, other.delta, one.delta),
        found=one.found | other.found,
        sane=one.sane | other.sane,
        radii=torch.cat([one.radii, other.radii]),
        success=torch.cat([one.success, other.success]),
    )


def _length(batch: Batch, ball: Ball, trail: Trail, options: MarginSearch) -> Float[Tensor, " batch"]:
    """Give the norm at which, on draws common to all searches, `|Delta|` has its quantile at `r` along the same ray."""
    delta, question = trail.delta, batch.question
    for _ in range(2):  # the box bends the ray: the second time begins near
        delta = place(batch, ball, delta, question.r, question.p, options.polish, "least")
    return torch.where(trail.found, size(delta, ball.norm), math.inf)
