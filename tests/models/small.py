"""Small models and data, so that the tests of training take a second."""

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from vaerdict.data import Images, load_images
from vaerdict.models import GaussianVAE, build_vae
from vaerdict.options import ModelOptions, TrainingOptions

SHAPE = (1, 8, 8)
FAMILIES = ("lipschitz", "plain", "lipschitz_conv", "conv")
SPREADS = ("constant", "bounded", "log_variance")
LIKELIHOODS = ("bernoulli", "gaussian")
TRAINING = TrainingOptions(epochs=3, batch_size=64, learning_rate=5e-3, seed=3)

every_model = pytest.mark.parametrize(
    "options",
    [
        pytest.param(
            ModelOptions(family=family, latent=3, hidden=(8, 6), spread=spread, likelihood=likelihood),
            id=f"{family}-{spread}-{likelihood}",
        )
        for family, spread, likelihood in itertools.product(FAMILIES, SPREADS, LIKELIHOODS)
    ],
)


def small_model(**changes: Any) -> ModelOptions:
    return ModelOptions(**{"latent": 3, "hidden": (8, 6), "a": 4.0, "b": 3.0, **changes})


def small_vae(**changes: Any) -> GaussianVAE:
    return build_vae(small_model(**changes), name="small", input_shape=SHAPE)


def training_digits(limit: int = 200, **selection: Any) -> Images:
    return load_images("digits", split="train", limit=limit, **selection)


def held_out_digits(limit: int = 60) -> Images:
    return load_images("digits", split="test", limit=limit)


def random_images(count: int, shape: tuple[int, ...] = SHAPE, seed: int = 0) -> Tensor:
    return torch.rand(count, *shape, generator=torch.Generator().manual_seed(seed))
