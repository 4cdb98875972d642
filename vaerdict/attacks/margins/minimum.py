"""Minimum-norm searches, which walk along the boundary of success: DDN and FMN, for `m = |Delta| - r`.

DDN: Rony et al., CVPR 2019. FMN: Pintor et al., NeurIPS 2021. Their lengths are multiples of each sample's present
radius here, so that they mean the same in any pixel range.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from vaerdict.attacks.batch import Batch
from vaerdict.attacks.margins.bisection import MarginSearch
from vaerdict.attacks.margins.trail import KEPT, Trail, in_order
from vaerdict.attacks.margins.verify import place
from vaerdict.attacks.margins.walk import Standing, approach, decay, is_damage, probe
from vaerdict.attacks.objectives import Objective
from vaerdict.attacks.optimisers.common import Ends, Optimiser, random_starts, starts_after
from vaerdict.attacks.question import AttackNorm
from vaerdict.attacks.threat import Ball, scaled, size, where
from vaerdict.options import require

NEAR = 0.99
"""A placed candidate counts as found when its quantile of `|Delta|` is this share of `r`: the judge decides later."""
DUAL: dict[AttackNorm, AttackNorm] = {"2": "2", "inf": "1", "1": "inf"}
"""The norm that turns a gradient into a slope, for each norm of the perturbation."""


@dataclass(frozen=True, kw_only=True)
class _Boundary(ABC):
    """What DDN and FMN share: options and the walk. The objective of both is the damage, by the margin's definition."""

    steps: int = 100
    restarts: int = 4
    pairs: int = 8
    step: float = 1.0
    gamma: float = 0.05
    first: Optimiser | None = None
    norms: ClassVar[tuple[AttackNorm, ...]] = ()

    def __post_init__(self) -> None:
        for name in ("steps", "restarts", "pairs"):
            require(getattr(self, name) >= 1, f"`{name}` >= 1", getattr(self, name))
        require(math.isfinite(self.step) and self.step > 0, "a finite `step` > 0", self.step)
        require(0 < self.gamma < 1, "`gamma` in (0, 1)", self.gamma)

    def narrow(self, batch: Batch, objective: Objective, ball: Ball, options: MarginSearch) -> Trail:
        """Give each sample's smallest success, brought to the boundary on common draws (`options.selection`).

        No radius counts as tried without success, but the largest where nothing was found: a walk searches none fully.

        Raises:
            ValueError: the norm is not one of the method's, or the objective is not the damage in L2.
        """
        require(ball.norm in self.norms, f"`norm` in {self.norms} for this search", repr(ball.norm))
        told = f"{type(objective).__name__} {objective.name!r}"
        require(is_damage(objective), "the objective MaximumDamage 'damage' for a minimum-norm search", told)
        zero, r, level = torch.zeros_like(batch.images), batch.question.r, batch.question.p
        sane, ends, lengths = torch.zeros_like(ball.radius, dtype=torch.bool), [], []
        # With its options, so that two walks of one kind are not one walk twice.
        first = self.first.name if self.first else None
        use, draws = f"margin/{replace(self, first=None)}/{first}", batch.question.draws
        pairs = self.pairs if draws else 1
        starts = starts_after(self.first, batch, objective, ball, use, random_starts(batch, ball, use, self.restarts))
        for restart, start in enumerate(starts):
            noise = batch.noise(f"{use}/{restart}/steps", self.steps, pairs, draws, batch.vae.latent)
            end, finite = self.walk(batch, ball, start, noise)
            for _ in range(2):  # the box bends the ray: the second time begins near
                end = place(batch, ball, end, r * (1 + 1e-5), level, options.selection, use)
            found = batch.quantile(ball.apply(end), f"polish/{use}", options.selection, level) >= NEAR * r
            ends.append(where(found, end, zero))
            lengths.append(torch.where(found, size(end, ball.norm), math.inf))
            sane |= finite
        clean = batch.quantile(ball.apply(zero), "select/clean", options.selection, level)
        by_length = torch.stack(lengths)
        found = by_length.isfinite().any(0)
        ranked = in_order(ends, by_length.argsort(dim=0, stable=True))
        return Trail(
            delta=ranked[0],
            spares=tuple(ranked[1:KEPT]),
            found=found,
            fragile=clean > r,
            sane=sane & clean.isfinite(),
            radii=ball.radius.unsqueeze(0),
            success=found.unsqueeze(0),
        )

    def walk(
        self,
        batch: Batch,
        ball: Ball,
        start: Float[Tensor, "batch ..."],
        noise: Float[Tensor, "batch steps pairs draws latent"],
    ) -> Ends:
        """Step up the gradient, then onto a radius that shrinks after each success and grows after each failure.

        Never waits for the device. Without noise the smallest success is kept, where there is one; with noise the last
        iterate, since the smallest was lucky.
        """
        delta, random = approach(batch, ball, start, noise[:, 0]), bool(noise.shape[3])
        now = Standing(delta, ball, batch.question.r)
        # Made once, as each ball measures its room: the radius is then set in place.
        euclidean, here = replace(ball, norm="2"), ball.with_radius(ball.radius.clone())
        for k in range(self.steps):
            now.look(*probe(batch, ball, now.delta, noise[:, k]), remember=not random)
            left = decay(k, self.steps)
            # Until a first finite value, nothing but a much shorter step can help.
            radius = torch.where(now.sane, self.resize(now, left), now.radius / 2)
            now.radius = torch.minimum(radius, ball.radius)
            direction = euclidean.ascent_direction(now.gradient)
            pixels = ball.center[0].numel() if ball.norm == "inf" else 1
            length = now.radius * now.pace * (pixels**0.5 * self.step * left)
            here.radius.copy_(now.radius)
            now.delta = self.land(here, now.last + scaled(direction, length))
        return where(now.best_size.isfinite(), now.best, now.delta), now.sane

    @abstractmethod
    def resize(self, now: Standing, left: float) -> Float[Tensor, " batch"]:
        """Give the next radius; `left` is the share of the first step that is left."""

    @abstractmethod
    def land(self, ball: Ball, delta: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch ..."]:
        """Bring the step to the ball of the next radius."""


@dataclass(frozen=True, kw_only=True)
class DDN(_Boundary):
    """Decoupled direction and norm: always on the sphere, whose radius changes by the same factor (L2 only).

    Args:
        steps: gradients per restart.
        restarts: random starts, of which the smallest success is kept per sample.
        pairs: draws of `Delta` per step, where it is random.
        step: first step as a multiple of the present radius.
        gamma: relative change of the radius per step.
        first: optimiser whose end, at the largest radius, is the first restart's direction; random by default.

    >>> DDN(steps=50).name
    'ddn'
    """

    norms: ClassVar[tuple[AttackNorm, ...]] = ("2",)
    name: ClassVar[str] = "ddn"

    def resize(self, now: Standing, left: float) -> Float[Tensor, " batch"]:
        """Shrink after a success, grow after a failure."""
        return now.radius * torch.where(now.hit, 1 - self.gamma, 1 + self.gamma)

    def land(self, ball: Ball, delta: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch ..."]:
        """Rescale to the sphere."""
        return ball.stretch(delta)


@dataclass(frozen=True, kw_only=True)
class FMN(_Boundary):
    """Fast minimum-norm: the radius at which a first-order model says success, later changes that decay (L1, L2, Linf).

    Args:
        steps: gradients per restart.
        restarts: random starts, of which the smallest success is kept per sample.
        pairs: draws of `Delta` per step, where it is random.
        step: first step as a multiple of the present radius (of the ball's largest L2 norm, for L-infinity, where steps
            of 1 were measured to end in worse local minima: 14 % worse on one image of five).
        gamma: first relative change of the radius per step, after the first success.
        first: optimiser whose end, at the largest radius, is the first restart's direction; random by default.

    >>> FMN(steps=50).name
    'fmn'
    """

    step: float = 3.0

    norms: ClassVar[tuple[AttackNorm, ...]] = ("1", "2", "inf")
    name: ClassVar[str] = "fmn"

    def resize(self, now: Standing, left: float) -> Float[Tensor, " batch"]:
        """Go to where `m` vanishes to first order, until the first success; then as DDN does, but ever less."""
        slope = size(now.gradient, DUAL[now.norm])
        linear = size(now.last, now.norm) + (now.r - now.distance).clamp_min(0) / slope
        gamma = self.gamma * left
        grown = torch.where(now.ever, now.radius * (1 + gamma), linear.nan_to_num(torch.inf))
        return torch.where(now.hit, torch.minimum(now.radius, now.best_size) * (1 - gamma), grown)

    def land(self, ball: Ball, delta: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch ..."]:
        """Shorten to the radius where longer."""
        return ball.project(delta)
