"""What every indicator asks: the loss, its gradient and the damage near the end of a search, on draws of their own."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from vaerdict.attacks.batch import Batch
from vaerdict.attacks.objectives import Objective
from vaerdict.attacks.optimisers.common import both_finite, value_and_gradient
from vaerdict.attacks.threat import Ball

DRAWS = 8
"""Draws over which a random loss or damage is averaged, the same for all points of a sample that are compared. Half of
them mirror the others, so that to first order luck cancels: it would decide where perturbations are small."""
NEAR = 8 / 255
"""How far a value moves in what counts as near, as a share of the range (Pintor et al., NeurIPS 2022)."""
TOLERANCE = 0.01
"""A relative change that counts as none: Carlini et al. (2019) ask that a longer search changes less than that."""
ULPS = 16
"""Units of rounding of the values compared that a difference must exceed."""


class Probe:
    """The end of one search and what may be evaluated there; remembers which samples were finite all the time."""

    def __init__(
        self, batch: Batch, objective: Objective, ball: Ball, end: Float[Tensor, "batch ..."], use: str
    ) -> None:
        draws = objective.draws(batch.question)
        self.batch, self.ball, self.end, self.use = batch, ball, end.detach(), use
        self.loss, self.random, self.room = objective.loss(batch), draws > 0, ball.room
        self.noise, self.pairs = self._noise("loss", draws), self._noise("damage", batch.question.draws)
        self.finite: Bool[Tensor, " batch"] = torch.ones_like(ball.radius, dtype=torch.bool)
        self.at_zero, self.at_end = self.value(torch.zeros_like(end)), self.value(self.end)

    @property
    def gain(self) -> Float[Tensor, " batch"]:
        """What the search raised the loss by, without its sign, and at least what rounding can do to it."""
        rounding = self._ulps * torch.maximum(self.at_zero.abs(), self.at_end.abs())
        return torch.maximum((self.at_end - self.at_zero).abs(), rounding)

    @property
    def free(self) -> Bool[Tensor, " batch"]:
        """Samples that had somewhere to go."""
        return (self.ball.radius > 0) & (self.room.widest.flatten(1) > 0).any(1)

    @property
    def adversarial(self) -> Float[Tensor, "batch ..."]:
        """The attacked images."""
        return self.ball.center + self.end

    @torch.no_grad()
    def value(self, delta: Float[Tensor, "batch ..."]) -> Float[Tensor, " batch"]:
        """Give the loss, its mean over the draws where it is random."""
        value = self._mean(delta)
        self.finite &= value.isfinite()
        return value

    def gradient(self, delta: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch ..."]:
        """Give the gradient of the same at the pixels that can move; zero elsewhere."""
        value, gradient = value_and_gradient(self._mean, delta)
        self.finite &= both_finite(value, gradient)
        return torch.where(self.room.widest > 0, gradient, 0)

    @torch.no_grad()
    def damage(self, delta: Float[Tensor, "batch ..."]) -> Float[Tensor, " batch"]:
        """Give the mean `|Delta|`, in pixel units."""
        posterior = self.batch.vae.encode(self.ball.center + delta)
        damage = self.batch.squared_change(posterior, self.pairs).sqrt().mean(1)
        self.finite &= damage.isfinite()
        return damage

    def beats(self, one: Float[Tensor, " batch"], other: Float[Tensor, " batch"]) -> Bool[Tensor, " batch"]:
        """Say where one damage is larger than another by more than tolerance and rounding."""
        rounding = self._ulps * self.batch.anchor.flatten(1).norm(dim=1)
        return one > other * (1 + TOLERANCE) + rounding

    def noise_near(self, index: int) -> Float[Tensor, "batch ..."]:
        """Draw a uniform change of every value by at most `NEAR`."""
        low, high = self.ball.box
        noise = self.batch.noise(f"{self.use}/near/{index}", *self.end.shape[1:])
        return torch.erf(noise / 2**0.5) * NEAR * (high - low)

    def random_point(self, index: int) -> Float[Tensor, "batch ..."]:
        """Draw a point of the ball, as searches start from."""
        return self.ball.random_start(self.batch.noise(f"{self.use}/point/{index}", *self.end.shape[1:]))

    def _noise(self, purpose: str, draws: int) -> Float[Tensor, "batch held_out draws latent"]:
        latent = self.batch.vae.latent
        if not draws:
            return self.batch.noise(f"{self.use}/{purpose}", 1, 0, latent)
        half = self.batch.noise(f"{self.use}/{purpose}", DRAWS // 2, draws, latent)
        return torch.cat([half, -half], dim=1)

    @property
    def _ulps(self) -> float:
        return ULPS * torch.finfo(self.end.dtype).eps

    def _mean(self, delta: Tensor) -> Tensor:
        images = self.ball.center + delta
        return torch.stack([self.loss(images, self.noise[:, k]) for k in range(self.noise.shape[1])]).mean(0)
