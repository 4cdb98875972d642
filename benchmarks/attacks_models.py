"""The VAEs that `attacks.py` attacks: trained once and kept, with their images and their question.

Run by itself, it only trains: `python benchmarks/attacks_models.py --models FOLDER`.
"""

import argparse
from dataclasses import dataclass, field, replace
from pathlib import Path

import pandas as pd
import torch
from common import SHARED_DATA
from torch import Tensor

from vaerdict.data import load_images
from vaerdict.models import GaussianVAE, kl_to_prior, median_distance, train
from vaerdict.options import ModelOptions, TrainingOptions

SCALE_IMAGES = 1000
"""How many test images the typical distance between reconstructions is taken from, as everywhere in the package."""
MNIST, CIFAR = "mnist.npz", "cifar10_subset.npz"


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How one model is made, which share of its typical distance counts as damage, and how many images are attacked."""

    archive: str
    model: ModelOptions
    training: TrainingOptions
    images: int
    share: float = 0.5
    most_attacked: int = 64


def _mnist(model: ModelOptions, epochs: int = 8) -> Recipe:
    return Recipe(archive=MNIST, model=model, training=TrainingOptions(epochs=epochs, learning_rate=2e-3), images=30000)


RECIPES = {
    "plain": _mnist(ModelOptions(family="plain", latent=10, hidden=(256, 256), spread="log_variance")),
    "beta4": _mnist(ModelOptions(family="plain", latent=10, hidden=(256, 256), spread="log_variance", beta=4.0)),
    # The last sigmoid's slope is at most 1/4, and the package counts it in `a`: 10 for the layers on either side.
    "lipschitz": _mnist(ModelOptions(latent=10, hidden=(256, 256), a=2.5, b=10.0, std=0.1)),
    "cifar": Recipe(
        archive=CIFAR,
        model=ModelOptions(family="conv", latent=64, spread="log_variance", likelihood="gaussian", observation_std=0.1),
        training=TrainingOptions(epochs=20, batch_size=64, learning_rate=2e-3),
        images=6000,
        most_attacked=32,
    ),
}


@dataclass(frozen=True, kw_only=True)
class Case:
    """A model with the images that are attacked, and its `r`."""

    name: str
    vae: GaussianVAE
    images: Tensor
    r: float
    r_relative: float
    facts: dict[str, float] = field(default_factory=dict)


def missing(name: str, data: Path) -> str:
    """Give the reason why a model cannot be made here; empty where it can."""
    archive = data / RECIPES[name].archive
    return "" if archive.is_file() else f"there is no {archive.name} in {data}"


def make_model(name: str, models: Path, data: Path, quick: bool) -> GaussianVAE:
    """Train a model, unless it is there already; those of a quick run are others."""
    recipe, source = RECIPES[name], _source(name, data)
    training = replace(recipe.training, epochs=6) if quick else recipe.training
    images = load_images(source, split="train", limit=6000 if quick else recipe.images)
    held_out = load_images(source, limit=1000)
    return train(_folder(name, models, quick), images, held_out, name=name, model=recipe.model, training=training)


def make_case(name: str, models: Path, data: Path, count: int, quick: bool) -> Case:
    """Give a model with the first `count` test images; `r` is a share of the typical distance."""
    vae = make_model(name, models, data, quick)
    pixels = load_images(_source(name, data), limit=SCALE_IMAGES).pixels
    typical, recipe = median_distance(vae, pixels), RECIPES[name]
    history = pd.read_json(_folder(name, models, quick) / "history.json")
    facts = {
        "held_out_elbo_nats": float(history["held_out_elbo"].iloc[-1]),
        "training_s": float(history["time_s"].sum()),
        "typical": typical,
        **quality(vae, pixels),
    }
    return Case(
        name=name,
        vae=vae,
        images=pixels[: min(count, recipe.most_attacked)],
        r=recipe.share * typical,
        r_relative=recipe.share,
        facts=facts,
    )


@torch.no_grad()
def quality(vae: GaussianVAE, pixels: Tensor) -> dict[str, float]:
    """Say how good the reconstructions are: squared error per pixel, share of variance explained, latents in use."""
    posterior = vae.encode(pixels)
    error = (vae.decode(posterior.mean) - pixels).square().mean()
    variance = (pixels - pixels.mean(0)).square().mean()
    in_use = posterior.mean.var(0) > 0.01
    return {
        "squared_error_per_pixel": float(error),
        "explained_variance": float(1 - error / variance),
        "latents_in_use": int(in_use.sum()),
        "kl_nats": float(kl_to_prior(posterior.mean, posterior.std).mean()),
    }


def _folder(name: str, models: Path, quick: bool) -> Path:
    return models / ("quick" if quick else "") / name


def _source(name: str, data: Path) -> str:
    return f"npz:{data / RECIPES[name].archive}[{{split}}_images,{{split}}_labels]"


def main() -> None:
    """Train all that are not there and print how good they are."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=Path, required=True, help="folder of the trained models")
    parser.add_argument("--data", type=Path, default=SHARED_DATA, help=f"folder with {MNIST} and {CIFAR}")
    parser.add_argument("--only", nargs="*", choices=tuple(RECIPES), default=tuple(RECIPES))
    options = parser.parse_args()
    torch.set_num_threads(1)
    for name in options.only:
        reason = missing(name, options.data)
        print(name, f"skipped: {reason}" if reason else make_case(name, options.models, options.data, 1, False).facts)


if __name__ == "__main__":
    main()
