"""One chunk of images under attack, and the reconstruction change `Delta` on it, written down once for all attacks."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from vaerdict.attacks.question import Question
from vaerdict.seeds import normal_noise
from vaerdict.vae import VAE, Posterior

BLOCK_PAIRS, BLOCK_VALUES = 500, 2**16
"""Pairs per generator, fewer where latents are large: the model decides, so that draws are the same in any batch."""
PASS_VALUES = 2**20
"""Pixels decoded at once where no gradient is needed: bounds the memory, and small decoders stay in cache."""


class Meter:
    """A model that counts, in images, how often its maps were evaluated and how often differentiated."""

    def __init__(self, vae: VAE) -> None:
        self.module = vae
        self.name, self.latent = vae.name, vae.latent
        self.input_shape, self.input_range = tuple(vae.input_shape), vae.input_range
        self.cost: Counter[str] = Counter()

    @property
    def forward(self) -> int:
        """Evaluations of encoder and decoder together."""
        return self.cost["encoder_forward"] + self.cost["decoder_forward"]

    @property
    def backward(self) -> int:
        """Those that were differentiated."""
        return self.cost["encoder_backward"] + self.cost["decoder_backward"]

    def _count(self, part: str, inputs: Tensor) -> None:
        if torch.compiler.is_compiling():  # would be counted once, whatever the calls
            return
        self.cost[f"{part}_forward"] += len(inputs)
        self.cost[f"{part}_backward"] += len(inputs) if torch.is_grad_enabled() and inputs.requires_grad else 0

    def encode(self, images: Tensor) -> Posterior:
        """Give the posterior of each image, and count."""
        self._count("encoder", images)
        return self.module.encode(images.clone())  # a first layer may work in place

    def decode(self, latents: Tensor) -> Tensor:
        """Give the mean reconstruction of each latent, and count."""
        self._count("decoder", latents)
        return self.module.decode(latents.clone())


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Images under attack with everything that their searches share; the clean images are encoded once."""

    vae: VAE
    images: Float[Tensor, "batch ..."]
    posterior: Posterior
    anchor: Float[Tensor, "batch ..."]
    """The clean mean reconstructions, `g(mu(x))`."""
    question: Question
    seed: int
    sample_ids: tuple[int, ...]

    @classmethod
    def of(cls, vae: VAE, images: Tensor, question: Question, seed: int, sample_ids: tuple[int, ...]) -> "Batch":
        """Encode and reconstruct the clean images."""
        with torch.no_grad():
            posterior = vae.encode(images)
            anchor = vae.decode(posterior.mean)
        return cls(
            vae=vae,
            images=images,
            posterior=posterior,
            anchor=anchor,
            question=question,
            seed=seed,
            sample_ids=sample_ids,
        )

    def select(self, keep: Bool[Tensor, " batch"]) -> "Batch":
        """Give the batch of the samples marked in `keep`."""
        return replace(
            self,
            images=self.images[keep],
            posterior=replace(self.posterior, mean=self.posterior.mean[keep], std=self.posterior.std[keep]),
            anchor=self.anchor[keep],
            sample_ids=tuple(i for i, kept in zip(self.sample_ids, keep.tolist(), strict=True) if kept),
        )

    @property
    def cost(self) -> Counter[str]:
        """The model's evaluations so far; of a model that does not count, none."""
        return self.vae.cost if isinstance(self.vae, Meter) else Counter()

    def noise(self, purpose: str, *shape: int) -> Float[Tensor, "batch ..."]:
        """Draw standard normal numbers for one purpose, on the images' device and in their type."""
        return normal_noise(self.seed, self.sample_ids, f"attack/{purpose}", shape).to(self.images)

    def squared_change(
        self, attacked: Posterior, noise: Float[Tensor, "batch pairs draws latent"]
    ) -> Float[Tensor, "batch pairs"]:
        """Give `|Delta|^2` (THEORY 1) for each draw of the noise, in squared pixel units.

        `noise` holds the draws of `z'` and `z` ("sampled"), of `z'` ("anchored"), or none ("mean", one pair).
        """
        if self.question.reconstruction == "mean":
            after = self._decode(attacked.mean.unsqueeze(1))
        else:
            after = self._decode(_latents(attacked, noise[:, :, 0]))
        if self.question.reconstruction == "sampled":
            before = self._decode(_latents(self.posterior, noise[:, :, 1]))
        else:
            before = self.anchor.flatten(1).unsqueeze(1)
        return (after - before).square().sum(-1)

    def _decode(self, latents: Tensor) -> Tensor:
        pairs = latents.shape[1]
        return self.vae.decode(latents.flatten(0, 1)).reshape(len(latents), pairs, -1)

    def changes(self, adversarial: Tensor, purpose: str, samples: int) -> Iterator[Float[Tensor, "batch pairs"]]:
        """Give `samples` values of `|Delta|` per image, part by part, in memory that does not grow with `samples`."""
        with torch.no_grad():
            attacked = self.vae.encode(adversarial)
        if not self.question.draws:
            samples = 1
        width = max(1, PASS_VALUES // max(1, self.images.numel()))
        block_pairs = max(1, min(BLOCK_PAIRS, BLOCK_VALUES // self.vae.latent))
        for block, start in enumerate(range(0, samples, block_pairs)):
            pairs = min(block_pairs, samples - start)
            noise = self.noise(f"{purpose}/{block}", pairs, self.question.draws, self.vae.latent)
            for part in noise.split(width, dim=1):
                # Inside the loop, so that the caller's own gradients are never off between two parts.
                with torch.no_grad():
                    distances = self.squared_change(attacked, part).sqrt()
                yield distances

    def quantile(self, adversarial: Tensor, purpose: str, samples: int, level: float) -> Float[Tensor, " batch"]:
        """Give the smallest distance that more than `level` of the drawn `|Delta|` keep: above `r` means damage."""
        distances = torch.cat(list(self.changes(adversarial, purpose, samples)), dim=1)
        return distances.kthvalue(int(level * distances.shape[1]) + 1, dim=1).values


def _latents(posterior: Posterior, noise: Tensor) -> Tensor:
    return posterior.mean.unsqueeze(1) + posterior.std.unsqueeze(1) * posterior.padded(noise)
