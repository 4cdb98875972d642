"""Objectives on posteriors; the decoder is never run."""

from dataclasses import dataclass, replace
from typing import Any, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from vaerdict.attacks.batch import Batch
from vaerdict.attacks.objectives.base import Targeted, Uniform, check_targets, target_sha256
from vaerdict.attacks.objectives.divergences import DIVERGENCES, Divergence
from vaerdict.attacks.objectives.protocol import Loss
from vaerdict.options import require
from vaerdict.vae import Posterior


@dataclass(frozen=True, eq=False)
class TargetedLatent(Targeted):
    """Bring the posterior to that of a target image (THEORY 8; Tabacof et al. 2016). Encoder only.

    Args:
        target_images: one target per attacked image, of the same shape.
        divergence: what is minimised: "kl", `KL(q(.|x+delta) | q(.|x_target))`; "kl-reverse", the other direction;
            "kl-symmetric", their mean; "l2", the squared distance of the means; "wasserstein", the squared
            2-Wasserstein distance.

    >>> TargetedLatent(torch.zeros(1, 1, 8, 8), divergence="l2").name
    'latent-l2'
    """

    divergence: Divergence = "kl"

    def __post_init__(self) -> None:
        _check_divergence(self.divergence)

    @property
    def name(self) -> str:
        """The end of the method's name in the results."""
        return _named("latent", self.divergence)

    def loss(self, batch: Batch) -> Loss:
        """Give minus the divergence from the target's posterior, which is encoded once."""
        target = _encoded(batch, self.target_images)
        distance = DIVERGENCES[self.divergence]
        return lambda images, noise: -distance(batch.vae.encode(images), target)


@dataclass(frozen=True)
class LatentDivergence(Uniform):
    """Move the posterior away from the clean image's own (Kuzina et al. 2022). Encoder only.

    The gradient at the clean image is exactly zero, since no divergence is smaller there: the search must start
    elsewhere.

    Args:
        divergence: what is maximised, from the attacked posterior to the clean one, as in `TargetedLatent`.

    >>> LatentDivergence().name, LatentDivergence("l2").name
    ('divergence', 'divergence-l2')
    """

    divergence: Divergence = "kl"

    def __post_init__(self) -> None:
        _check_divergence(self.divergence)

    @property
    def name(self) -> str:
        """The end of the method's name in the results."""
        return _named("divergence", self.divergence)

    def loss(self, batch: Batch) -> Loss:
        """Give the divergence from the clean posterior."""
        distance = DIVERGENCES[self.divergence]
        return lambda images, noise: distance(batch.vae.encode(images), batch.posterior)


@dataclass(frozen=True, eq=False)
class LatentNorm(Uniform):
    """Bring the posterior mean to zero, or to that of a target image: minimise `|mu(x+delta) - t|` in L2.

    The encoder attack of PhotoGuard (Salman et al. 2023). Where the mean already is the target, the gradient is zero.

    Args:
        target_images: one target per attacked image, of the same shape; without, `t` is zero.

    >>> LatentNorm().name, LatentNorm(torch.zeros(1, 1, 8, 8)).name
    ('norm', 'norm-target')
    """

    target_images: Float[Tensor, "batch ..."] | None = None

    @property
    def name(self) -> str:
        """The end of the method's name in the results."""
        return "norm" if self.target_images is None else "norm-target"

    def check(self, vae: Any, images: Tensor) -> None:
        """Refuse targets that the model was not made for, or that are not one per image."""
        if self.target_images is not None:
            check_targets(vae, images, self.target_images)

    def part(self, chunk: slice) -> "LatentNorm":
        """Give the objective with the targets of a chunk of the images."""
        return self if self.target_images is None else replace(self, target_images=self.target_images[chunk])

    def describe(self, index: int) -> dict[str, Any]:
        """Give the objective's name and, where there is a target, its SHA-256."""
        if self.target_images is None:
            return {"objective": self.name}
        return {"objective": self.name, "target_sha256": target_sha256(self.target_images, index)}

    def loss(self, batch: Batch) -> Loss:
        """Give minus the distance of the mean from its target, in latent units."""
        target = None if self.target_images is None else _encoded(batch, self.target_images).mean

        def nearness(images: Tensor, noise: Tensor) -> Tensor:
            mean = batch.vae.encode(images).mean
            # Torch's norm has the gradient zero at zero; the root of a sum of squares would give NaN.
            return -torch.linalg.vector_norm(mean if target is None else mean - target, dim=1)

        return nearness


def _encoded(batch: Batch, images: Tensor) -> Posterior:
    with torch.no_grad():
        return batch.vae.encode(images.to(batch.images))


def _named(what: str, divergence: Divergence) -> str:
    return what if divergence == "kl" else f"{what}-{divergence}"


def _check_divergence(divergence: str) -> None:
    known = get_args(Divergence)
    require(divergence in known, f"`divergence` in {known}", repr(divergence))
