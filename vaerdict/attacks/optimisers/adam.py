"""Adam under constraints, as many VAE attacks were published (Gondim-Ribeiro et al. 2018; Kuzina et al. 2021)."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from vaerdict.attacks.batch import Batch
from vaerdict.attacks.objectives import Loss, Objective
from vaerdict.attacks.optimisers.common import (
    Ends,
    Optimiser,
    best_of,
    both_finite,
    random_starts,
    starts_after,
    step_noise,
    value_and_gradient,
)
from vaerdict.attacks.optimisers.constrained import bounds, penalised, rescaled
from vaerdict.attacks.threat import COUNTS, Ball, scaled, where
from vaerdict.options import require

BETAS, TINY = (0.9, 0.999), 1e-8
"""Decay of the averages of gradient and squared gradient, and what keeps the divisor positive (Kingma & Ba 2015)."""


@dataclass(frozen=True, kw_only=True)
class Adam:
    """Options of Adam under constraints.

    Args:
        steps: gradients per restart.
        restarts: starts, of which the best end is kept per sample.
        learning_rate: length of a step per pixel, in pixel units.
        penalty: `C` in the loss less `C |delta|_2^2`; for the published penalised form, attack at a radius that holds
            the whole box.
        through: whether gradients pass through the rescaling onto the L2 ball. If not, each step is projected, as in
            most code; on a sphere that ends where the step, rather than the gradient, is parallel to the perturbation.
            Counts of pixels are always projected.
        start: where random starts lie, as a share of the radius. A loss whose gradient is zero at the clean image
            (`MaximumDamage` of mean reconstructions) never leaves 0.
        first: optimiser whose end is the first restart's start; random by default, like all others.
        batch_size: images searched at once.

    >>> Adam(steps=3000, learning_rate=1e-3).name
    'adam'
    """

    steps: int = 500
    restarts: int = 1
    learning_rate: float = 0.01
    penalty: float = 0.0
    through: bool = True
    start: float = 1.0
    first: Optimiser | None = None
    batch_size: int = 256

    def __post_init__(self) -> None:
        for name in ("steps", "restarts", "batch_size"):
            require(getattr(self, name) >= 1, f"`{name}` >= 1", getattr(self, name))
        rate = self.learning_rate
        require(math.isfinite(rate) and rate > 0, "a finite `learning_rate` > 0", rate)
        require(math.isfinite(self.penalty) and self.penalty >= 0, "a finite `penalty` >= 0", self.penalty)
        require(0 <= self.start <= 1, "`start` in [0, 1]", self.start)

    @property
    def name(self) -> str:
        """The beginning of the method's name in the results."""
        return "adam"

    def search(self, batch: Batch, objective: Objective, ball: Ball, use: str) -> Ends:
        """Give the best of several climbs per sample, and which samples had a finite loss and gradient at all."""
        loss, draws = penalised(objective.loss(batch), ball, self.penalty), objective.draws(batch.question)
        options = replace(self, through=self.through and ball.norm not in COUNTS)

        def climb(here: str, start: Tensor, held_out: Tensor) -> Ends:
            return _climb(loss, ball, start, step_noise(batch, here, self.steps, draws), options, random=draws > 0)

        starts = starts_after(
            self.first, batch, objective, ball, use, random_starts(batch, ball, use, self.restarts, self.start)
        )
        return best_of(batch, loss, draws, ball, use, starts, climb)


def _climb(loss: Loss, ball: Ball, start: Tensor, noises: Iterable[Tensor], options: Adam, *, random: bool) -> Ends:
    """Climb with one gradient per step; keep the last iterate of a random loss, otherwise the best.

    A step whose loss or gradient is not finite is taken back (a start is halved), the averages stay as they were, and
    the sample's learning rate is halved.
    """

    def at(delta: Tensor, noise: Tensor) -> Tensor:
        return loss(ball.center + (rescaled(ball, delta) if options.through else delta), noise)

    free, best, best_value = start, start, torch.full_like(ball.radius, -math.inf)
    last, moments = start, (torch.zeros_like(start), torch.zeros_like(start))
    sane, rate = torch.zeros_like(ball.radius, dtype=torch.bool), torch.full_like(ball.radius, options.learning_rate)
    low, high = bounds(ball)
    for k, noise in enumerate(noises, 1):
        value, gradient = value_and_gradient(at, free, noise)
        finite = both_finite(value, gradient)
        sane |= finite
        last = where(finite, free, scaled(last, torch.where(sane, 1.0, 0.5)))
        better = finite & (value > best_value)
        best, best_value = where(better, free, best), torch.where(better, value, best_value)
        rate = torch.where(finite, rate, rate / 2)
        moved, moments = _step(gradient, moments, k, finite)
        free = last + scaled(moved, rate)
        free = torch.minimum(torch.maximum(free, low), high) if options.through else ball.project(free)
    end = last if random else best
    return ball.project(rescaled(ball, end) if options.through else end), sane


def _step(
    gradient: Tensor, moments: tuple[Tensor, Tensor], k: int, finite: Tensor
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    one, two = BETAS
    mean = where(finite, one * moments[0] + (1 - one) * gradient, moments[0])
    square = where(finite, two * moments[1] + (1 - two) * gradient.square(), moments[1])
    return (mean / (1 - one**k)) / ((square / (1 - two**k)).sqrt() + TINY), (mean, square)
