"""Purification: an image is cleaned before it is encoded."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from vaerdict.models.adapters.reading import told
from vaerdict.models.adapters.trials import tried, two_images
from vaerdict.options import require
from vaerdict.vae import VAE, Posterior, borrowed


class Function(nn.Module):
    """A function as a module; its name stands for it in the fingerprint."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function
        self.name = getattr(function, "__name__", type(function).__name__)

    def forward(self, images: Tensor) -> Any:
        """Apply the function; `Purified` checks what it gives."""
        return self.function(images)

    def extra_repr(self) -> str:
        """Show the function's name."""
        return self.name


class Purified(nn.Module):
    """A VAE behind a purification, in the contract of `vaerdict.vae.VAE`: `encode(purify(images))`.

    Attacks see one model and differentiate through both; where the purification has no useful gradient, it must bring
    its own (see `Quantise`), or attacks look weaker than they are.

    Args:
        vae: the defended model, a torch module.
        purify: from images `[B, *input_shape]` to images, deterministic and image by image: a module, so that its
            weights and options are part of the fingerprint, or a function, of which the name is. Its `input_range`,
            or that of any part of a sequence, must be the model's, where it has one.
        name: how tables call the defended model; by default the model's name and the purification's.

    Raises:
        ValueError: the purification changes the shape, is made for another range of pixels, gives something else the
            next time, or other values for an image alone.
        TypeError: the model is not a torch module, or has several levels.

    >>> from vaerdict.models import build_vae
    >>> from vaerdict.options import ModelOptions
    >>> vae = build_vae(ModelOptions(latent=3, hidden=(8,)), name="toy", input_shape=(1, 4, 4))
    >>> Purified(vae, nn.Identity()).name
    'toy+identity'
    """

    def __init__(self, vae: Any, purify: Callable[[Tensor], Tensor], *, name: str | None = None) -> None:
        super().__init__()
        self.vae = as_module(vae)
        self.purify = purify if isinstance(purify, nn.Module) else Function(purify)
        self.input_shape, self.input_range = tuple(vae.input_shape), vae.input_range
        self.latent: int = vae.latent
        self._check()
        self.name = name or f"{vae.name}+{name_of(self.purify)}"

    def encode(self, images: Tensor) -> Posterior:
        """Give the posterior of the purified images."""
        return self.vae.encode(self._purified(images))

    def decode(self, latents: Tensor) -> Tensor:
        """Give the mean reconstructions, as the model without defence."""
        return self.vae.decode(latents)

    def extra_repr(self) -> str:
        """Show the name: it is part of the fingerprint."""
        return f"name={self.name!r}"

    def _purified(self, images: Tensor) -> Tensor:
        clean = self.purify(images)
        require(isinstance(clean, Tensor), "a purification that gives a tensor", told(clean))
        require(clean.shape == images.shape, f"purified images of shape {tuple(images.shape)}", tuple(clean.shape))
        return clean

    def _check(self) -> None:
        for part in _in_sequence(self.purify):
            pixels = tuple(getattr(part, "input_range", self.input_range))
            require(pixels == tuple(self.input_range), f"{name_of(part)} with `input_range` {self.input_range}", pixels)
        images = two_images(self.input_shape, self.input_range, next(self.parameters(), None))
        with borrowed(self), torch.no_grad(), torch.random.fork_rng(devices=[]):
            tried("a purification", self._purified, images)


def as_module(vae: Any) -> Any:
    """Give the model as it is.

    Raises:
        TypeError: it is not a torch module, or not a VAE whose latents are all of one level.

    >>> as_module(nn.Identity())
    Traceback (most recent call last):
    TypeError: expected a VAE with one level of latents, see vaerdict.vae.VAE, got Identity
    """
    if not isinstance(vae, nn.Module):
        raise TypeError(f"expected a VAE that is a torch module, got {type(vae).__name__}")
    if not isinstance(vae, VAE):
        raise TypeError(f"expected a VAE with one level of latents, see vaerdict.vae.VAE, got {type(vae).__name__}")
    return vae


def require_drawn(vae: Any) -> None:
    """Refuse a model whose posterior has coordinates that are given, as that of a `HamiltonianDefence`.

    Their spread is zero, so that neither a divergence from the prior nor a chain over them means anything.

    Raises:
        ValueError: it has.

    >>> from vaerdict.models import build_vae
    >>> from vaerdict.options import ModelOptions
    >>> require_drawn(build_vae(ModelOptions(latent=3, hidden=(8,)), name="toy", input_shape=(1, 4, 4)))
    """
    images = two_images(tuple(vae.input_shape), vae.input_range, next(vae.parameters(), None))
    with borrowed(vae), torch.no_grad(), torch.random.fork_rng(devices=[]):
        count = vae.encode(images).given
    require(not count, "a VAE whose latents are all drawn", f"{vae.name}, which is given {count} of them")


def name_of(purify: nn.Module) -> str:
    """Give a purification's name: its own, its class's, or those of a sequence in their order.

    >>> name_of(nn.Sequential(nn.Identity(), nn.ReLU()))
    'identity+relu'
    """
    if isinstance(purify, nn.Sequential):
        return "+".join(map(name_of, purify))
    own = getattr(purify, "name", None)
    return own if isinstance(own, str) else type(purify).__name__.lower()


def _in_sequence(purify: nn.Module) -> list[nn.Module]:
    if isinstance(purify, nn.Sequential):
        return [part for inner in purify for part in _in_sequence(inner)]
    return [purify]
