"""The penalised attack for many weights at once (Tabacof et al. 2016; Gondim-Ribeiro et al. 2018)."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from vaerdict.attacks.batch import Batch, Meter
from vaerdict.attacks.levels import flat
from vaerdict.attacks.objectives import Objective, TargetedLatent, fitted, reconstruct
from vaerdict.attacks.objectives.base import check_targets
from vaerdict.attacks.optimisers.common import Optimiser
from vaerdict.attacks.question import Question
from vaerdict.attacks.threat import Ball, settle, size, where
from vaerdict.attacks.tradeoff.curve import Tradeoff
from vaerdict.attacks.tradeoff.penalised import Penalised
from vaerdict.options import Reconstruction, require
from vaerdict.vae import VAE, borrowed, check_images


def spaced_weights(count: int = 50, exponent: float = 20.0, *, zero: bool = True) -> tuple[float, ...]:
    """Give weights spaced evenly on a log scale from `2^-exponent` to `2^exponent`, after zero where wanted.

    By default those of Gondim-Ribeiro et al. (2018); Tabacof et al. (2016) take 100 without zero.

    >>> spaced_weights(3, 1.0)
    (0.0, 0.5, 1.0, 2.0)
    """
    require(count >= 2, "`count` >= 2", count)
    require(0 < exponent < 1000, "`exponent` in (0, 1000)", exponent)
    weights = tuple(2.0 ** (exponent * (2 * k / (count - 1) - 1)) for k in range(count))
    return (0.0, *weights) if zero else weights


def sweep_penalty(
    vae: VAE,
    images: Float[Tensor, "batch ..."],
    targets: Float[Tensor, "targets ..."],
    weights: Sequence[float],
    optimiser: Optimiser,
    *,
    objective: Callable[[Tensor], Objective] = TargetedLatent,
    reconstruction: Reconstruction = "mean",
    samples: int = 100,
    seed: int = 0,
    sample_ids: Sequence[int] | None = None,
) -> list[Tradeoff]:
    """Maximise the objective less `C |delta|_2^2` in the box alone, for every weight `C`; one trade-off per image.

    All pairs of image and weight go through the optimiser together, `optimiser.batch_size` at a time; the weights of an
    image share its noise.

    Args:
        vae: the model, a torch module; it comes back as it was lent.
        images: `[B, *input_shape]`, pixels in `input_range`.
        targets: one target image per image, of the same shape.
        weights: values of `C` >= 0, in the objective's units per squared pixel unit. One so large that nothing moves
            should be among them, since the curve begins at the smallest distortion.
        optimiser: without a penalty of its own. A `start` near 0 suits it, since the ball is as wide as the box.
        objective: made from targets; it is called once per chunk, with one target per pair of image and weight in it.
        reconstruction: which one is compared with the target: "mean", or of draws ("sampled", "anchored").
        samples: draws over which a random reconstruction's distances are averaged.
        seed: of all noise.
        sample_ids: one per image; by default their positions.

    Raises:
        ValueError: an argument is out of its range or of another shape than the images ask for.
        TypeError: the model is not a torch module.

    >>> from vaerdict.attacks.optimisers.adam import Adam
    >>> from vaerdict.vae import Posterior
    >>> class Identity(torch.nn.Module):
    ...     name, input_shape, input_range, latent = "identity", (4,), (0.0, 1.0), 4
    ...     def encode(self, images): return Posterior(images, torch.ones_like(images))
    ...     def decode(self, latents): return latents
    >>> adam = Adam(steps=120, learning_rate=0.03, start=1e-3)
    >>> (one,) = sweep_penalty(Identity(), torch.zeros(1, 4), torch.ones(1, 4), (0.0, 0.5, 50.0), adam)
    >>> [f"{length:.2f}" for length in one.distortion], f"{one.auddc:.2f}"
    (['2.00', '1.00', '0.02'], '0.49')
    """
    _check_types(images, targets)
    vae, images = flat(vae), settle(images, vae.input_range).detach()
    targets = settle(targets.to(images), vae.input_range).detach()
    ids = tuple(range(len(images)) if sample_ids is None else map(int, sample_ids))
    _check(vae, images, targets, weights, optimiser, samples)
    require(len(ids) == len(images), f"{len(images)} `sample_ids`", len(ids))
    fitted(objective(targets), vae).check(vae, images)
    question, costs = (
        Question(r=1.0, reconstruction=reconstruction),
        torch.tensor(weights).to(images),
    )  # any `r` will do

    def batch_of(rows: Tensor) -> Batch:
        return Batch.of(Meter(vae), images[rows], question, seed, tuple(ids[row] for row in rows.tolist()))

    with borrowed(vae):
        step, moved = optimiser.batch_size, []
        still = [_ends(batch_of(rows), targets[rows], samples) for rows in torch.arange(len(images)).split(step)]
        for pairs in torch.arange(len(images) * len(weights)).split(step):
            rows, chosen = pairs // len(weights), pairs % len(weights)
            aim = Penalised(fitted(objective(targets[rows]), vae), costs[chosen])
            moved.append(_lengths(batch_of(rows), targets[rows], aim, optimiser, samples))
    lengths = torch.cat(moved).unflatten(0, (len(images), len(weights)))
    return [_tradeoff(i, weights, *one) for i, *one in zip(ids, lengths, torch.cat(still).tolist(), strict=True)]


def _check_types(images: Any, targets: Any) -> None:
    require(isinstance(images, Tensor), "`images` as a torch tensor", type(images).__name__)
    require(isinstance(targets, Tensor), "`targets` as a torch tensor, one image per image", type(targets).__name__)
    exact = images.dtype in (torch.float32, torch.float64)
    require(exact, "`images` of type float32 or float64", str(images.dtype).removeprefix("torch."))


def _check(
    vae: VAE, images: Tensor, targets: Tensor, weights: Sequence[float], optimiser: Optimiser, samples: int
) -> None:
    check_images(vae, images)
    check_targets(vae, images, targets)
    require(len(weights) >= 1, "at least one of `weights`", "none")
    bad = [weight for weight in weights if not 0 <= weight < math.inf]
    require(not bad, "finite `weights` >= 0", bad)
    require(samples >= 1, "`samples` >= 1", samples)
    penalty = getattr(optimiser, "penalty", 0.0)
    require(penalty == 0, "an `optimiser` without a penalty of its own", penalty)


def _ends(batch: Batch, targets: Tensor, samples: int) -> Float64[Tensor, "batch 3"]:
    """Give what a `Tradeoff` holds of each image without an attack: span, clean and least."""
    columns = [
        size(targets - batch.images, "2").unsqueeze(1),
        _distances(batch, batch.images, (targets,), samples),
        _distances(batch, targets, (targets,), samples),
    ]
    return torch.cat(columns, 1).double().cpu()


def _lengths(
    batch: Batch, targets: Tensor, objective: Objective, optimiser: Optimiser, samples: int
) -> Float64[Tensor, "batch 3"]:
    """Attack in the box, and give what a `Tradeoff` holds of each pair in its order."""
    ball = Ball.widest("2", batch.vae.input_range, batch.images)
    delta, sane = optimiser.search(batch, objective, ball, "tradeoff")
    adversarial = where(sane, ball.apply(delta), torch.full_like(delta, torch.nan))
    moved = size(adversarial - batch.images, "2").unsqueeze(1)
    distances = _distances(batch, adversarial, (targets, batch.images), samples)
    return torch.cat([moved, distances], 1).double().cpu()


@torch.no_grad()
def _distances(batch: Batch, images: Tensor, goals: Sequence[Tensor], samples: int) -> Float[Tensor, "batch goals"]:
    """Give the distances of the images' reconstructions to each goal, as means over the draws."""
    posterior, draws = batch.vae.encode(images), batch.question.draws
    total = images.new_zeros(len(images), len(goals))
    for k in range(samples if draws else 1):
        latents = reconstruct.latent_of(batch, posterior, batch.noise(f"tradeoff/{k}", draws, batch.vae.latent))
        reconstructions = batch.vae.decode(latents)
        total += torch.stack([size(reconstructions - goal, "2") for goal in goals], 1)
    return total / (samples if draws else 1)


def _tradeoff(
    sample_id: int, weights: Sequence[float], lengths: Float64[Tensor, "weights 3"], ends: Sequence[float]
) -> Tradeoff:
    distortion, to_target, to_image = (tuple(column) for column in lengths.T.tolist())
    span, clean, least = ends
    return Tradeoff(
        sample_id=sample_id, weights=tuple(map(float, weights)), distortion=distortion, to_target=to_target,
        to_image=to_image, span=span, clean=clean, least=least,
    )  # fmt: skip
