"""Objectives on posteriors; the decoder is never run."""

from dataclasses import dataclass, replace
from typing import Any, ClassVar, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from vaerdict.attacks.batch import Batch
from vaerdict.attacks.objectives.base import Targeted, check_targets, target_sha256
from vaerdict.attacks.objectives.divergences import DIVERGENCES, Divergence
from vaerdict.attacks.objectives.levelled import Levelled
from vaerdict.attacks.objectives.protocol import Loss
from vaerdict.options import require


@dataclass(frozen=True, eq=False)
class TargetedLatent(Levelled, Targeted):
    """Bring the posterior to that of a target image (THEORY 8; Tabacof et al. 2016). Encoder only.

    Args:
        target_images: one target per attacked image, of the same shape.
        divergence: what is minimised: "kl", `KL(q(.|x+delta) | q(.|x_target))`; "kl-reverse", the other direction;
            "kl-symmetric", their mean; "l2", the squared distance of the means; "wasserstein", the squared
            2-Wasserstein distance.
        levels: of a hierarchical model, those that count; with weights as in `Levelled`.
        level_weights: one per level that counts.

    >>> TargetedLatent(torch.zeros(1, 1, 8, 8), divergence="l2").name
    'latent-l2'
    """

    divergence: Divergence = "kl"

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_divergence(self.divergence)

    @property
    def name(self) -> str:
        """The end of the method's name in the results."""
        return self.named(_named("latent", self.divergence))

    def loss(self, batch: Batch) -> Loss:
        """Give minus the divergence from the target's posterior."""
        target = self.still(batch, self.target_images.to(batch.images))
        distance = DIVERGENCES[self.divergence]
        return lambda images, noise: -self.total([*map(distance, self.seen(batch, images, noise), target(noise))])


@dataclass(frozen=True)
class LatentDivergence(Levelled):
    """Move the posterior away from the clean image's own (Kuzina et al. 2022). Encoder only.

    The gradient at the clean image is exactly zero, since no divergence is smaller there: the search must start
    elsewhere.

    Args:
        divergence: what is maximised, from the attacked posterior to the clean one, as in `TargetedLatent`.
        levels: of a hierarchical model, those that count; with weights as in `Levelled`.
        level_weights: one per level that counts.

    >>> LatentDivergence().name, LatentDivergence("l2").name
    ('divergence', 'divergence-l2')
    """

    departs: ClassVar[bool] = True
    divergence: Divergence = "kl"

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_divergence(self.divergence)

    @property
    def name(self) -> str:
        """The end of the method's name in the results."""
        return self.named(_named("divergence", self.divergence))

    def loss(self, batch: Batch) -> Loss:
        """Give the divergence from the clean posterior."""
        clean, distance = self.still(batch, batch.images), DIVERGENCES[self.divergence]
        return lambda images, noise: self.total([*map(distance, self.seen(batch, images, noise), clean(noise))])


@dataclass(frozen=True, eq=False)
class LatentNorm(Levelled):
    """Bring the posterior mean to zero, or to that of a target image: minimise `|mu(x+delta) - t|` in L2.

    The encoder attack of PhotoGuard (Salman et al. 2023). Where the mean already is the target, the gradient is zero.

    Args:
        target_images: one target per attacked image, of the same shape; without, `t` is zero.
        levels: of a hierarchical model, those whose distances are summed; with weights as in `Levelled`.
        level_weights: one per level that counts.

    >>> LatentNorm().name, LatentNorm(torch.zeros(1, 1, 8, 8)).name
    ('norm', 'norm-target')
    """

    target_images: Float[Tensor, "batch ..."] | None = None

    @property
    def name(self) -> str:
        """The end of the method's name in the results."""
        return self.named("norm" if self.target_images is None else "norm-target")

    def check(self, vae: Any, images: Tensor) -> None:
        """Refuse levels that the model does not have, and targets that it was not made for or not one per image."""
        super().check(vae, images)
        if self.target_images is not None:
            check_targets(vae, images, self.target_images)

    def part(self, chunk: slice) -> "LatentNorm":
        """Give the objective with the targets of a chunk of the images."""
        return self if self.target_images is None else replace(self, target_images=self.target_images[chunk])

    def describe(self, index: int) -> dict[str, Any]:
        """Give the objective's name and, where there is a target, its SHA-256."""
        facts = super().describe(index)
        if self.target_images is None:
            return facts
        return {**facts, "target_sha256": target_sha256(self.target_images, index)}

    def loss(self, batch: Batch) -> Loss:
        """Give minus the distance of the mean from its target, in latent units."""
        goal = None if self.target_images is None else self.still(batch, self.target_images.to(batch.images))

        def nearness(images: Tensor, noise: Tensor) -> Tensor:
            gaps = [one.mean for one in self.seen(batch, images, noise)]
            if goal is not None:
                gaps = [mean - other.mean for mean, other in zip(gaps, goal(noise), strict=True)]
            # Torch's norm has the gradient zero at zero; the root of a sum of squares would give NaN.
            return -self.total([torch.linalg.vector_norm(gap, dim=1) for gap in gaps])

        return nearness


def _named(what: str, divergence: Divergence) -> str:
    return what if divergence == "kl" else f"{what}-{divergence}"


def _check_divergence(divergence: str) -> None:
    known = get_args(Divergence)
    require(divergence in known, f"`divergence` in {known}", repr(divergence))
