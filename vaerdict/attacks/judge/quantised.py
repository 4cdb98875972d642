"""The attacked image as a file keeps it: 8 bits per value, then judged once more."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from vaerdict.attacks.batch import Batch
from vaerdict.attacks.judge.evaluate import Evaluation, Verdict, measure
from vaerdict.attacks.threat import Ball

TOP = 255
"""The highest of the 256 levels."""
SAME = 1e-6
"""A clean value this close to its level, relatively to the range, is one that came from 8 bits: it stays as it is."""


def to_levels(images: Float[Tensor, "..."], box: tuple[float, float]) -> UInt8[Tensor, "..."]:
    """Round values to the 256 levels of the range, ties to even; none may be NaN.

    >>> to_levels(torch.tensor([-1.0, 0.0, 0.5, 1.0]), (-1.0, 1.0))
    tensor([  0, 128, 191, 255], dtype=torch.uint8)
    """
    low, high = box
    return ((images - low) / (high - low) * TOP).round().clamp(0, TOP).to(torch.uint8)


def from_levels(levels: UInt8[Tensor, "..."], box: tuple[float, float], dtype: torch.dtype) -> Float[Tensor, "..."]:
    """Give the values that the levels stand for, none outside the range.

    >>> from_levels(torch.tensor([0, 255], dtype=torch.uint8), (-1.0, 1.0), torch.float32)
    tensor([-1.,  1.])
    """
    low, high = box
    return (levels.to(dtype) / TOP * (high - low) + low).clamp(low, high)


def judge_quantised(
    batch: Batch, ball: Ball, verdicts: Sequence[Verdict | None], evaluation: Evaluation, use: str
) -> list[dict[str, Any]]:
    """Judge each attacked image again after rounding to 8 bits, against the clean image as it was given.

    Rounding moves every value by up to half a level, outside a mask, too, so the perturbation may be larger than the
    radius: its size is told, and is never a margin.

    Returns:
        One dictionary per sample: `damage`, the mean `|Delta|`; `success`, whether the judge, on fresh noise, would
        have said so; `size`, the norm of the perturbation, rounded up. None for each where there is no verdict to
        start from, or where a number is not finite.
    """
    told: list[dict[str, Any]] = [{"damage": None, "success": None, "size": None} for _ in verdicts]
    places = [i for i, verdict in enumerate(verdicts) if verdict is not None and verdict.finite]
    if not places:
        return told
    keep = torch.zeros(len(verdicts), dtype=torch.bool, device=batch.images.device)
    keep[places] = True
    part = batch.select(keep)
    attacked = torch.stack([verdict.adversarial for verdict in verdicts if verdict is not None and verdict.finite])
    stored = _stored(attacked, part.images, ball.box)
    for i, again in zip(places, measure(part, stored, ball.norm, evaluation, f"quantised/{use}"), strict=True):
        if again.finite:
            told[i] = {"damage": again.damage, "success": again.success, "size": again.size}
    return told


def _stored(attacked: Tensor, images: Tensor, box: tuple[float, float]) -> Tensor:
    rounded = from_levels(to_levels(attacked, box), box, attacked.dtype)
    low, high = box
    return torch.where((rounded - images).abs() <= SAME * (high - low), images, rounded)
