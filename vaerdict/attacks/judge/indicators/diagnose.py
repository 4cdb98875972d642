"""All indicators of one search, per sample."""

from jaxtyping import Float
from torch import Tensor

from vaerdict.attacks.batch import Batch
from vaerdict.attacks.judge.indicators import model, search
from vaerdict.attacks.judge.indicators.probe import Probe
from vaerdict.attacks.judge.precision import exact_arithmetic
from vaerdict.attacks.objectives import Objective
from vaerdict.attacks.threat import Ball


def diagnose(
    batch: Batch,
    objective: Objective,
    ball: Ball,
    delta: Float[Tensor, "batch ..."],
    *,
    seen: Float[Tensor, " batch"] | None = None,
    use: str = "indicators",
) -> list[dict[str, bool]]:
    """Look once more at where a search ended, whatever optimiser it was.

    Every comparison is between points on common draws, which no search has seen, in the judge's precision. A flag is a
    reason to distrust the row, never a proof; its absence proves nothing either. Where a number is not finite only
    `not_finite` is certain. Per image 36 evaluations of the encoder and 35 of the decoder, 13 and 12 of them
    differentiated; of a random loss 127, 405, 27 and 26 ("sampled").

    Args:
        batch: the images.
        objective: what was maximised.
        ball: what was allowed; for a margin the ball of the perturbation's own size.
        delta: the perturbations found.
        seen: the largest losses that the search saw, from `Watched`.
        use: names the draws.

    Returns:
        Per sample whether each of these holds: `zero_gradient`, `unstable_loss`, `unfinished`, `silent_success`,
        `not_monotone`, `weaker_than_noise`, `clamped_log_variance`, `saturated`, `not_finite`.

    >>> import torch
    >>> from vaerdict.attacks.objectives import MaximumDamage
    >>> from vaerdict.attacks.question import Question
    >>> from vaerdict.vae import Posterior
    >>> class Identity:
    ...     name, input_shape, input_range, latent = "identity", (4,), (-1.0, 1.0), 4
    ...     def encode(self, images): return Posterior(images, torch.full_like(images, 0.1))
    ...     def decode(self, latents): return latents
    >>> images = torch.zeros(1, 4)
    >>> batch = Batch.of(Identity(), images, Question(r=1.0, reconstruction="mean"), 0, (0,))
    >>> ball = Ball(norm="2", radius=torch.ones(1), box=(-1.0, 1.0), center=images)
    >>> (flags,) = diagnose(batch, MaximumDamage(), ball, torch.zeros(1, 4))
    >>> [name for name, raised in flags.items() if raised]
    ['zero_gradient', 'weaker_than_noise']
    """
    with exact_arithmetic(batch.images.device) as coarse:
        if coarse:
            batch = Batch.of(batch.vae, batch.images, batch.question, batch.seed, batch.sample_ids)
        probe = Probe(batch, objective, ball, delta, use)
        flags = {
            "zero_gradient": search.zero_gradient(probe),
            "unstable_loss": search.unstable_loss(probe),
            "unfinished": search.unfinished(probe),
            "silent_success": search.silent_success(probe, seen),
            "not_monotone": search.not_monotone(probe),
            "weaker_than_noise": search.weaker_than_noise(probe),
            "clamped_log_variance": model.clamped_log_variance(probe),
            "saturated": model.saturated(probe),
        }
        flags["not_finite"] = ~probe.finite
    columns = {name: flag.tolist() for name, flag in flags.items()}
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
