"""The empirical margin from above: the smallest perturbation found that breaks r-robustness (THEORY 8)."""

import math
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool
from torch import Tensor

from vaerdict.attacks.batch import Batch
from vaerdict.attacks.margins.trail import KEPT, Trail
from vaerdict.attacks.objectives import Objective
from vaerdict.attacks.optimisers.pgd import PGD, ascend
from vaerdict.attacks.threat import COUNTS, Ball, size, where
from vaerdict.options import require


@dataclass(frozen=True, kw_only=True)
class MarginSearch:
    """Options of the margin's search.

    Args:
        start: the full search at the largest radius; its step, momentum and `compiled` are those of all climbs.
        levels: radii tried, the largest included.
        steps: gradients per climb at the levels after the first.
        restarts: climbs per level from a fresh random start, besides the one from the best direction so far.
        selection: draws of `Delta` that steer each level, and rank the ends of several searches.
        polish: draws of `Delta` that place the candidate before it is verified.
        attempts: candidates per sample that may be verified, each a little larger than the last; they share the
            evaluation's confidence.
        max_radius: largest radius tried, in pixel units, for counts at least 1; by default all that the box allows.
        batch_size: images searched at once.

    >>> MarginSearch(levels=8).attempts
    3
    """

    start: PGD = field(default_factory=PGD)
    levels: int = 12
    steps: int = 20
    restarts: int = 2
    selection: int = 250
    polish: int = 4000
    attempts: int = 3
    max_radius: float | None = None
    batch_size: int = 256

    def __post_init__(self) -> None:
        require(isinstance(self.start, PGD), "a PGD as `start`", self.start)
        require(self.restarts >= 0, "`restarts` >= 0", self.restarts)
        for name in ("levels", "steps", "selection", "polish", "attempts", "batch_size"):
            require(getattr(self, name) >= 1, f"`{name}` >= 1", getattr(self, name))
        if self.max_radius is not None:
            require(
                math.isfinite(self.max_radius) and self.max_radius > 0, "a finite `max_radius` > 0", self.max_radius
            )


def threat(batch: Batch, options: MarginSearch, mask: Bool[Tensor, "masks ..."] | None = None) -> Ball:
    """Give the ball of the largest radius to try.

    Raises:
        ValueError: `max_radius` allows no change, as it is below 1 and the norm is a count.
    """
    if options.max_radius is not None and batch.question.norm in COUNTS:
        require(options.max_radius >= 1, "`max_radius` >= 1 for a count", options.max_radius)
    ball = Ball.widest(batch.question.norm, batch.vae.input_range, batch.images, mask)
    return ball if options.max_radius is None else ball.with_radius(ball.radius.clamp_max(options.max_radius))


def narrow(batch: Batch, objective: Objective, ball: Ball, options: MarginSearch) -> Trail:
    """Search ever smaller balls, between the last failure and the last success.

    A level succeeds when the `p`-quantile of `|Delta|` exceeds `r` on that level's own draws. Each level climbs from
    the best direction so far and from fresh random starts; without the latter the search stays in the first local
    maximum (measured on a digits VAE without noise: margins 4 to 7 % larger). Nothing is claimed here: the candidate
    goes to the judge.
    """
    zero = torch.zeros_like(batch.images)
    gap_zero = _gap(batch, ball, zero, "clean", options)
    bracket = _Bracket(ball, zero, gap_zero)
    candidate, sane = options.start.search(batch, objective, ball, "margin/0")
    gap = _gap(batch, ball, candidate, "0", options)
    radii, outcomes = [ball.radius], [gap > 0]
    bracket.learn(ball.radius, candidate, gap)
    for level in range(1, options.levels):
        here = ball.with_radius(bracket.next_radius(level))
        candidate, gap = _descend(batch, objective, here, bracket.delta, options, level)
        radii.append(here.radius)
        outcomes.append(gap > 0)
        bracket.learn(here.radius, candidate, gap)
    return Trail(
        delta=bracket.delta,
        found=bracket.found,
        fragile=gap_zero > 0,
        sane=sane & gap_zero.isfinite(),
        radii=torch.stack(radii),
        success=torch.stack(outcomes),
        spares=bracket.spares,
    )


class _Bracket:
    """Per sample: the smallest success, the largest failure below it, and by how much each succeeded or failed.

    And the successes before the smallest, the last first, which is the smallest of them.
    """

    def __init__(self, ball: Ball, zero: Tensor, gap_zero: Tensor) -> None:
        self.norm, self.delta, self.gap_zero = ball.norm, zero, gap_zero
        self.spares = (zero,) * (KEPT - 1)
        self.found = torch.zeros_like(gap_zero, dtype=torch.bool)
        self.low, self.gap_low = torch.zeros_like(gap_zero), gap_zero
        self.high, self.gap_high = ball.radius, gap_zero
        self.radius = ball.radius

    def learn(self, radius: Tensor, candidate: Tensor, gap: Tensor) -> None:
        success, failed = gap > 0, self.found & ~(gap > 0)
        pairs = zip((self.delta, *self.spares), self.spares, strict=False)
        self.spares = tuple(where(success, smaller, larger) for smaller, larger in pairs)
        self.delta = where(success, candidate, self.delta)
        self.high = torch.where(success, size(candidate, self.norm), self.high)
        self.gap_high = torch.where(success, gap, self.gap_high)
        # A box may cut a success below the radius of an earlier failure, which then says nothing.
        low, gap_low = torch.where(failed, radius, self.low), torch.where(failed, gap, self.gap_low)
        self.low = torch.where(low < self.high, low, 0)
        self.gap_low = torch.where(low < self.high, gap_low, self.gap_zero)
        self.found = self.found | success
        self.radius = radius

    def next_radius(self, level: int) -> Tensor:
        """Halve until the first success; then take the zero of the line through the gaps, every other time the middle.

        The line makes the search quick, the middle makes it safe.
        """
        share = (self.gap_low / (self.gap_low - self.gap_high)).nan_to_num(0.5).clamp(0.1, 0.9)
        between = self.low + (share if level % 2 else 0.5) * (self.high - self.low)
        return torch.where(self.found, between, self.radius / 2)


def _descend(
    batch: Batch, objective: Objective, ball: Ball, delta: Tensor, options: MarginSearch, level: int
) -> tuple[Tensor, Tensor]:
    loss, draws = objective.loss(batch), objective.draws(batch.question)
    momentum, quicken = options.start.momentum_for(objective, batch), options.start.quicken(batch)
    best, best_gap = torch.zeros_like(delta), torch.full_like(ball.radius, -math.inf)
    for climb in range(options.restarts + 1):
        use = f"margin/{level}/{climb}"
        fresh = ball.random_start(batch.noise(f"{use}/start", *batch.images.shape[1:]))
        warm = (size(delta, ball.norm) > 0) & (climb == 0)
        noise = batch.noise(f"{use}/steps", options.steps, draws, batch.vae.latent)
        start = where(warm, ball.stretch(delta), fresh)
        end, _ = ascend(loss, ball, start, noise, options.start.step, momentum, quicken)
        gap = _gap(batch, ball, end, str(level), options)
        best, best_gap = where(gap > best_gap, end, best), torch.where(gap > best_gap, gap, best_gap)
    return best, best_gap


def _gap(batch: Batch, ball: Ball, delta: Tensor, use: str, options: MarginSearch) -> Tensor:
    return batch.quantile(ball.apply(delta), f"select/{use}", options.selection, batch.question.p) - batch.question.r
