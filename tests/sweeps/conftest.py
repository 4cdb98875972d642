"""Two small models on disk, a grid over them that takes a second, and attacks that fail on one image."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from vaerdict.data import load_images
from vaerdict.models import build_vae
from vaerdict.models.checkpoint import save_vae
from vaerdict.options import ModelOptions
from vaerdict.sweeps import Grid, make_grid, units

SAMPLES = load_images("digits", limit=5).sample_ids
BROKEN = SAMPLES[2]
"""The sample on which attacks fail where a test asks for `broken`."""


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("models")
    with torch.random.fork_rng():
        for seed, name in enumerate(("one", "two")):
            torch.manual_seed(seed)
            options = ModelOptions(family="plain", hidden=(16,), latent=3)
            vae = build_vae(options, name=name, input_shape=(1, 8, 8), constrained=False).eval()
            save_vae(folder / name, vae, options, {})
    return [str(folder / "one"), str(folder / "two")]


@pytest.fixture
def asked(models: list[str]) -> dict[str, Any]:
    """What a grid's file holds: 2 models x 3 chunks x 2 methods."""
    return {
        "models": models,
        "data": {"data": "digits", "limit": 5},
        "questions": {"r": 1.0},
        "certify": {"methods": ["barrett", "isotropic"], "local": False},
        "attack": {"margin": False, "radii": 0.5, "gradients": 2, "reconstruction": "mean", "samples": 1},
        "chunk": 2,
        "batch": 2,
    }


@pytest.fixture
def grid(asked: dict[str, Any]) -> Grid:
    return make_grid(asked, "test")


@pytest.fixture
def attacks(asked: dict[str, Any]) -> Grid:
    """One model, attacks only: three units."""
    del asked["certify"]
    return make_grid({**asked, "models": asked["models"][0]}, "test")


@pytest.fixture
def path(asked: dict[str, Any], tmp_path: Path) -> Path:
    (tmp_path / "grid.yaml").write_text(yaml.safe_dump(asked))
    return tmp_path / "grid.yaml"


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Attacks fail on the chunk of one sample, until the patch is undone."""
    real = units.attack

    def attack(vae: Any, images: Any, **ask: Any) -> Any:
        if BROKEN in ask["sample_ids"]:
            raise RuntimeError("the third image\n  is too much")
        return real(vae, images, **ask)

    monkeypatch.setattr(units, "attack", attack)
    return monkeypatch
