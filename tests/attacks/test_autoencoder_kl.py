"""PhotoGuard and the posterior collapse attacks on Stable Diffusion's kind of VAE, tiny and freshly initialised."""

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn

from vaerdict.attacks import PGD, LatentNorm, Objective, PosteriorCollapse, attack
from vaerdict.attacks.batch import Batch, Meter
from vaerdict.attacks.question import Question
from vaerdict.models import GaussianVAE, wrap
from vaerdict.models.adapters import adapt_diffusers
from vaerdict.results import Row

SHAPE, RADIUS = (3, 16, 16), 0.06
OBJECTIVES = {
    "photoguard": LatentNorm(),
    "photoguard to a target": LatentNorm(torch.ones(2, *SHAPE)),
    "pca-": PosteriorCollapse(),
    "pca+": PosteriorCollapse(variance=1.0, direction=1),
}


@pytest.fixture(scope="module")
def vae() -> GaussianVAE:
    torch.manual_seed(0)
    kl = AutoencoderKL(
        block_out_channels=(4, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=2,
        sample_size=16,
    )
    return adapt_diffusers(kl, SHAPE)


def images_of(vae: GaussianVAE) -> Tensor:
    """Give one image inside the range and one with every pixel at its ends."""
    low, high = vae.input_range
    pixels = torch.rand(2, *SHAPE, generator=torch.Generator().manual_seed(1))
    pixels[1] = pixels[1].round()
    return low + (high - low) * pixels


def attacked(vae: GaussianVAE, objective: Objective, radius: float, folder: Path) -> tuple[list[Row], Tensor]:
    """Give the rows and the images in their witnesses."""
    rows = attack(
        vae, images_of(vae), radius=radius, r=0.1, norm="inf", objective=objective, reconstruction="mean",
        options=PGD(steps=10, restarts=1), witness_folder=folder / "witnesses",
    )  # fmt: skip
    return rows, torch.stack([torch.from_numpy(np.load(folder / str(row.witness))["adversarial"]) for row in rows])


def values(vae: GaussianVAE, objective: Objective, images: Tensor) -> Tensor:
    """Give the objective, which the attack maximises."""
    question = Question(r=0.1, norm="inf", reconstruction="mean")
    batch = Batch.of(Meter(vae), images_of(vae), question, 0, (0, 1))
    with torch.no_grad():
        return objective.loss(batch)(images, torch.zeros(2, 0, vae.latent))


@pytest.mark.parametrize("kind", OBJECTIVES)
def test_the_objective_rises_beyond_noise_within_ball_and_box(vae: GaussianVAE, kind: str, tmp_path: Path) -> None:
    objective, images = OBJECTIVES[kind], images_of(vae)
    rows, adversarial = attacked(vae, objective, RADIUS, tmp_path)
    assert [row.status for row in rows] == ["ok", "ok"]
    assert float(adversarial.abs().max()) <= 1
    moved = (adversarial.double() - images.double()).flatten(1).abs().amax(1)
    assert bool((moved <= RADIUS * (1 + 1e-6)).all())
    noise = RADIUS * (2 * torch.rand(images.shape, generator=torch.Generator().manual_seed(2)) - 1).sign()
    clean, random, found = (
        values(vae, objective, at) for at in (images, (images + noise).clamp(-1, 1), adversarial.float())
    )
    assert bool((found > clean).all())
    assert bool((found - clean > 3 * (random - clean).abs()).all())


def test_collapse_brings_the_means_to_zero_and_its_opposite_drives_them_away(vae: GaussianVAE, tmp_path: Path) -> None:
    norms = {}
    for kind in ("pca-", "pca+"):
        _, adversarial = attacked(vae, OBJECTIVES[kind], RADIUS, tmp_path / kind)
        with torch.no_grad():
            norms[kind] = vae.encode(adversarial).mean.norm(dim=1)
    with torch.no_grad():
        clean = vae.encode(images_of(vae)).mean.norm(dim=1)
    assert bool((norms["pca-"] < clean).all())
    assert bool((norms["pca+"] > clean).all())


class FromUnit(nn.Module):
    """Pixels of [0, 1] in [-1, 1]."""

    def forward(self, images: Tensor) -> Tensor:
        return 2 * images - 1


def test_a_radius_is_in_units_of_the_models_range(vae: GaussianVAE, tmp_path: Path) -> None:
    """The published 0.06 of pixels in [-1, 1] is 0.03 of pixels in [0, 1]."""
    unit = wrap(
        nn.Sequential(FromUnit(), vae.encoder), vae.decoder, input_shape=SHAPE, latent_shape=vae.latent_shape,
        spread="log_variance", input_range=(0.0, 1.0),
    )  # fmt: skip
    objective = OBJECTIVES["photoguard"]
    _, wide = attacked(vae, objective, RADIUS, tmp_path / "wide")
    _, narrow = attacked(unit, objective, RADIUS / 2, tmp_path / "narrow")
    start = values(vae, objective, images_of(vae))
    gains = [values(vae, objective, at) - start for at in (wide, 2 * narrow - 1)]
    torch.testing.assert_close(gains[1], gains[0], rtol=0.02, atol=0)
    assert 0.0299 < float((narrow - images_of(unit)).abs().max()) <= 0.03 * (1 + 1e-6)
