"""Purification: an image is cleaned before it is encoded."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from vaerdict.options import require
from vaerdict.vae import Posterior, borrowed


class Function(nn.Module):
    """A function as a module; its name stands for it in the fingerprint."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function
        self.name = getattr(function, "__name__", type(function).__name__)

    def forward(self, images: Tensor) -> Tensor:
        """Apply the function."""
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
            weights and options are part of the fingerprint, or a function, of which the name is.
        name: how tables call the defended model; by default the model's name and the purification's.

    Raises:
        ValueError: the purification changes the shape, or gives something else the second time.
        TypeError: the model is not a torch module.

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
        return self.vae.encode(self.purify(images))

    def decode(self, latents: Tensor) -> Tensor:
        """Give the mean reconstructions, as the model without defence."""
        return self.vae.decode(latents)

    def extra_repr(self) -> str:
        """Show the name: it is part of the fingerprint."""
        return f"name={self.name!r}"

    def _check(self) -> None:
        example = next(self.parameters(), torch.zeros(()))
        low, high = self.input_range
        ramp = torch.linspace(low, high, torch.Size(self.input_shape).numel()).reshape(1, *self.input_shape)
        with borrowed(self), torch.no_grad(), torch.random.fork_rng(devices=[]):
            once, again = (self.purify(ramp.to(example)) for _ in range(2))
        shape = (1, *self.input_shape)
        require(tuple(once.shape) == shape, f"purified images of shape {shape}", tuple(once.shape))
        same = torch.allclose(once, again, rtol=1e-3, atol=1e-5, equal_nan=True)
        require(same, "a deterministic purification", "something else the second time")


def as_module(vae: Any) -> Any:
    """Give the model as it is.

    Raises:
        TypeError: it is not a torch module.

    >>> as_module(nn.Identity())
    Identity()
    """
    if not isinstance(vae, nn.Module):
        raise TypeError(f"expected a VAE that is a torch module, got {type(vae).__name__}")
    return vae


def name_of(purify: nn.Module) -> str:
    """Give a purification's name: its own, its class's, or those of a sequence in their order.

    >>> name_of(nn.Sequential(nn.Identity(), nn.ReLU()))
    'identity+relu'
    """
    if isinstance(purify, nn.Sequential):
        return "+".join(map(name_of, purify))
    own = getattr(purify, "name", None)
    return own if isinstance(own, str) else type(purify).__name__.lower()
