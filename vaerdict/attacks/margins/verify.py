"""From a promising direction to a verified margin: place the candidate at the boundary, then let the judge decide."""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from vaerdict.attacks.batch import Batch
from vaerdict.attacks.judge.evaluate import Evaluation, Verdict, bound_probability, evaluate
from vaerdict.attacks.margins.bisection import MarginSearch
from vaerdict.attacks.margins.trail import Trail
from vaerdict.attacks.threat import COUNTS, Ball, scaled

TIE = 1e-5
"""By this share a candidate must exceed `r` to be worth the judge's time, to whom a smaller one is rounding."""
SECANTS = 2
"""Corrections of the length: from within a few per cent, the second is already below the sampling error."""


def target_level(p: float, evaluation: Evaluation, polish: int, safety: float) -> float:
    """Give the level that `P(|Delta| <= r)` should fall to for the judge to agree, on noise that is yet to be drawn.

    That is the largest share that the judge accepts, less `safety` standard errors of both samples.

    >>> 0.4 < target_level(0.5, Evaluation(samples=10_000), 2000, 1.0) < 0.5
    True
    """
    n = evaluation.samples
    accepted = int((bound_probability(np.arange(n + 1), n, evaluation.confidence) <= p).sum()) - 1
    return max(0.0, accepted / n - safety * math.sqrt(p * (1 - p) * (1 / n + 1 / polish)))


def place(
    batch: Batch, ball: Ball, delta: Float[Tensor, "batch ..."], r: float, level: float, polish: int, use: str
) -> Float[Tensor, "batch ..."]:
    """Rescale each perturbation until the `level`-quantile of `|Delta|` is `r`, by secants on common draws.

    A count of pixels does not change with their length, so there the perturbation stays as it is.
    """
    if ball.norm in COUNTS:
        return delta

    def quantile(factor: Tensor) -> Tensor:
        return batch.quantile(ball.apply(scaled(delta, factor)), f"polish/{use}", polish, level)

    old = torch.ones(len(delta), dtype=delta.dtype, device=delta.device)
    old_value = quantile(old)
    new = _near(old, r / old_value)
    for _ in range(SECANTS - 1):
        value = quantile(new)
        slope = (value - old_value) / (new - old)
        step = torch.where(slope > 0, (r - value) / slope, 0)
        old, old_value, new = new, value, _near(new, 1 + step / new)
    return ball.project(scaled(delta, new))


def _near(factor: Tensor, change: Tensor) -> Tensor:
    return factor * change.nan_to_num(1.0).clamp(0.5, 2.0)


def verify(
    batch: Batch, ball: Ball, trail: Trail, options: MarginSearch, evaluation: Evaluation
) -> list[Verdict | None]:
    """Give the judge's verdict on each sample's first candidate that passes; None where none does.

    The first candidate is as tight as the judge's confidence allows; whoever fails gets a larger one, placed with twice
    the safety, or a spare where rescaling does not help. Zero is a candidate too, where the clean image itself seems
    fragile. Every attempt has fresh noise and an equal share of the allowed error (Bonferroni), so that the stated
    confidence holds for the whole; what is passed over in favour of a spare never sees the judge, and costs no share.
    """
    share = shared(evaluation, options)
    verdicts: list[Verdict | None] = [None] * len(batch.images)
    pending = trail.found | trail.fragile
    for attempt in range(options.attempts + 1):
        now = pending & (trail.fragile if attempt == 0 else trail.found)
        if not now.any():
            continue
        part, here = batch.select(now), ball.select(now)
        candidate = torch.zeros_like(part.images)
        if attempt:
            level = target_level(batch.question.p, share, options.polish, 2.0 ** (attempt - 1))
            # Only whoever failed is worth a look before the judge's; at the last attempt, everyone.
            several = attempt > 1 or options.attempts == 1
            known = [one[now] for one in (trail.delta, *trail.spares)[: None if several else 1]]
            candidate = _first_to_reach(part, here, known, level, options, attempt)
        judged = evaluate(part, here, candidate, share, f"margin/{attempt}")
        for i, verdict in zip(now.nonzero().flatten().tolist(), judged, strict=True):
            if verdict.success:
                verdicts[i] = verdict
                pending[i] = False
    return verdicts


def _first_to_reach(
    batch: Batch, ball: Ball, candidates: Sequence[Tensor], level: float, options: MarginSearch, attempt: int
) -> Float[Tensor, "batch ..."]:
    """Place per sample the first candidate that, at its length, seems to do it; the first of all where none does.

    A count cannot be lengthened, and what ends where the room does hardly. A single candidate is placed, no more.
    """
    chosen = _placed(batch, ball, candidates[0], level, options, attempt)
    if len(candidates) == 1:
        return chosen
    short = _falls_short(batch, ball, chosen, level, options, attempt)
    for spare in candidates[1:]:
        if not short.any():
            break
        part, here = batch.select(short), ball.select(short)
        other = _placed(part, here, spare[short], level, options, attempt)
        does = ~_falls_short(part, here, other, level, options, attempt)
        places = short.nonzero().flatten()[does]
        chosen = chosen.index_put((places,), other[does])
        short[places] = False
    return chosen


def _placed(batch: Batch, ball: Ball, delta: Tensor, level: float, options: MarginSearch, attempt: int) -> Tensor:
    r = batch.question.r * (1 + 1e-5 * 10**attempt)
    # Few draws bring every length near the boundary, many then say where exactly.
    for draws in (options.selection, options.polish):
        delta = place(batch, ball, delta, r, level, draws, f"{attempt}/{draws}")
    return delta


def _falls_short(
    batch: Batch, ball: Ball, delta: Tensor, level: float, options: MarginSearch, attempt: int
) -> Bool[Tensor, " batch"]:
    purpose = f"polish/{attempt}/{options.polish}"
    return ~(batch.quantile(ball.apply(delta), purpose, options.polish, level) > batch.question.r * (1 + TIE))


def shared(evaluation: Evaluation, options: MarginSearch) -> Evaluation:
    """Split the allowed error evenly over the attempts, zero included."""
    return replace(evaluation, confidence=1 - (1 - evaluation.confidence) / (options.attempts + 1))
