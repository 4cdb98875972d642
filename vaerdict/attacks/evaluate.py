"""The judge: the only place that says "success", in a clean forward pass on noise that no search has seen."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from scipy.stats import beta
from torch import Tensor

from vaerdict.attacks.batch import Batch
from vaerdict.attacks.question import AttackNorm
from vaerdict.attacks.threat import COUNTS, Ball, size
from vaerdict.options import require

ROUNDING = 1e-6
"""Distances this close to `r`, relatively, count as within it: a tie is never a success."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """How success is decided where reconstructions are random.

    Args:
        samples: fresh draws of `Delta`; one where it is deterministic.
        confidence: that of the one-sided Clopper-Pearson bound.

    >>> Evaluation(samples=2000).confidence
    0.999
    """

    samples: int = 1000
    confidence: float = 0.999

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

    Success: the upper bound of `P(|Delta| <= r)` on fresh noise is at most `p` (THEORY 8). The mean reconstruction is
    deterministic, so there the probability is 0 or 1 and needs no interval.
    """
    adversarial = ball.apply(delta)
    within = torch.zeros(len(delta), dtype=torch.int64, device=delta.device)
    total = torch.zeros(len(delta), dtype=torch.float64, device=delta.device)
    samples = 0
    for distances in batch.changes(adversarial, f"evaluation/{use}", evaluation.samples):
        within += (distances <= batch.question.r * (1 + ROUNDING)).sum(1)
        total += distances.double().sum(1)
        samples += distances.shape[1]
    kept = within.cpu().numpy()
    deterministic = not batch.question.draws
    upper = kept / samples if deterministic else bound_probability(kept, samples, evaluation.confidence)
    sizes = size_up(adversarial, batch.images, ball.norm)
    allowed = _allowed(ball, adversarial, sizes)
    finite = (total.isfinite() & adversarial.flatten(1).isfinite().all(1)).tolist()
    return [
        Verdict(
            success=finite[i] and allowed[i] and bool(upper[i] <= batch.question.p),
            finite=finite[i],
            adversarial=adversarial[i],
            size=float(sizes[i]),
            damage=float(total[i]) / samples,
            within=int(kept[i]),
            samples=samples,
            upper=float(upper[i]),
        )
        for i in range(len(delta))
    ]


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


def _allowed(ball: Ball, adversarial: Tensor, sizes: Tensor) -> list[bool]:
    low, high = ball.box
    kept = (adversarial >= low) & (adversarial <= high)
    if ball.mask is not None:
        kept &= ball.mask | (adversarial == ball.center)
    # A count is exact, a distance was rounded up.
    near = sizes <= ball.radius.double().cpu() * (1.0 if ball.norm in COUNTS else 1 + 1e-6)
    return (kept.flatten(1).all(1).cpu() & near).tolist()
