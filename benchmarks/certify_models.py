"""The VAEs that `certify.py` examines: trained once and kept, with their question, and a view without a pixel range."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pandas as pd
from torch import Tensor, nn

from vaerdict.data import load_images
from vaerdict.models import GaussianVAE, load_vae, median_distance, train
from vaerdict.options import ModelOptions, NativeSpread, TrainingOptions
from vaerdict.vae import Posterior

BUDGETS = (5, 7, 10)
"""Of each network's layers together: the encoder's, and the decoder's before its last sigmoid."""
STD = 0.1
LATENT = 10
LIPSCHITZ = tuple(f"lipschitz{budget}" for budget in BUDGETS)
PLAIN = ("plain", "plain_free")
BOUNDED = "lipschitz5_bounded"
"""Like `lipschitz5`, with one standard deviation per image."""
NAMES = (*LIPSCHITZ, BOUNDED, *PLAIN)
SCALE_IMAGES = 1000
"""How many test images the typical distance between reconstructions is taken from, as everywhere in the package."""


@dataclass(frozen=True)
class Place:
    """Where images and models lie."""

    archive: Path
    models: Path
    quick: bool

    @property
    def data(self) -> str:
        """Give the images' source, as everywhere in the package."""
        return f"npz:{self.archive}[{{split}}_images,{{split}}_labels]"

    @property
    def images(self) -> Tensor:
        """Give the test images."""
        return _load(self.data)

    def folder(self, name: str) -> Path:
        """Give a model's folder; those of a quick run are others."""
        return self.models / ("quick" if self.quick else "") / name

    def load(self, name: str) -> GaussianVAE:
        """Load a trained model."""
        return load_vae(self.folder(name))

    def typical(self, name: str) -> float:
        """Give the median distance between the reconstructions of different test images."""
        return median_distance(self.load(name), self.images[:SCALE_IMAGES])

    def train(self, name: str) -> dict[str, float]:
        """Train a model, unless it is there with just these options; give the facts of its training."""
        training_images = load_images(self.data, split="train", limit=1000 if self.quick else 30000)
        held_out = load_images(self.data, split="test")
        training = TrainingOptions(epochs=1 if self.quick else 6, batch_size=128, learning_rate=1e-3)
        folder = self.folder(name)
        model = make_options(name, (64, 64) if self.quick else (256, 256))
        train(folder, training_images, held_out, name=name, model=model, training=training)
        history = pd.read_json(folder / "history.json")
        elbo = float(history["held_out_elbo"].iloc[-1])
        return {"training_s": float(history["time_s"].sum()), "held_out_elbo_nats": elbo, "typical": self.typical(name)}


@cache
def _load(data: str) -> Tensor:
    """Load the test images once per process: kept in a `Place`, they would be sent to the processes with each task."""
    return load_images(data, split="test").pixels


def make_options(name: str, hidden: tuple[int, ...]) -> ModelOptions:
    """Give the architecture that a name stands for."""
    if name in PLAIN:
        free: NativeSpread = "constant" if name == "plain" else "log_variance"
        return ModelOptions(family="plain", latent=LATENT, hidden=hidden, spread=free, std=STD)
    budget = budget_of(name)
    spread: NativeSpread = "bounded" if name == BOUNDED else "constant"
    # The last sigmoid's slope is at most 1/4, and the package counts it in `a`.
    return ModelOptions(latent=LATENT, hidden=hidden, a=budget / 4, b=budget, spread=spread, std=STD)


def budget_of(name: str) -> float:
    """Give the budget of a Lipschitz VAE's layers."""
    return float(name.removeprefix("lipschitz").split("_")[0])


class Unbounded(nn.Module):
    """A VAE whose pixels may leave their range by so much that no perturbation of at most `widest` is cut off.

    Certificates speak of every perturbation, so this is the attack that they are to be compared with.
    """

    def __init__(self, vae: GaussianVAE) -> None:
        super().__init__()
        low, high = vae.input_range
        self.vae, self.name, self.latent, self.input_shape = vae, vae.name, vae.latent, vae.input_shape
        self.widest = (high - low) * math.sqrt(math.prod(vae.input_shape))
        self.input_range = (low - self.widest, high + self.widest)

    def encode(self, images: Tensor) -> Posterior:
        """Give the posterior of each image."""
        return self.vae.encode(images)

    def decode(self, latents: Tensor) -> Tensor:
        """Give the mean reconstruction of each latent."""
        return self.vae.decode(latents)


def slices(stop: int, step: int) -> Sequence[slice]:
    """Cut so many images into parts of at most `step`."""
    return [slice(start, min(start + step, stop)) for start in range(0, stop, step)]
