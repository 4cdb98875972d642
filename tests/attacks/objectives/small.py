"""A small VAE with curved maps and a posterior that moves, and one of every objective for it."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from vaerdict.attacks import Objective, TargetedLatent
from vaerdict.attacks.batch import Batch, Meter
from vaerdict.attacks.objectives import (
    Custom,
    Downstream,
    Evidence,
    LatentDivergence,
    LatentNorm,
    Layerwise,
    MaximumDamage,
    PosteriorCollapse,
    ReconstructionTarget,
    WeightedSum,
)
from vaerdict.attacks.question import Question
from vaerdict.vae import Posterior

SHAPE, LATENT, CLASSES = (1, 8, 8), 3, 4


class SmallVAE(nn.Module):
    """Images `[B, 1, 8, 8]` in [0, 1], three latents; not finite where the first pixel is exactly 1."""

    def __init__(self, dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        self.name, self.input_shape, self.input_range, self.latent = "small", SHAPE, (0.0, 1.0), LATENT
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(5)
            self.encoder = nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.Tanh(), nn.Linear(12, 2 * LATENT))
            self.decoder = nn.Sequential(
                nn.Linear(LATENT, 12), nn.Tanh(), nn.Linear(12, 64), nn.Sigmoid(), nn.Unflatten(1, SHAPE)
            )
            self.decoder[0].weight.data *= 4
            self.decoder[2].weight.data *= 4
        self.to(dtype).requires_grad_(False)

    def encode(self, images: Tensor) -> Posterior:
        mean, spread = self.encoder(images).chunk(2, dim=1)
        poison = torch.where(images[:, 0, 0, :1] == 1, torch.inf, 0.0).to(images)
        return Posterior(3 * mean + 0 * poison, 0.3 * torch.sigmoid(spread))

    def decode(self, latents: Tensor) -> Tensor:
        return self.decoder(latents)


def images_of(count: int, seed: int = 1, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 0.1 + 0.8 * torch.rand(count, *SHAPE, generator=generator, dtype=torch.float64).to(dtype)


def labels_of(count: int) -> Tensor:
    return torch.arange(count) % CLASSES


def batch_of(images: Tensor, reconstruction: str = "sampled", ids: tuple[int, ...] | None = None) -> Batch:
    question = Question(r=1.0, reconstruction=reconstruction)
    return Batch.of(Meter(SmallVAE(images.dtype)), images, question, 0, ids or tuple(range(len(images))))


def head(inputs: int, dtype: torch.dtype = torch.float64) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(6)
        return nn.Sequential(nn.Flatten(), nn.Linear(inputs, CLASSES)).to(dtype).eval().requires_grad_(False)


def energy(vae, images: Tensor, noise: Tensor) -> Tensor:
    """A user's own loss: how bright one sampled reconstruction is."""
    return vae.decode(vae.encode(images).sample(noise[:, 0])).flatten(1).sum(1)


CASES: dict[str, Callable[[Tensor, Tensor], Objective]] = {
    "damage": lambda targets, labels: MaximumDamage(),
    "damage-linf": lambda targets, labels: MaximumDamage("linf"),
    "damage-ms-ssim": lambda targets, labels: MaximumDamage("ms-ssim"),
    "target": lambda targets, labels: ReconstructionTarget(targets),
    "latent": lambda targets, labels: TargetedLatent(targets),
    "latent-kl-reverse": lambda targets, labels: TargetedLatent(targets, "kl-reverse"),
    "latent-kl-symmetric": lambda targets, labels: TargetedLatent(targets, "kl-symmetric"),
    "latent-l2": lambda targets, labels: TargetedLatent(targets, "l2"),
    "latent-wasserstein": lambda targets, labels: TargetedLatent(targets, "wasserstein"),
    "divergence": lambda targets, labels: LatentDivergence(),
    "divergence-kl-reverse": lambda targets, labels: LatentDivergence("kl-reverse"),
    "divergence-kl-symmetric": lambda targets, labels: LatentDivergence("kl-symmetric"),
    "divergence-l2": lambda targets, labels: LatentDivergence("l2"),
    "divergence-wasserstein": lambda targets, labels: LatentDivergence("wasserstein"),
    "norm": lambda targets, labels: LatentNorm(),
    "norm-target": lambda targets, labels: LatentNorm(targets),
    "collapse-minus": lambda targets, labels: PosteriorCollapse(variance=0.01),
    "collapse-plus": lambda targets, labels: PosteriorCollapse(variance="own", direction=1),
    "evidence": lambda targets, labels: Evidence(likelihood="bernoulli"),
    "layerwise": lambda targets, labels: Layerwise(),
    "downstream-latent": lambda targets, labels: Downstream(head(LATENT, targets.dtype), labels),
    "downstream-reconstruction": lambda targets, labels: Downstream(head(64, targets.dtype), labels, "reconstruction"),
    "energy": lambda targets, labels: Custom(energy, "energy", draws_needed=1),
    "damage+target": lambda targets, labels: WeightedSum(
        [(1.0, MaximumDamage()), (0.5, ReconstructionTarget(targets))]
    ),
}
"""By the name that the objective must give itself."""

STILL = {
    "damage", "damage-linf", "damage-ms-ssim", "layerwise",
    "divergence", "divergence-kl-reverse", "divergence-kl-symmetric", "divergence-l2", "divergence-wasserstein",
}  # fmt: skip
"""Objectives whose gradient at the clean image is zero, where the mean reconstruction is asked for."""


def unchecked(kind: type, **fields: object) -> Any:
    """Give an object whose fields no type check has seen, as a user without one could make it."""
    made = object.__new__(kind)
    for name, value in fields.items():
        object.__setattr__(made, name, value)
    return made


def noise_of(objective: Objective, batch: Batch) -> Tensor:
    return batch.noise("test", objective.draws(batch.question), LATENT)
