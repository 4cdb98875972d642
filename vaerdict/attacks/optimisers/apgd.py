"""Auto-PGD: steps with momentum whose length is halved per sample where progress stalls (Croce & Hein, ICML 2020)."""

import math
from dataclasses import dataclass
from itertools import pairwise

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
    score,
    starts_after,
    value_and_gradient,
)
from vaerdict.attacks.threat import Ball, scaled, where
from vaerdict.options import require

FIRST, SHRINK, LEAST = 0.22, 0.03, 0.06
"""Share of the steps before the first checkpoint; each later gap is shorter by `SHRINK` of them, down to `LEAST`."""
MOMENTUM = 0.75
"""Weight of the gradient's step; the rest goes to the last move."""


@dataclass(frozen=True, kw_only=True)
class APGD:
    """Options of Auto-PGD.

    Args:
        steps: gradients per restart.
        restarts: starts, of which the best end is kept per sample.
        rho: share of the steps since the last checkpoint that must have raised the loss, else the step is halved.
        step: first step as a multiple of the radius.
        first: optimiser whose end is the first restart's start; random by default, like all others.
        batch_size: images searched at once.

    >>> APGD(steps=50).name
    'apgd'
    """

    steps: int = 100
    restarts: int = 3
    rho: float = 0.75
    step: float = 2.0
    first: Optimiser | None = None
    batch_size: int = 256

    def __post_init__(self) -> None:
        for name in ("steps", "restarts", "batch_size"):
            require(getattr(self, name) >= 1, f"`{name}` >= 1", getattr(self, name))
        require(0 < self.rho <= 1, "`rho` in (0, 1]", self.rho)
        require(math.isfinite(self.step) and self.step > 0, "a finite `step` > 0", self.step)

    @property
    def name(self) -> str:
        """The beginning of the method's name in the results."""
        return "apgd"

    def search(self, batch: Batch, objective: Objective, ball: Ball, use: str) -> Ends:
        """Give the best of several climbs per sample, and which samples had a finite loss and gradient at all."""
        loss, draws = objective.loss(batch), objective.draws(batch.question)

        def climb(here: str, start: Tensor, held_out: Tensor) -> Ends:
            noise = batch.noise(f"{here}/steps", self.steps, draws, batch.vae.latent)
            return _climb(loss, ball, start, noise, held_out, self)

        starts = starts_after(self.first, batch, objective, ball, use, random_starts(batch, ball, use, self.restarts))
        return best_of(batch, loss, draws, ball, use, starts, climb)


def checkpoints(steps: int) -> dict[int, int]:
    """Give the steps at which the length is reconsidered, each with the number of steps since the last.

    >>> checkpoints(100)
    {22: 22, 41: 19, 57: 16, 70: 13, 80: 10, 87: 7, 93: 6, 99: 6}
    """
    shares = [0.0, FIRST]
    while shares[-1] < 1:
        shares.append(shares[-1] + max(shares[-1] - shares[-2] - SHRINK, LEAST))
    # Rounded first: 0.22 * 50 is a little more than 11.
    marks = sorted({math.ceil(round(share * steps, 6)) for share in shares})
    return {one: one - last for last, one in pairwise(marks) if one < steps}


def _climb(loss: Loss, ball: Ball, start: Tensor, noise: Tensor, held_out: Tensor, options: APGD) -> Ends:
    """Climb as the paper says, in any ball and box; never waits for the device.

    Where the loss is random, the value of one step says little of its iterate. The best iterate is then chosen among
    those at the checkpoints, on held-out noise.
    """

    def at(delta: Tensor, noise: Tensor) -> Tensor:
        return loss(ball.center + delta, noise)

    climber, marks, random = _Climber(ball, start, options.step), checkpoints(options.steps), bool(noise.shape[2])
    for k in range(options.steps):
        climber.look(*value_and_gradient(at, climber.here, noise[:, k]))
        if not random:
            climber.keep(climber.value)
        if k in marks:
            if random:
                climber.keep(score(loss, ball, climber.here, held_out))
            climber.reconsider(options.rho * marks[k])
        climber.move(MOMENTUM if k else 1.0)
    climber.keep(score(loss, ball, climber.here, held_out))
    return climber.best, climber.sane


class _Climber:
    """Per sample: the iterate and the one before, the best so far, and the step's length."""

    def __init__(self, ball: Ball, start: Tensor, step: float) -> None:
        self.ball, self.here, self.before, self.best = ball, start, start, start
        self.gradient = self.best_gradient = torch.zeros_like(start)
        self.value = torch.full_like(ball.radius, math.inf)  # the first value is no rise
        self.best_value = self.old_best = -self.value
        self.step = self.old_step = ball.radius * step
        self.rises = torch.zeros_like(ball.radius)
        self.sane = torch.zeros_like(ball.radius, dtype=torch.bool)

    def look(self, value: Tensor, gradient: Tensor) -> None:
        """Learn the loss and gradient here; where not finite, go back (a start is halved) and halve the step."""
        finite = both_finite(value, gradient)
        self.sane |= finite
        self.rises = self.rises + (finite & (value > self.value))
        self.value = torch.where(finite, value, self.value)
        self.gradient = where(finite, gradient, self.gradient)
        self.before = scaled(self.before, torch.where(self.sane, 1.0, 0.5))
        self.here = where(finite, self.here, self.before)
        self.step = torch.where(finite, self.step, self.step / 2)

    def keep(self, value: Tensor) -> None:
        """Remember the iterate where its value is the best, once there was a finite one."""
        better = self.sane & (value > self.best_value)
        self.best = where(better, self.here, self.best)
        self.best_gradient = where(better, self.gradient, self.best_gradient)
        self.best_value = torch.where(better, value, self.best_value)

    def reconsider(self, enough: float) -> None:
        """Halve the step and go back to the best where too few steps rose, or nothing changed since last time."""
        idle = (self.step == self.old_step) & (self.best_value == self.old_best)
        stalled = (self.rises < enough) | idle
        self.old_step, self.old_best = self.step, self.best_value
        self.step = torch.where(stalled, self.step / 2, self.step)
        self.here = where(stalled, self.best, self.here)
        self.before = where(stalled, self.best, self.before)
        self.gradient = where(stalled, self.best_gradient, self.gradient)
        self.value = torch.where(stalled, self.best_value, self.value)
        self.rises = torch.zeros_like(self.rises)

    def move(self, weight: float) -> None:
        """Step along the gradient, and a little further in the last direction."""
        ahead = self.ball.project(self.here + scaled(self.ball.ascent_direction(self.gradient), self.step))
        there = self.here + weight * (ahead - self.here) + (1 - weight) * (self.here - self.before)
        self.before, self.here = self.here, self.ball.project(there)
