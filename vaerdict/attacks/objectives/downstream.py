"""Against what is built upon a VAE: a head's label for the latent or for the reconstruction."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, get_args

import torch
from jaxtyping import Int
from torch import Tensor, nn
from torch.nn import functional

from vaerdict.attacks.batch import Batch
from vaerdict.attacks.levels import latents_of
from vaerdict.attacks.objectives import reconstruct
from vaerdict.attacks.objectives.custom import name_of
from vaerdict.attacks.objectives.independent import check_independent
from vaerdict.attacks.objectives.protocol import Loss
from vaerdict.attacks.question import Question
from vaerdict.options import require
from vaerdict.vae import borrowed, fingerprint

Place = Literal["latent", "reconstruction"]


@dataclass(frozen=True, eq=False)
class Downstream:
    """Maximise a head's cross-entropy at the true labels (THEORY 8).

    Latent and reconstruction are the question's: of a draw, or of the posterior mean. Whatever the head says, the judge
    decides by the distance of the reconstructions.

    Args:
        head: from latents `[B, latent]` or reconstructions `[B, *input_shape]` to logits `[B, classes]`; a torch module
            in evaluation mode, on the images' device.
        labels: one per attacked image.
        on: what the head sees.

    >>> Downstream(nn.Linear(2, 3).eval(), torch.zeros(1, dtype=torch.int64)).name
    'downstream-latent'
    """

    head: Callable[[Tensor], Tensor]
    labels: Int[Tensor, " batch"]
    on: Place = "latent"

    def __post_init__(self) -> None:
        require(self.on in get_args(Place), f"`on` in {get_args(Place)}", repr(self.on))

    @property
    def name(self) -> str:
        """The end of the method's name in the results."""
        return f"downstream-{self.on}"

    def check(self, vae: Any, images: Tensor) -> None:
        """Refuse labels that are not one per image or that the head does not know, and a head that mixes images."""
        shape = tuple(self.labels.shape)
        require(shape == (len(images),), f"`labels` of shape ({len(images)},)", shape)
        if isinstance(self.head, nn.Module):
            training = any(module.training for module in self.head.modules())
            require(not training, "a `head` in evaluation mode", "training mode")
        with borrowed(vae), torch.no_grad():
            logits = self._logits(vae, vae.encode(images[:1].clone()).mean)
        require(logits.dim() == 2 and len(logits) == 1, "logits of shape (1, classes) from `head`", tuple(logits.shape))
        least, most = (int(value) for value in self.labels.aminmax())
        known = logits.shape[1]
        require(least >= 0 and most < known, f"`labels` from 0 to {known - 1}", f"{least} to {most}")

        def loss(lent: Any, images: Tensor, noise: Tensor) -> Tensor:
            logits = self._logits(lent, lent.encode(images).mean)
            return _cross_entropy(logits, self.labels[:1].to(images.device).expand(len(images)))

        check_independent("a `head` with a cross-entropy", loss, vae, images[:1], 0)

    def part(self, chunk: slice) -> "Downstream":
        """Give the objective with the labels of a chunk of the images."""
        return replace(self, labels=self.labels[chunk])

    def describe(self, index: int) -> dict[str, Any]:
        """Give the objective's name, the label and which head it was."""
        return {"objective": self.name, "label": int(self.labels[index]), "head": self._head}

    @cached_property
    def _head(self) -> str:
        return fingerprint(self.head) if isinstance(self.head, nn.Module) else name_of(self.head)

    def draws(self, question: Question) -> int:
        """Give one draw where the question's reconstruction is random."""
        return min(1, question.draws)

    def loss(self, batch: Batch) -> Loss:
        """Give the cross-entropy, in nats."""
        labels = self.labels.to(batch.images.device)

        def confusion(images: Tensor, noise: Tensor) -> Tensor:
            latents = reconstruct.latent_of(batch, batch.vae.encode(images), noise)
            return _cross_entropy(self._logits(batch.vae, latents), labels)

        return confusion

    def _logits(self, vae: Any, latents: Tensor) -> Tensor:
        return self.head(latents_of(vae, latents) if self.on == "latent" else vae.decode(latents))


def _cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    return functional.cross_entropy(logits, labels.long(), reduction="none")
