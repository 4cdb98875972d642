"""A search that asks for losses only, never for gradients (Andriushchenko et al., "Square Attack", ECCV 2020)."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from vaerdict.attacks.batch import Batch
from vaerdict.attacks.objectives import Loss, Objective
from vaerdict.attacks.optimisers.common import Ends, Optimiser, best_of, random_starts, starts_after
from vaerdict.attacks.optimisers.moves import move
from vaerdict.attacks.optimisers.noise import blocks
from vaerdict.attacks.optimisers.patches import shrinking
from vaerdict.attacks.question import AttackNorm
from vaerdict.attacks.threat import Ball, scaled, where
from vaerdict.options import require

PERIOD = 50
"""Queries that share their noise. Measured on two VAEs in L2: with 2, that is a proposal for each look at the standing
perturbation, 3 to 14 % less damage after 200 queries; with one noise for all 1 to 3 % more, until it is overfitted."""
SHARES: dict[AttackNorm, float] = {"2": 0.8, "inf": 0.8}
"""Share of the values that a first proposal changes, by norm; for others `FEW`, as their perturbations are sparse."""
FEW = 0.2


@dataclass(frozen=True, kw_only=True)
class RandomSearch:
    """Options of the search without gradients: propose a change at random, keep it where the loss is larger.

    Where the loss is random, both are compared on the same noise, which is new every 50 queries: the standing
    perturbation is then asked for again, so that none stays because its noise was lucky once.

    Args:
        queries: losses asked for per restart, besides those that compare restarts.
        restarts: starts, of which the best end is kept per sample.
        share: of the values (of the changed ones, for "1" and counts) that a first proposal changes; later ones change
            ever less, as in the paper. By default what was measured to be good for the norm.
        first: optimiser whose end is the first restart's start; random by default, like all others.
        batch_size: images searched at once.

    >>> RandomSearch(queries=200).share_in("inf")
    0.8
    """

    queries: int = 1000
    restarts: int = 1
    share: float | None = None
    first: Optimiser | None = None
    batch_size: int = 256

    def __post_init__(self) -> None:
        for name in ("queries", "restarts", "batch_size"):
            require(getattr(self, name) >= 1, f"`{name}` >= 1", getattr(self, name))
        require(self.share is None or 0 < self.share <= 1, "`share` in (0, 1]", self.share)

    @property
    def name(self) -> str:
        """The beginning of the method's name in the results."""
        return "random-search"

    def share_in(self, norm: AttackNorm) -> float:
        """Give the share of the values that a first proposal changes, for a norm."""
        return SHARES.get(norm, FEW) if self.share is None else self.share

    def search(self, batch: Batch, objective: Objective, ball: Ball, use: str) -> Ends:
        """Give the best of several searches per sample, and which samples had a finite loss at all."""
        loss, draws = objective.loss(batch), objective.draws(batch.question)

        def climb(here: str, start: Tensor, held_out: Tensor) -> Ends:
            return _climb(batch, loss, draws, ball, start, here, self)

        corners = map(move(ball).start, random_starts(batch, ball, use, self.restarts))
        starts = starts_after(self.first, batch, objective, ball, use, corners)
        return best_of(batch, loss, draws, ball, use, starts, climb)


@torch.no_grad()
def _climb(batch: Batch, loss: Loss, draws: int, ball: Ball, here: Tensor, use: str, options: RandomSearch) -> Ends:
    """Search from one start; never waits for the device. What has no finite loss is worth less than all that has."""
    moving, share = move(ball), options.share_in(ball.norm)
    sane = torch.zeros_like(ball.radius, dtype=torch.bool)
    for k, numbers in enumerate(blocks(batch, f"{use}/moves", options.queries, moving.numbers)):
        if k == 0 or (draws and k % PERIOD == 0):
            noise = batch.noise(f"{use}/loss/{k}", draws, batch.vae.latent)
            worth = _finite(loss(ball.center + here, noise))
        else:
            there = moving.propose(here, numbers, shrinking(share, k, options.queries))
            value = _finite(loss(ball.center + there, noise))
            better = value > worth
            moving.learn(better)
            here, worth = where(better, there, here), torch.where(better, value, worth)
        sane |= worth.isfinite()
        # Nothing is known of where to go, but that the clean image is nearer.
        here = scaled(here, torch.where(sane, 1.0, 0.5))
    return here, sane


def _finite(value: Tensor) -> Tensor:
    return torch.where(value.isfinite(), value, -math.inf)
