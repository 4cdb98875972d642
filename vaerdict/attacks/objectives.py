"""What an attack maximises, per sample: small frozen objects that turn a batch into a differentiable loss."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol, get_args, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from vaerdict.attacks.batch import Batch
from vaerdict.attacks.question import Question
from vaerdict.options import require
from vaerdict.results import array_sha256
from vaerdict.vae import Posterior, check_images

Loss = Callable[[Tensor, Tensor], Tensor]
"""From images `[B, ...]` and noise `[B, draws, latent]` to losses `[B]`, each of its own image only."""
Divergence = Literal["kl", "l2"]


@runtime_checkable
class Objective(Protocol):
    """What the optimisers need of an objective."""

    @property
    def name(self) -> str:
        """The end of the method's name in the results."""
        ...

    def check(self, vae: Any, images: Tensor) -> None:
        """Refuse an objective that does not fit the images."""
        ...

    def part(self, chunk: slice) -> "Objective":
        """Give the objective of a chunk of the images."""
        ...

    def describe(self, index: int) -> dict[str, Any]:
        """Give what a checker needs to know of the objective of one image."""
        ...

    def draws(self, question: Question) -> int:
        """Give how many latent draws one value of the loss needs."""
        ...

    def loss(self, batch: Batch) -> Loss:
        """Give the loss to maximise."""
        ...


@dataclass(frozen=True)
class MaximumDamage:
    """Maximise the squared distance between reconstructions, `|Delta|^2` (THEORY 8; Camuto et al., AISTATS 2021).

    The square, because the distance itself has no gradient at zero. For `reconstruction="mean"` the gradient at the
    clean image is exactly zero, so the search must start elsewhere.

    >>> MaximumDamage().name
    'damage'
    """

    @property
    def name(self) -> str:
        """The end of the method's name in the results."""
        return "damage"

    def check(self, vae: Any, images: Tensor) -> None:
        """Accept any images."""

    def part(self, chunk: slice) -> "MaximumDamage":
        """Give the same objective: it holds nothing per image."""
        return self

    def describe(self, index: int) -> dict[str, Any]:
        """Give the objective's name."""
        return {"objective": self.name}

    def draws(self, question: Question) -> int:
        """Give as many draws as the reconstruction change needs."""
        return question.draws

    def loss(self, batch: Batch) -> Loss:
        """Give `|Delta|^2`, in squared pixel units."""

        def damage(images: Tensor, noise: Tensor) -> Tensor:
            return batch.squared_change(batch.vae.encode(images), noise.unsqueeze(1)).squeeze(1)

        return damage


@dataclass(frozen=True, eq=False)
class TargetedLatent:
    """Bring the posterior to that of a target image (THEORY 8; Tabacof et al. 2016). Encoder only.

    Args:
        target_images: one target per attacked image, of the same shape.
        divergence: "kl" minimises `KL(q(.|x+delta) | q(.|x_target))` in nats, "l2" the squared distance of the means.

    >>> TargetedLatent(torch.zeros(1, 1, 8, 8), divergence="l2").name
    'latent-l2'
    """

    target_images: Float[Tensor, "batch ..."]
    divergence: Divergence = "kl"

    def __post_init__(self) -> None:
        known = get_args(Divergence)
        require(self.divergence in known, f"`divergence` in {known}", repr(self.divergence))

    @property
    def name(self) -> str:
        """The end of the method's name in the results."""
        return "latent" if self.divergence == "kl" else f"latent-{self.divergence}"

    def check(self, vae: Any, images: Tensor) -> None:
        """Refuse targets that the model was not made for, or that are not one per image."""
        shape = tuple(self.target_images.shape)
        require(shape == tuple(images.shape), f"`target_images` of shape {tuple(images.shape)}", shape)
        check_images(vae, self.target_images.detach())

    def part(self, chunk: slice) -> "TargetedLatent":
        """Give the objective with the targets of a chunk of the images."""
        return TargetedLatent(self.target_images[chunk], self.divergence)

    def describe(self, index: int) -> dict[str, Any]:
        """Give the objective's name and the target's SHA-256."""
        target = self.target_images[index].detach().cpu().numpy()
        return {"objective": self.name, "target_sha256": array_sha256(target)}

    def draws(self, question: Question) -> int:
        """Give zero: posteriors are compared, not draws from them."""
        return 0

    def loss(self, batch: Batch) -> Loss:
        """Give minus the divergence from the target's posterior, which is encoded once."""
        with torch.no_grad():
            target = batch.vae.encode(self.target_images.to(batch.images))
        distance = divergence_kl if self.divergence == "kl" else _divergence_l2
        return lambda images, noise: -distance(batch.vae.encode(images), target)


def divergence_kl(one: Posterior, other: Posterior) -> Float[Tensor, " batch"]:
    """Give `KL(one | other)` of diagonal Gaussians, in nats.

    >>> one = Posterior(torch.zeros(1, 2), torch.ones(1, 2))
    >>> divergence_kl(one, Posterior(torch.ones(1, 2), torch.ones(1, 2)))
    tensor([1.])
    """
    variance = (one.std / other.std).square()
    shift = ((one.mean - other.mean) / other.std).square()
    return (variance - 1 - variance.log() + shift).sum(1) / 2


def _divergence_l2(one: Posterior, other: Posterior) -> Tensor:
    return (one.mean - other.mean).square().sum(1)
