"""Models that return tuples, mappings, objects and distributions, read as what they are."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Independent, Laplace, Normal

from tests.untyped import untyped
from vaerdict.models import vae_from_factory
from vaerdict.models.adapters import adapt, adapt_pythae
from vaerdict.vae import fingerprint

SHAPE = (1, 2, 3)


@dataclass
class Output:
    """As models return objects with names."""

    z_mean: Tensor
    mu: Tensor
    logvar: Tensor


class Mine(nn.Module):
    """A VAE with a linear mean, variances that depend on the image and flat reconstructions."""

    def __init__(self) -> None:
        super().__init__()
        self.mean, self.spread, self.back = nn.Linear(6, 2), nn.Linear(6, 2), nn.Linear(2, 6)
        self.dropout = nn.Dropout()

    def encode(self, images: Tensor) -> Any:
        flat = self.dropout(images.flatten(1))
        return self.mean(flat), self.spread(flat)

    def decode(self, latents: Tensor) -> Tensor:
        return self.back(latents)


def log_variance(std: Tensor) -> Tensor:
    return 2 * std.log()


PACKED = {
    "dict": lambda mean, std: {"z": mean, "mu": mean, "logvar": log_variance(std)},
    "std by name": lambda mean, std: {"mean": mean, "sigma": std},
    "variance by name": lambda mean, std: {"mean": mean, "var": std**2},
    "object": lambda mean, std: Output(mean + 1, mean, log_variance(std)),
    "normal": Normal,
    "independent": lambda mean, std: Independent(Normal(mean, std), 1),
    "inside": lambda mean, std: {"latent_dist": {"mean": mean, "std": std}},
}


@pytest.mark.parametrize("kind", PACKED)
def test_a_named_posterior_is_read_as_its_names_say(kind: str) -> None:
    mine, images = Mine().eval(), torch.rand(4, *SHAPE)
    mean, spread = mine.encode(images)

    def encode(model: Mine, images: Tensor) -> Any:
        mean, spread = Mine.encode(model, images)
        return PACKED[kind](mean, (spread / 2).exp())

    vae = adapt(mine, input_shape=SHAPE, encode=encode)
    posterior = vae.encode(images)
    torch.testing.assert_close(posterior.mean, mean)
    torch.testing.assert_close(posterior.std, (spread / 2).exp())
    torch.testing.assert_close(vae.decode(mean).flatten(1), mine.decode(mean))


def test_a_pair_is_read_as_spread_says() -> None:
    mine, images = Mine().eval(), torch.rand(4, *SHAPE)
    mine.spread.bias.data.fill_(5.0)  # positive, so that all three readings are possible
    raw = mine.encode(images)[1]
    for spread, std in {"std": raw, "variance": raw.sqrt(), "log_variance": (raw / 2).exp()}.items():
        torch.testing.assert_close(adapt(mine, input_shape=SHAPE, spread=spread).encode(images).std, std)


def test_an_attack_reaches_through_and_the_model_comes_back_as_it_was() -> None:
    mine = Mine().train()
    vae = adapt(mine, input_shape=SHAPE, spread="log_variance", name="mine")
    assert mine.training
    assert mine.mean.weight.requires_grad
    images = torch.rand(2, *SHAPE, requires_grad=True)
    vae.eval().decode(vae.encode(images).mean).square().sum().backward()
    expected = torch.autograd.grad(mine.decode(mine.encode(images)[0]).square().sum(), images)[0]
    torch.testing.assert_close(images.grad, expected)


def test_the_fingerprint_knows_weights_and_reading() -> None:
    mine = Mine()
    one = fingerprint(adapt(mine, input_shape=SHAPE, spread="log_variance"))
    assert fingerprint(adapt(mine, input_shape=SHAPE, spread="log_variance")) == one
    mine.mean.weight.data[0, 0] += 1
    changed = fingerprint(adapt(mine, input_shape=SHAPE, spread="log_variance"))
    mine.spread.bias.data.fill_(5.0)
    assert len({one, changed, fingerprint(adapt(mine, input_shape=SHAPE, spread="std"))}) == 3


def test_a_function_that_returns_one_is_a_factory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = ["from tests.models.test_adapters import Mine, SHAPE", "from vaerdict.models.adapters import adapt"]
    lines += ["def make():", "    return adapt(Mine(), input_shape=SHAPE, spread='log_variance')"]
    (tmp_path / "adapted_factory.py").write_text("\n".join(lines))
    monkeypatch.chdir(tmp_path)
    vae = vae_from_factory("adapted_factory:make")
    assert (vae.name, vae.latent, vae.training) == ("Mine", 2, False)


class Random(Mine):
    """Its encoder returns another draw each time."""

    def encode(self, images: Tensor) -> Any:
        mean, spread = super().encode(images)
        return mean + torch.randn_like(mean), spread


class Noisy(Mine):
    """Its encoder's means change a little each time."""

    def encode(self, images: Tensor) -> Any:
        mean, spread = super().encode(images)
        return mean + 1e-4 * torch.randn_like(mean), spread


def centred(model: Mine, images: Tensor) -> Any:
    mean, spread = model.encode(images)
    return mean - mean.mean(0), spread


def channels_last(model: Mine, latents: Tensor) -> Tensor:
    return model.decode(latents).unflatten(1, SHAPE).movedim(1, -1)


REFUSED = {
    "a pair of unknown kind": (Mine, {}, "expected `spread` of an encoder that returns a pair"),
    "a triple": (Mine, {"encode": lambda m, x: (x, *m.encode(x))}, "got tuple of Tensor, Tensor, Tensor"),
    "unknown names": (Mine, {"encode": lambda m, x: {"z": m.encode(x)[0]}}, "got dict with 'z'"),
    "a tensor": (Mine, {"encode": lambda m, x: m.encode(x)[0]}, "expected an encoder's mean and spread"),
    "another distribution": (Mine, {"encode": lambda m, x: Laplace(*m.encode(x), validate_args=False)}, "got Laplace"),
    "a draw": (Random, {"spread": "log_variance"}, "expected an encoder that is deterministic"),
    "a little noise": (
        Noisy,
        {"spread": "log_variance"},
        "expected an encoder that is deterministic, got something else the n",
    ),
    "a mixed batch": (
        Mine,
        {"spread": "log_variance", "encode": centred},
        "expected an encoder that takes each image by itself, got other values for an image alone",
    ),
    "channels last": (
        Mine,
        {"spread": "log_variance", "decode": channels_last},
        "expected reconstructions of shape (1, 1, 2, 3) or (1, 6), got (1, 2, 3, 1)",
    ),
    "half precision": (lambda: Mine().half(), {"spread": "log_variance"}, "expected weights in float32 or float64 "),
    "unknown reconstructions": (
        Mine,
        {"spread": "log_variance", "decode": lambda m, z: {"y": m.decode(z)}},
        "expected a decoder's reconstruction, as a tensor or by name; or `decode`, which makes such, got dict with 'y'",
    ),
    "reconstructions of another size": (Mine, {"spread": "log_variance", "decode": lambda m, z: z}, "expected a decod"),
    "an unknown spread": (Mine, {"spread": "logstd"}, "unknown spread 'logstd'"),
    "no method": (lambda: nn.Linear(6, 6), {}, "expected `encode`, or a model with that method, got Linear"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_read_is_refused_with_the_reason(case: str) -> None:
    model, given, message = REFUSED[case]
    # Untyped, as a user's code is.
    with pytest.raises(ValueError, match=re.escape(message)):
        untyped(adapt, model(), input_shape=SHAPE, **given)


# --- pythae ---


class Part(nn.Module):
    """An encoder or decoder as pythae's: a mapping comes out."""

    def __init__(self, names: tuple[str, ...], inputs: int, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.names, self.shape = names, shape
        self.layers = nn.ModuleList(nn.Linear(inputs, torch.Size(shape).numel()) for _ in names)

    def forward(self, values: Tensor) -> dict[str, Tensor]:
        flat = values.flatten(1)
        return {n: f(flat).unflatten(1, self.shape) for n, f in zip(self.names, self.layers, strict=True)}


class Pythae(nn.Module):
    """Built as pythae's models are."""

    def __init__(self, model_name: str = "BetaVAE", encoded: tuple[str, ...] = ("embedding", "log_covariance")) -> None:
        super().__init__()
        self.model_name, self.input_dim = model_name, SHAPE
        self.encoder, self.decoder = Part(encoded, 6, (2,)), Part(("reconstruction",), 2, SHAPE)


def test_a_pythae_model_is_read_by_its_parts() -> None:
    model, images = Pythae(), torch.rand(3, *SHAPE)
    vae, out = adapt_pythae(model), model.encoder(images)
    posterior = vae.encode(images)
    assert (vae.name, vae.input_shape, vae.latent) == ("BetaVAE", SHAPE, 2)
    torch.testing.assert_close(posterior.mean, out["embedding"])
    torch.testing.assert_close(posterior.std, (out["log_covariance"] / 2).exp())
    torch.testing.assert_close(vae.decode(posterior.mean), model.decoder(posterior.mean)["reconstruction"])


def test_a_pythae_model_with_another_posterior_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown pythae model with a Gaussian posterior 'VAE_IAF'"):
        adapt_pythae(Pythae("VAE_IAF"))
    with pytest.raises(ValueError, match="got dict with 'embedding'"):
        adapt_pythae(Pythae("VAE", encoded=("embedding",)))
