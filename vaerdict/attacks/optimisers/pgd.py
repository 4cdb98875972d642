"""Projected gradient ascent with normalised gradients, cosine-decayed steps, momentum and random starts (THEORY 8)."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from vaerdict.attacks.batch import Batch
from vaerdict.attacks.objectives import Loss, Objective
from vaerdict.attacks.optimisers.common import (
    Ends,
    Optimiser,
    best_of,
    best_starts,
    both_finite,
    starts_after,
    value_and_gradient,
)
from vaerdict.attacks.optimisers.compiled import Compiled, Step
from vaerdict.attacks.question import AttackNorm
from vaerdict.attacks.threat import Ball, spread, where
from vaerdict.options import require

MOMENTUM: dict[AttackNorm, float] = {"1": 0.7, "2": 0.7}
"""Momentum by norm, none for the others, whose steps are signs or counts and gain nothing from it.

Measured on MNIST VAEs in L2: 20 gradients do what 50 to 100 do without. It harms where the loss is random, as it sums
up the noise (0.5 % less damage), and where the best perturbation lies inside the ball, as for targets: it overshoots.
"""


def _as_it_is(step: Step) -> Step:
    return step


@dataclass(frozen=True, kw_only=True)
class PGD:
    """Options of the fixed-radius search.

    Args:
        steps: gradients per restart.
        restarts: starts, of which the best end is kept per sample.
        step: first step as a multiple of the radius; later ones decay to zero as a half cosine.
        momentum: share of the last move by which the gradient is looked up ahead (Nesterov 1983); by default what was
            measured to be good (`MOMENTUM`).
        probes: random points per restart, of which the one with the largest loss is the start; they take no gradients.
        first: optimiser whose end is the first restart's start; random by default, like all others.
        batch_size: images searched at once.
        compiled: whether `torch.compile` makes the steps faster, after a minute of compiling; pays where a model is
            small or images are many.

    >>> PGD.within(20)
    PGD(steps=20, restarts=1, step=1.0, momentum=None, probes=16, first=None, batch_size=256, compiled=False)
    """

    steps: int = 40
    restarts: int = 2
    step: float = 1.0
    momentum: float | None = None
    probes: int = 16
    first: Optimiser | None = None
    batch_size: int = 256
    compiled: bool = False

    def __post_init__(self) -> None:
        for name in ("steps", "restarts", "probes", "batch_size"):
            require(getattr(self, name) >= 1, f"`{name}` >= 1", getattr(self, name))
        require(math.isfinite(self.step) and self.step > 0, "a finite `step` > 0", self.step)
        require(self.momentum is None or 0 <= self.momentum < 1, "`momentum` in [0, 1)", self.momentum)

    @classmethod
    def within(cls, gradients: int, *, compiled: bool = False) -> "PGD":
        """Give the options that were measured to find most in so many gradients.

        From 50 on, 15 gradients for each of several starts, one per 25; the rest goes on from the best of their ends.

        >>> PGD.within(100).steps
        40
        """
        starts = gradients // 25
        if starts < 2:
            return cls(steps=gradients, restarts=1, compiled=compiled)
        first = cls(steps=15, restarts=starts, compiled=compiled)
        return cls(steps=gradients - 15 * starts, restarts=1, step=0.3, probes=1, first=first, compiled=compiled)

    @property
    def name(self) -> str:
        """The beginning of the method's name in the results."""
        return "pgd"

    def momentum_for(self, objective: Objective, batch: Batch) -> float:
        """Give the momentum: the usual one only for a loss without noise that leads away from the image (`departs`)."""
        if self.momentum is not None:
            return self.momentum
        fits = getattr(objective, "departs", False) and not objective.draws(batch.question)
        return MOMENTUM.get(batch.question.norm, 0.0) if fits else 0.0

    def quicken(self, batch: Batch) -> Callable[[Step], Step]:
        """Give what makes a climb's step faster: nothing, unless `compiled`."""
        return partial(Compiled, cost=batch.cost) if self.compiled else _as_it_is

    def search(self, batch: Batch, objective: Objective, ball: Ball, use: str) -> Ends:
        """Give the best of several climbs per sample, and which samples had a finite loss and gradient at all."""
        loss, draws = objective.loss(batch), objective.draws(batch.question)
        momentum = self.momentum_for(objective, batch)
        quicken = self.quicken(batch)

        def climb(here: str, start: Tensor, held_out: Tensor) -> Ends:
            noise = batch.noise(f"{here}/steps", self.steps, draws, batch.vae.latent)
            return ascend(loss, ball, start, noise, self.step, momentum, quicken)

        starts = best_starts(batch, loss, draws, ball, use, self.restarts, self.probes)
        starts = starts_after(self.first, batch, objective, ball, use, starts)
        return best_of(batch, loss, draws, ball, use, starts, climb)


def ascend(
    loss: Loss,
    ball: Ball,
    start: Float[Tensor, "batch ..."],
    noise: Float[Tensor, "batch steps draws latent"],
    step: float,
    momentum: float = 0.0,
    quicken: Callable[[Step], Step] = _as_it_is,
) -> Ends:
    """Climb from `start` with one gradient per step, each on its own noise; never waits for the device.

    The last iterate is kept, not the one with the largest loss: where each step has its own noise, that one was lucky
    rather than good (measured on a digits VAE: 1 % less damage; no difference without noise).

    Args:
        loss: what to climb.
        ball: where.
        start: first iterate.
        noise: of each step.
        step: first step as a multiple of the radius.
        momentum: share of the last move by which the gradient is looked up ahead.
        quicken: makes a faster step of a step (`Compiled`).

    Returns:
        The last iterates, and which samples had a finite loss and gradient at least once. An iterate without is left
        for the last one with, so a sample's NaN stays its own.
    """
    take = quicken(_step(loss, ball, momentum))
    delta, before, last = start, start, start
    steps, flags = noise.shape[1], []
    decay = [step / 2 * (1 + math.cos(math.pi * k / steps)) for k in range(steps)]
    lengths = ball.radius * ball.radius.new_tensor(decay).unsqueeze(1)
    for k in range(steps):
        delta, before, last, finite = take(delta, before, last, noise[:, k], lengths[k])
        flags.append(finite)
    return delta, torch.stack(flags).any(0)


def _step(loss: Loss, ball: Ball, momentum: float) -> Step:
    """Give the step from an iterate, the one before and the last with a finite gradient to the next three."""
    room = ball.room

    def at(delta: Tensor, noise: Tensor) -> Tensor:
        return loss(ball.center + delta, noise)

    def take(delta: Tensor, before: Tensor, last: Tensor, noise: Tensor, length: Tensor) -> tuple[Tensor, ...]:
        ahead = room.clamp(torch.lerp(before, delta, 1 + momentum)) if momentum else delta
        value, gradient = value_and_gradient(at, ahead, noise)
        finite = both_finite(value, gradient)
        last, length = where(finite, ahead, last), length * finite
        direction = ball.ascent_direction(gradient.nan_to_num(0.0, 0.0, 0.0))
        return ball.project(torch.addcmul(last, direction, spread(length, delta))), delta, last, finite

    return take
