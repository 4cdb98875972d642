"""An objective that remembers, per sample, the largest loss that a search saw at an allowed point."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from vaerdict.attacks.batch import Batch
from vaerdict.attacks.objectives import Loss, Objective
from vaerdict.attacks.question import Question
from vaerdict.attacks.threat import Ball, size

SLACK, OUTSIDE = 1e-4, 1e-6
"""What rounding may add to a perturbation's norm, as a share of the radius, and to a pixel, as a share of the range."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Watched:
    """Another objective, for one chunk of images, with a record; a random loss is not recorded, as luck is no success.

    Args:
        objective: the chunk's.
        ball: what is allowed.
        best: the record, `-inf` at first; updated in place and never read by the search.

    >>> from vaerdict.attacks.objectives import MaximumDamage
    >>> ball = Ball(norm="2", radius=torch.ones(2), box=(0.0, 1.0), center=torch.zeros(2, 3))
    >>> Watched.of(MaximumDamage(), ball).best
    tensor([-inf, -inf])
    """

    objective: Objective
    ball: Ball
    best: Float[Tensor, " batch"]

    @classmethod
    def of(cls, objective: Objective, ball: Ball) -> "Watched":
        """Begin a record."""
        return cls(objective=objective, ball=ball, best=torch.full_like(ball.radius, -torch.inf))

    @property
    def departs(self) -> bool:
        """Whether the objective leads away from the clean image."""
        return getattr(self.objective, "departs", False)

    @property
    def name(self) -> str:
        """The end of the method's name in the results."""
        return self.objective.name

    def check(self, vae: Any, images: Tensor) -> None:
        """Refuse an objective that does not fit the images."""
        self.objective.check(vae, images)

    def part(self, chunk: slice) -> "Watched":
        """Give the objective of a part of the images, which writes into the same record."""
        keep = torch.zeros_like(self.ball.radius, dtype=torch.bool)
        keep[chunk] = True
        return replace(self, objective=self.objective.part(chunk), ball=self.ball.select(keep), best=self.best[chunk])

    def describe(self, index: int) -> dict[str, Any]:
        """Give what a checker needs to know of the objective of one image."""
        return self.objective.describe(index)

    def draws(self, question: Question) -> int:
        """Give how many latent draws one value of the loss needs."""
        return self.objective.draws(question)

    def loss(self, batch: Batch) -> Loss:
        """Give the loss to maximise, which records its values unless they are random."""
        loss = self.objective.loss(batch)
        if self.draws(batch.question):
            return loss

        def recorded(images: Tensor, noise: Tensor) -> Tensor:
            value = loss(images, noise)
            with torch.no_grad():
                counts = value.isfinite() & self._allows(images)
                self.best.copy_(torch.where(counts, torch.maximum(self.best, value.to(self.best)), self.best))
            return value

        return recorded

    def _allows(self, images: Tensor) -> Bool[Tensor, " batch"]:
        delta, room, (low, high) = images - self.ball.center, self.ball.room, self.ball.box
        outside = (delta - room.clamp(delta)).abs().flatten(1).amax(1)
        near = size(delta, self.ball.norm) <= self.ball.radius * (1 + SLACK)
        return near & (outside <= OUTSIDE * (high - low))
