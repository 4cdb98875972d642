"""What the tests of presets share: a small VAE in any range of pixels, and what an attack on it came to."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tests.attacks.objectives.small import SmallVAE, images_of
from vaerdict.attacks.batch import Batch, Meter
from vaerdict.attacks.objectives import Objective
from vaerdict.attacks.presets import Preset
from vaerdict.attacks.question import Question
from vaerdict.results import Row
from vaerdict.vae import Posterior

STEPS = {
    "tabacof-2016": 15,
    "willetts-2021": 15,
    "willetts-2021-hard": 15,
    "camuto-2021": 3,
    "kuzina-2021-unsupervised": 5,
    "kuzina-2022-supervised": 250,
    "kuzina-2022-unsupervised": 15,
    "photoguard": 40,
    "pca-plus": 40,
    "pca-minus": 40,
    "grill": 3,
}
"""Gradients per start, fewer than most papers take; 30 for the others."""
RADIUS = {"camuto-2021": 0.5, "willetts-2021-hard": 0.5}
"""Radii for presets that have none."""


class Ranged(nn.Module):
    """The small VAE with pixels in another range."""

    def __init__(self, low: float, high: float) -> None:
        super().__init__()
        self.inner, self.low, self.width = SmallVAE(), low, high - low
        self.name, self.input_shape, self.latent = "ranged", self.inner.input_shape, self.inner.latent
        self.input_range = (low, high)

    def encode(self, images: Tensor) -> Posterior:
        return self.inner.encode((images - self.low) / self.width)

    def decode(self, latents: Tensor) -> Tensor:
        return self.low + self.width * self.inner.decode(latents)


def case(low: float = 0.0, high: float = 1.0, count: int = 2) -> tuple[Ranged, Tensor, Tensor]:
    """Give a VAE, images and targets in a range of pixels."""
    return Ranged(low, high), low + (high - low) * images_of(count), low + (high - low) * images_of(count, seed=2)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """An attack by a preset: what was attacked, what came of it, and the objective as it was."""

    preset: Preset
    vae: Ranged
    images: Tensor
    targets: Tensor
    rows: list[Row]
    delta: Tensor

    def value(self, objective: Objective, delta: Tensor) -> Tensor:
        """Give a loss at a perturbation, without noise."""
        ids = tuple(range(len(self.images)))
        batch = Batch.of(Meter(self.vae), self.images, Question(r=1.0, reconstruction="mean"), 0, ids)
        with torch.no_grad():
            return objective.loss(batch)(self.images + delta, self.images.new_zeros(len(delta), 0, self.vae.latent))

    def gain(self, objective: Objective) -> Tensor:
        """Give by how much the attack raised a loss."""
        return self.value(objective, self.delta) - self.value(objective, torch.zeros_like(self.delta))


def run(preset: Preset, folder: Path, low: float = 0.0, high: float = 1.0, **rest: Any) -> Outcome:
    """Attack two images by a preset, and read the perturbations from the witnesses."""
    vae, images, targets = case(low, high)
    given = targets if preset.targets == "needed" else None
    radius = None if preset.radius != "given" else RADIUS[preset.name] * (high - low)
    steps = STEPS.get(preset.name, 30)
    settings = {"radius": radius, "targets": given, "steps": steps, "witness_folder": folder / "witnesses", **rest}
    rows = preset.attack(vae, images, r=0.5 * (high - low), **settings)
    found = torch.from_numpy(np.stack([np.load(folder / row.witness)["adversarial"] for row in rows])).double()
    return Outcome(preset=preset, vae=vae, images=images, targets=targets, rows=rows, delta=found - images)
