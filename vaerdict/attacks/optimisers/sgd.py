"""First-order ascent as VAE attacks were published: the gradient or its steepest direction, and a falling step."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float
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
from vaerdict.attacks.optimisers.constrained import penalised
from vaerdict.attacks.threat import Ball, scaled, where
from vaerdict.options import require

Direction = Literal["raw", "steepest"]
Schedule = Literal["constant", "linear", "divided", "plateau"]

NOTICED = 1e-4
"""A loss has improved when it beats the best by more than this share of it, as PyTorch's scheduler says."""


@dataclass(frozen=True, kw_only=True)
class SGD:
    """Options of first-order ascent, brought back into ball and box after every step.

    Args:
        steps: gradients per restart.
        restarts: starts, of which the best end is kept per sample.
        learning_rate: the first step: a factor of the gradient ("raw"), or a length in pixel units ("steepest").
        direction: "raw", the gradient itself (Kuzina et al. 2022); "steepest", the ball's steepest direction, which is
            the gradient's sign for "inf" and the gradient at unit length for "2" (PhotoGuard).
        schedule: how the step falls: "constant" not at all; "linear" to the share `last` of the first; "divided" by
            `k // 2 + 1` at step `k`; "plateau" by half, per sample, after more than `patience` steps in a row without a
            better loss.
        patience: of "plateau".
        last: of "linear", in (0, 1].
        penalty: `C` in the loss less `C |delta|_2^2`; for the published penalised form, attack at a radius that holds
            the whole box.
        start: where random starts lie, as a share of the radius. A loss whose gradient is zero at the clean image
            (`MaximumDamage` of mean reconstructions) never leaves 0.
        first: optimiser whose end is the first restart's start; random by default, like all others.
        batch_size: images searched at once.

    >>> SGD(direction="steepest", schedule="linear", learning_rate=0.02).name
    'sgd'
    """

    steps: int = 100
    restarts: int = 1
    learning_rate: float = 1.0
    direction: Direction = "raw"
    schedule: Schedule = "plateau"
    patience: int = 20
    last: float = 0.01
    penalty: float = 0.0
    start: float = 1.0
    first: Optimiser | None = None
    batch_size: int = 256

    def __post_init__(self) -> None:
        for name in ("steps", "restarts", "patience", "batch_size"):
            require(getattr(self, name) >= 1, f"`{name}` >= 1", getattr(self, name))
        rate = self.learning_rate
        require(math.isfinite(rate) and rate > 0, "a finite `learning_rate` > 0", rate)
        for name, known in (("direction", get_args(Direction)), ("schedule", get_args(Schedule))):
            require(getattr(self, name) in known, f"`{name}` in {known}", repr(getattr(self, name)))
        require(0 < self.last <= 1, "`last` in (0, 1]", self.last)
        require(math.isfinite(self.penalty) and self.penalty >= 0, "a finite `penalty` >= 0", self.penalty)
        require(0 <= self.start <= 1, "`start` in [0, 1]", self.start)

    @property
    def name(self) -> str:
        """The beginning of the method's name in the results."""
        return "sgd"

    def share(self, k: int) -> float:
        """Give the length of step `k`, from 0, as a share of the first; what a plateau takes off comes on top.

        >>> [round(SGD(steps=5, schedule="linear", last=0.5).share(k), 3) for k in range(5)]
        [1.0, 0.875, 0.75, 0.625, 0.5]
        >>> [SGD(schedule="divided").share(k) for k in range(4)]
        [1.0, 1.0, 0.5, 0.5]
        """
        if self.schedule == "linear":
            return 1 - (1 - self.last) * k / max(1, self.steps - 1)
        return 1 / (k // 2 + 1) if self.schedule == "divided" else 1.0

    def search(self, batch: Batch, objective: Objective, ball: Ball, use: str) -> Ends:
        """Give the best of several climbs per sample, and which samples had a finite loss and gradient at all."""
        loss, draws = penalised(objective.loss(batch), ball, self.penalty), objective.draws(batch.question)

        def climb(here: str, start: Tensor, held_out: Tensor) -> Ends:
            return _climb(loss, ball, start, step_noise(batch, here, self.steps, draws), self, random=draws > 0)

        starts = starts_after(
            self.first, batch, objective, ball, use, random_starts(batch, ball, use, self.restarts, self.start)
        )
        return best_of(batch, loss, draws, ball, use, starts, climb)


def _climb(loss: Loss, ball: Ball, start: Tensor, noises: Iterable[Tensor], options: SGD, *, random: bool) -> Ends:
    """Climb with one gradient per step; keep the last iterate of a random loss, otherwise the best.

    A step whose loss or gradient is not finite is taken back (a start is halved), and the sample's later steps are half
    as long.
    """

    def at(delta: Tensor, noise: Tensor) -> Tensor:
        return loss(ball.center + delta, noise)

    here, last, best = start, start, start
    best_value = torch.full_like(ball.radius, -math.inf)
    sane, pace = torch.zeros_like(ball.radius, dtype=torch.bool), _Pace(ball.radius, options)
    for k, noise in enumerate(noises):
        value, gradient = value_and_gradient(at, here, noise)
        finite = both_finite(value, gradient)
        sane = sane | finite
        last = where(finite, here, scaled(last, torch.where(sane, 1.0, 0.5)))
        better = finite & (value > best_value)
        best, best_value = where(better, here, best), torch.where(better, value, best_value)
        pace.look(value, finite)
        gradient = where(finite, gradient, torch.zeros_like(gradient))
        move = gradient if options.direction == "raw" else ball.ascent_direction(gradient)
        here = ball.project(last + scaled(move, pace.rate * options.share(k)))
    return (last if random else best), sane


class _Pace:
    """Per sample: the learning rate, and for how many steps in a row the loss has not improved."""

    def __init__(self, like: Float[Tensor, " batch"], options: SGD) -> None:
        self.rate, self.idle = torch.full_like(like, options.learning_rate), torch.zeros_like(like)
        self.top = torch.full_like(like, -math.inf)
        self.patience = options.patience if options.schedule == "plateau" else None

    def look(self, value: Float[Tensor, " batch"], finite: Bool[Tensor, " batch"]) -> None:
        """Learn the loss; halve the rate where it is not finite, or where it has stood still for too long."""
        slower = ~finite
        if self.patience is not None:
            # An infinite best would make the threshold NaN, and no loss would ever count as better.
            threshold = torch.where(self.top.isfinite(), self.top + NOTICED * self.top.abs(), self.top)
            better = finite & (value > threshold)
            self.top = torch.where(better, value, self.top)
            self.idle = torch.where(better, 0, self.idle + 1)
            stalled = self.idle > self.patience
            self.idle = torch.where(stalled, 0, self.idle)
            slower = slower | stalled
        self.rate = torch.where(slower, self.rate / 2, self.rate)
