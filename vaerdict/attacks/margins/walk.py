"""What minimum-norm searches share: where a walk stands, what it sees there, and where it begins."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from vaerdict.attacks.batch import Batch
from vaerdict.attacks.judge.indicators import Watched
from vaerdict.attacks.objectives import MaximumDamage, Objective
from vaerdict.attacks.optimisers.common import both_finite, value_and_gradient
from vaerdict.attacks.threat import Ball, scaled, size, where

LAST_SHARE = 0.01
"""What is left of a decaying step at the end, as a share of the first."""
APPROACHES, MOST_SHORTENED = 3, 0.01
"""How often a start is shortened before the first step, and to what share of its length each time at most."""


def is_damage(objective: Objective) -> bool:
    """Say whether the objective is the damage that a margin is about, whatever its name.

    >>> is_damage(MaximumDamage()), is_damage(MaximumDamage("linf"))
    (True, False)
    """
    meant = objective.objective if isinstance(objective, Watched) else objective
    return isinstance(meant, MaximumDamage) and meant.measure == "l2"


class Standing:
    """Per sample: the iterate, what it does, and the smallest success so far."""

    def __init__(self, delta: Tensor, ball: Ball, r: float) -> None:
        self.norm, self.r, self.delta, self.last, self.best = ball.norm, r, delta, delta, delta
        self.radius, self.gradient = size(delta, ball.norm), torch.zeros_like(delta)
        self.distance, self.pace = torch.zeros_like(self.radius), torch.ones_like(self.radius)
        self.best_size = torch.full_like(self.radius, math.inf)
        self.hit = self.ever = self.sane = torch.zeros_like(self.radius, dtype=torch.bool)

    def look(self, distance: Tensor, gradient: Tensor, *, remember: bool) -> None:
        """Learn the distance and its gradient here; an iterate where they are not finite counts as too large.

        Later steps of such a sample are half as long, or the same one would be tried again and again.
        """
        finite = both_finite(distance, gradient)
        self.last = where(finite, self.delta, self.last)
        self.pace = torch.where(finite, self.pace, self.pace / 2)
        self.gradient = where(finite, gradient, torch.zeros_like(gradient))
        self.distance = torch.where(finite, distance, self.distance)
        success = finite & (distance > self.r)
        self.hit, self.ever, self.sane = success | ~finite, self.ever | success, self.sane | finite
        if remember:
            length = size(self.delta, self.norm)
            better = success & (length < self.best_size)
            self.best, self.best_size = (
                where(better, self.delta, self.best),
                torch.where(better, length, self.best_size),
            )


def decay(k: int, steps: int) -> float:
    """Give the share of the first step that is left at step `k`, a half cosine.

    >>> decay(0, 10), decay(10, 10)
    (1.0, 0.01)
    """
    return LAST_SHARE + (1 - LAST_SHARE) * (1 + math.cos(math.pi * k / steps)) / 2


def probe(
    batch: Batch, ball: Ball, delta: Float[Tensor, "batch ..."], noise: Float[Tensor, "batch pairs draws latent"]
) -> tuple[Float[Tensor, " batch"], Float[Tensor, "batch ..."]]:
    """Give the quantile of `|Delta|` over the pairs, and the gradient of its root mean square."""
    seen: list[Tensor] = []

    def mean_square(delta: Tensor) -> Tensor:
        squared = batch.squared_change(batch.vae.encode(ball.center + delta), noise)
        seen.append(squared.detach())
        return squared.mean(1)

    value, gradient = value_and_gradient(mean_square, delta)
    # Through the square: the root itself has no gradient at zero.
    steepness = torch.where(value > 0, 0.5 / value.sqrt(), 0.0)
    return _quantile(batch, seen[0]), scaled(gradient, steepness)


@torch.no_grad()
def approach(
    batch: Batch, ball: Ball, start: Float[Tensor, "batch ..."], noise: Float[Tensor, "batch pairs draws latent"]
) -> Float[Tensor, "batch ..."]:
    """Shorten a start at the largest radius to about where `|Delta|` is `r`, as if it grew in proportion.

    Where it is not finite the start is halved: nothing is known but that it is too long.
    """
    for _ in range(APPROACHES):
        distance = _quantile(batch, batch.squared_change(batch.vae.encode(ball.center + start), noise))
        change = torch.where(distance.isfinite(), batch.question.r / distance, 0.5)
        start = scaled(start, change.clamp(MOST_SHORTENED, 1.0))
    return start


def _quantile(batch: Batch, squared: Tensor) -> Tensor:
    return squared.sqrt().kthvalue(int(batch.question.p * squared.shape[1]) + 1, dim=1).values
