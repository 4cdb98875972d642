"""What is looked at besides the verdict, as rows keep it: the 8-bit image and the indicators."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from vaerdict.attacks.batch import Batch
from vaerdict.attacks.judge.evaluate import Evaluation, Verdict
from vaerdict.attacks.judge.indicators import diagnose
from vaerdict.attacks.judge.quantised import judge_quantised
from vaerdict.attacks.objectives import Objective
from vaerdict.attacks.threat import Ball


def look_again(
    batch: Batch,
    objective: Objective,
    ball: Ball,
    verdicts: Sequence[Verdict | None],
    evaluation: Evaluation,
    use: str,
    seen: Float[Tensor, " batch"] | None = None,
) -> list[dict[str, Any]]:
    """Give, per sample with a verdict, what the evaluation asks for: `quantised`, and the names of raised `indicators`.

    Args:
        batch: the images.
        objective: what was maximised.
        ball: what was allowed; for a margin the ball of each perturbation's own size.
        verdicts: the judge's; None for a sample for which nothing was found.
        evaluation: the judge's options.
        use: names the draws.
        seen: the largest losses that the search saw, from `Watched`.
    """
    told: list[dict[str, Any]] = [{} for _ in verdicts]
    if evaluation.quantised:
        for one, again in zip(told, judge_quantised(batch, ball, verdicts, evaluation, use), strict=True):
            one["quantised"] = again
    if evaluation.indicators:
        attacked = [one.adversarial if one else image for one, image in zip(verdicts, batch.images, strict=True)]
        delta = torch.stack(attacked) - batch.images
        for one, flags in zip(told, diagnose(batch, objective, ball, delta, seen=seen, use=use), strict=True):
            one["indicators"] = [name for name, raised in flags.items() if raised]
    return [one if verdict else {} for one, verdict in zip(told, verdicts, strict=True)]
