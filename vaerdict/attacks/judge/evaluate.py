"""The judge: the only place that says "success", in a clean forward pass on noise that no search has seen."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.stats import beta
from torch import Tensor

from vaerdict.attacks.batch import Batch
from vaerdict.attacks.judge.precision import exact_arithmetic
from vaerdict.attacks.question import AttackNorm
from vaerdict.attacks.threat import COUNTS, Ball, size
from vaerdict.options import require

ROUNDING = 1e-6
"""Distances this close to `r`, relatively, count as within it: a tie is never a success."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """How success is decided where reconstructions are random, and what else is looked at; none of it changes success.

    Args:
        samples: fresh draws of `Delta`; one where it is deterministic.
        confidence: that of the one-sided Clopper-Pearson bound.
        quantised: judge the attacked image as 8 bits per value store it, too. On by default, since what an image file
            does not keep harms nobody; it costs as much as the judge.
        indicators: look for signs that the search failed, too. Off by default: it costs as much as a short search.

    >>> Evaluation(samples=2000).confidence
    0.999
    """

    samples: int = 1000
    confidence: float = 0.999
    quantised: bool = True
    indicators: bool = False

    def __post_init__(self) -> None:
        require(self.samples >= 1, "`samples` >= 1", self.samples)
        require(0 < self.confidence < 1, "`confidence` in (0, 1)", self.confidence)

    def check_level(self, p: float) -> None:
        """Refuse so few samples that not even certain damage would count as success at level `p`."""
        least = float(bound_probability(0, self.samples, self.confidence))
        message = f"enough `samples` to decide at `p` = {p} and `confidence` = {self.confidence}"
        require(least <= p, message, self.samples)


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What the judge found for one candidate.

    `within` of `samples` draws kept `|Delta| <= r`; `upper` bounds that probability from above. `size` is the
    perturbation's norm, rounded up; `damage` the mean `|Delta|`; both in pixel units.
    """

    success: bool
    finite: bool
    adversarial: Float[Tensor, "..."]
    size: float
    damage: float
    within: int
    samples: int
    upper: float

    @property
    def counts(self) -> dict[str, float]:
        """What a checker needs to decide success again."""
        return {"size": self.size, "within": self.within, "samples": self.samples, "upper": self.upper}


def bound_probability(within: int | np.ndarray, samples: int, confidence: float) -> np.ndarray:
    """Give the one-sided Clopper-Pearson upper bound of a probability (THEORY 7.4).

    >>> float(bound_probability(5, 10, 0.95)).__round__(4)
    0.7776
    """
    within = np.asarray(within)
    # The last argument is kept positive: where every draw is within, the bound is 1 by definition.
    tail = beta.ppf(confidence, within + 1, np.maximum(samples - within, 1))
    return np.where(within >= samples, 1.0, tail)


def evaluate(
    batch: Batch, ball: Ball, delta: Float[Tensor, "batch ..."], evaluation: Evaluation, use: str
) -> list[Verdict]:
    """Judge one candidate per sample: bring it into ball and box, then measure what it does.

    No success without box, ball and mask kept, as far as the pixels say, in float64.
    """
    with exact_arithmetic(batch.images.device):
        adversarial = ball.apply(delta)
    verdicts = measure(batch, adversarial, ball.norm, evaluation, f"evaluation/{use}")
    allowed = _allowed(ball, adversarial, [verdict.size for verdict in verdicts])
    return [replace(one, success=one.success and fair) for one, fair in zip(verdicts, allowed, strict=True)]


def measure(
    batch: Batch, adversarial: Float[Tensor, "batch ..."], norm: AttackNorm, evaluation: Evaluation, purpose: str
) -> list[Verdict]:
    """Say of any images what they do, whether or not they are allowed; `purpose` names the noise.

    Success: the upper bound of `P(|Delta| <= r)` on fresh noise is at most `p` (THEORY 8). The mean reconstruction is
    deterministic, so there the probability is 0 or 1 and needs no interval. Everything is computed in the images' own
    precision, whatever the search was allowed: the clean reconstruction, too, where it was computed in less.
    """
    with exact_arithmetic(batch.images.device) as coarse:
        if coarse:
            batch = Batch.of(batch.vae, batch.images, batch.question, batch.seed, batch.sample_ids)
        within, total, samples = _tally(batch, adversarial, evaluation, purpose)
    kept = within.cpu().numpy()
    deterministic = not batch.question.draws
    upper = kept / samples if deterministic else bound_probability(kept, samples, evaluation.confidence)
    sizes = size_up(adversarial, batch.images, norm).tolist()
    finite = (total.isfinite() & adversarial.flatten(1).isfinite().all(1)).tolist()
    return [
        Verdict(
            success=finite[i] and bool(upper[i] <= batch.question.p),
            finite=finite[i],
            adversarial=adversarial[i],
            size=sizes[i],
            damage=float(total[i]) / samples,
            within=int(kept[i]),
            samples=samples,
            upper=float(upper[i]),
        )
        for i in range(len(adversarial))
    ]


def _tally(
    batch: Batch, adversarial: Tensor, evaluation: Evaluation, purpose: str
) -> tuple[Int[Tensor, " batch"], Float[Tensor, " batch"], int]:
    """Give per sample how many draws kept `|Delta| <= r` and their sum, and how many draws there were."""
    within = torch.zeros(len(adversarial), dtype=torch.int64, device=adversarial.device)
    total = torch.zeros(len(adversarial), dtype=torch.float64, device=adversarial.device)
    samples = 0
    for distances in batch.changes(adversarial, purpose, evaluation.samples):
        within += (distances <= batch.question.r * (1 + ROUNDING)).sum(1)
        total += distances.double().sum(1)
        samples += distances.shape[1]
    return within, total, samples


def size_up(
    adversarial: Float[Tensor, "batch ..."], images: Float[Tensor, "batch ..."], norm: AttackNorm
) -> Float[Tensor, " batch"]:
    """Give the norm of the perturbation that the pixels really have, in float64, rounded up; counts are exact.

    >>> float(size_up(torch.ones(1, 4), torch.zeros(1, 4), "2")) > 2
    True
    """
    norms = size((adversarial.double() - images.double()).cpu(), norm)
    if norm in COUNTS:
        return norms
    # The differences and the sum of n powers are off by at most n + 1 units of rounding; zero stays zero, as it is
    # exact.
    units = max(images[0].numel(), 8) + (4 if norm == "1" else 0)
    rounded = torch.nextafter(norms * (1 + units * 2.0**-53), torch.tensor(torch.inf, dtype=norms.dtype))
    return torch.where(norms > 0, rounded, norms)


def _allowed(ball: Ball, adversarial: Tensor, sizes: list[float]) -> list[bool]:
    low, high = ball.box
    kept = (adversarial >= low) & (adversarial <= high)
    if ball.mask is not None:
        kept &= ball.mask | (adversarial == ball.center)
    # A count is exact, a distance was rounded up.
    slack = 1.0 if ball.norm in COUNTS else 1 + 1e-6
    most = (ball.radius.double() * slack).tolist()
    return [
        fair and size <= limit for fair, size, limit in zip(kept.flatten(1).all(1).tolist(), sizes, most, strict=True)
    ]
