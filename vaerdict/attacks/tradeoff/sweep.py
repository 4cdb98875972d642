"""The penalised attack for many weights at once (Tabacof et al. 2016; Gondim-Ribeiro et al. 2018)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from vaerdict.attacks.batch import Batch, Meter
from vaerdict.attacks.levels import flat
from vaerdict.attacks.objectives import Loss, Objective, TargetedLatent, fitted, reconstruct
from vaerdict.attacks.objectives.base import Uniform, check_targets
from vaerdict.attacks.optimisers.common import Optimiser
from vaerdict.attacks.question import Question
from vaerdict.attacks.threat import Ball, settle, size, where
from vaerdict.attacks.tradeoff.curve import Tradeoff
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


@dataclass(frozen=True, eq=False)
class Penalised(Uniform):
    """An objective less `C |delta|_2^2`, with one weight `C` per image; so any optimiser can work on many at once.

    Args:
        objective: of the same images.
        weights: `[B]`, in the objective's units per squared pixel unit.

    >>> Penalised(TargetedLatent(torch.zeros(1, 1, 8, 8)), torch.ones(1)).name
    'latent-penalised'
    """

    objective: Objective
    weights: Float[Tensor, " batch"]

    @property
    def name(self) -> str:
        """The end of the method's name in the results."""
        return f"{self.objective.name}-penalised"

    def check(self, vae: Any, images: Tensor) -> None:
        """Refuse weights that are not one per image, not finite or negative, and what the objective refuses."""
        shape = tuple(self.weights.shape)
        require(shape == (len(images),), f"`weights` of shape ({len(images)},)", shape)
        bad = self.weights[~(self.weights.isfinite() & (self.weights >= 0))].tolist()
        require(not bad, "finite `weights` >= 0", bad)
        self.objective.check(vae, images)

    def part(self, chunk: slice) -> "Penalised":
        """Give the objective and the weights of a chunk of the images."""
        return Penalised(self.objective.part(chunk), self.weights[chunk])

    def describe(self, index: int) -> dict[str, Any]:
        """Give what the objective says, and the weight."""
        return {**self.objective.describe(index), "penalty": float(self.weights[index])}

    def draws(self, question: Question) -> int:
        """Give as many draws as the objective needs."""
        return self.objective.draws(question)

    def loss(self, batch: Batch) -> Loss:
        """Give the objective's loss less the penalty."""
        loss, weights = self.objective.loss(batch), self.weights.to(batch.images)
        return lambda images, noise: loss(images, noise) - weights * (images - batch.images).flatten(1).square().sum(1)


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
        objective: made from the targets, of which it gets one per pair of image and weight.
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
    vae, images = flat(vae), settle(images, vae.input_range).detach()
    targets, ids = targets.to(images), tuple(range(len(images)) if sample_ids is None else map(int, sample_ids))
    _check(vae, images, targets, weights, optimiser, samples)
    require(len(ids) == len(images), f"{len(images)} `sample_ids`", len(ids))
    question, count = Question(r=1.0, reconstruction=reconstruction), len(weights)  # nobody judges: any `r` will do
    sources, goals = (values.repeat_interleave(count, 0) for values in (images, targets))
    owners = tuple(i for i in ids for _ in weights)
    penalised = Penalised(fitted(objective(goals), vae), torch.tensor(weights).to(images).repeat(len(images)))
    penalised.check(vae, sources)
    found = []
    with borrowed(vae):
        for start in range(0, len(sources), optimiser.batch_size):
            chunk = slice(start, start + optimiser.batch_size)
            batch = Batch.of(Meter(vae), sources[chunk], question, seed, owners[chunk])
            found.append(_lengths(batch, goals[chunk], penalised.part(chunk), optimiser, samples))
    lengths = torch.cat(found).double().cpu().unflatten(0, (len(images), count))
    return [_tradeoff(i, weights, one) for i, one in zip(ids, lengths, strict=True)]


def _check(
    vae: VAE, images: Tensor, targets: Tensor, weights: Sequence[float], optimiser: Optimiser, samples: int
) -> None:
    check_images(vae, images)
    check_targets(vae, images, targets)
    require(len(weights) >= 1, "at least one of `weights`", "none")
    require(samples >= 1, "`samples` >= 1", samples)
    penalty = getattr(optimiser, "penalty", 0.0)
    require(penalty == 0, "an `optimiser` without a penalty of its own", penalty)


def _lengths(
    batch: Batch, targets: Tensor, objective: Objective, optimiser: Optimiser, samples: int
) -> Float[Tensor, "batch 6"]:
    """Attack in the box, and give what a `Tradeoff` holds of each pair in its order."""
    ball = Ball.widest("2", batch.vae.input_range, batch.images)
    delta, sane = optimiser.search(batch, objective, ball, "tradeoff")
    adversarial = where(sane, ball.apply(delta), torch.full_like(delta, torch.nan))
    columns = [
        size(adversarial - batch.images, "2").unsqueeze(1),
        _distances(batch, adversarial, (targets, batch.images), samples),
        size(targets - batch.images, "2").unsqueeze(1),
        _distances(batch, batch.images, (targets,), samples),
        _distances(batch, targets, (targets,), samples),
    ]
    return torch.cat(columns, 1)


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


def _tradeoff(sample_id: int, weights: Sequence[float], lengths: Float[Tensor, "weights 6"]) -> Tradeoff:
    distortion, to_target, to_image, *ends = (tuple(column) for column in lengths.T.tolist())
    span, clean, least = (column[0] for column in ends)
    return Tradeoff(
        sample_id=sample_id, weights=tuple(map(float, weights)), distortion=distortion, to_target=to_target,
        to_image=to_image, span=span, clean=clean, least=least,
    )  # fmt: skip
