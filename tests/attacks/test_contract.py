"""Models that break the contract are told so in one sentence, before any search."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.attacks import searches
from tests.attacks.hierarchies import CurvedLevels, pictures
from tests.attacks.objectives.small import unchecked
from vaerdict.attacks import PGD, attack, attack_margin
from vaerdict.attacks.contract import check_contract, check_model
from vaerdict.attacks.levels import flat
from vaerdict.models import build_vae
from vaerdict.models.defences import HamiltonianDefence, Purified
from vaerdict.options import ModelOptions
from vaerdict.vae import Posterior

ASK = {"radius": 0.4, "r": 0.5, "options": PGD(steps=2, restarts=1)}


class Broken(searches.TinyVAE):
    """Keeps the contract but for one map, which a function spoils."""

    def __init__(self, part: str, spoil: Callable[[Any], Any]) -> None:
        super().__init__()
        self.part, self.spoil = part, spoil

    def encode(self, images: Tensor) -> Any:
        posterior = super().encode(images)
        return self.spoil(posterior) if self.part == "encode" else posterior

    def decode(self, latents: Tensor) -> Any:
        pixels = super().decode(latents)
        return self.spoil(pixels) if self.part == "decode" else pixels


def posterior(mean: Any, std: Any, given: int = 0) -> Any:
    """Give a posterior past the tests' own check of types, as a user's model would."""
    return unchecked(Posterior, mean=mean, std=std, given=given)


BREAKS: dict[str, tuple[str, Callable[[Any], Any], str]] = {
    "tuple": ("encode", lambda one: (one.mean, one.std), "`encode` to give a `vaerdict.vae.Posterior`, got tuple"),
    "narrow": ("encode", lambda one: posterior(one.mean[:, :2], one.std), r"a `mean` of shape \(1, 3\), got \(1, 2\)"),
    "one std": ("encode", lambda one: posterior(one.mean, one.std[:, :1]), r"`std` of shape \(1, 3\), got \(1, 1\)"),
    "given": ("encode", lambda one: posterior(one.mean, one.std, given=2), r"`mean` of shape \(1, 5\), got \(1, 3\)"),
    "number": ("encode", lambda one: posterior(one.mean, 0.1), r"`std` of shape \(1, 3\), got float"),
    "whole": ("encode", lambda one: posterior(one.mean.long(), one.std), "`mean` of a floating point type, got int64"),
    "flat": ("decode", lambda pixels: pixels.flatten(1), r"`decode` to give shape \(1, 1, 1, 12\), got \(1, 12\)"),
    "squeezed": (
        "decode",
        lambda pixels: pixels.squeeze(0),
        r"`decode` to give shape \(1, 1, 1, 12\), got \(1, 1, 12\)",
    ),
    "summed": ("decode", lambda pixels: pixels.sum(0, keepdim=True), r"shape \(2, 1, 1, 12\), got \(1, 1, 1, 12\)"),
    "named": ("decode", lambda pixels: {"sample": pixels}, r"shape \(1, 1, 1, 12\), got dict"),
    "bytes": ("decode", lambda pixels: pixels.byte(), "`decode` to give a floating point type, got uint8"),
}


@pytest.mark.parametrize("name", BREAKS)
@pytest.mark.parametrize("verb", [attack, attack_margin])
def test_a_map_that_breaks_the_contract_is_named(verb: Any, name: str) -> None:
    part, spoil, said = BREAKS[name]
    ask = ASK if verb is attack else {"r": 0.5}
    with pytest.raises(ValueError, match=said):
        verb(Broken(part, spoil), searches.images_of(2), **ask)


@pytest.mark.parametrize(
    ("vae", "said"),
    [
        (None, "that is a torch module, got NoneType"),
        (lambda images: images, "that is a torch module, got function"),
        (
            nn.Linear(1, 1),
            "got Linear without `name`, `input_shape`, `input_range`, `latent`, `encode`, `decode`",
        ),
    ],
)
def test_what_is_no_vae_at_all_is_a_type_error(vae: Any, said: str) -> None:
    with pytest.raises(TypeError, match=f"expected a VAE .*{said}"):
        check_model(vae)
    with pytest.raises(TypeError, match=said):
        check_contract(vae, searches.images_of(1))


def _defended(wrap: Callable[[Any], Any]) -> Any:
    torch.manual_seed(0)
    return wrap(build_vae(ModelOptions(latent=3, hidden=(8,)), name="toy", input_shape=(1, 4, 4)))


@pytest.mark.parametrize(
    "wrap",
    [
        lambda vae: vae,
        lambda vae: Purified(vae, nn.Identity()),
        lambda vae: HamiltonianDefence(vae, steps=2, step_size=0.1, likelihood="bernoulli"),
    ],
)
def test_the_packages_own_models_and_defences_keep_it(wrap: Callable[[Any], Any]) -> None:
    with torch.random.fork_rng(devices=[]):
        vae = _defended(wrap).train()
    check_contract(vae, torch.full((1, 1, 4, 4), 0.5))
    assert vae.training
    assert all(parameter.requires_grad for parameter in vae.parameters())


def test_hierarchies_keep_it_by_their_flat_view() -> None:
    model = CurvedLevels()
    check_contract(flat(model), pictures(1, model))
    check_model(model)


def test_the_image_is_left_as_it_was() -> None:
    class Hasty(searches.TinyVAE):
        def encode(self, images: Tensor) -> Posterior:
            return super().encode(images.mul_(0.5))

        def decode(self, latents: Tensor) -> Tensor:
            return super().decode(latents.mul_(0.5))

    images = searches.images_of(1)
    before = images.clone()
    check_contract(Hasty(), images)
    assert torch.equal(images, before)
