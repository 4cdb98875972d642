"""The contract of `vaerdict.vae.VAE`, tried on one image before a search relies on it."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vaerdict.options import require
from vaerdict.vae import VAE, HierarchicalVAE, Posterior, borrowed

_HAS = ("name", "input_shape", "input_range", "latent", "encode", "decode")


def check_model(vae: Any) -> None:
    """Refuse what has not even the names of a VAE, hierarchical or not.

    Raises:
        TypeError: the object is not a torch module, or lacks an attribute or a method.

    >>> check_model(None)
    Traceback (most recent call last):
    TypeError: expected a VAE that is a torch module, got NoneType
    """
    if not isinstance(vae, nn.Module):
        raise TypeError(f"expected a VAE that is a torch module, got {type(vae).__name__}")
    if not isinstance(vae, VAE | HierarchicalVAE):
        lacking = ", ".join(f"`{name}`" for name in _HAS if not hasattr(vae, name))
        raise TypeError(f"expected a VAE as in `vaerdict.vae.VAE`, got {type(vae).__name__} without {lacking}")


def check_contract(vae: Any, image: Float[Tensor, "1 ..."]) -> None:
    """Refuse a model whose posteriors or reconstructions are not what `vaerdict.vae.VAE` says.

    The image is tried alone and beside a copy of itself, since some maps drop a batch of one, others mix a larger one.

    Args:
        vae: the model, or the flat view of a hierarchical one; it comes back as it was lent.
        image: `[1, *input_shape]`.

    Raises:
        TypeError: the object is not a VAE at all.
        ValueError: `encode` gives no `Posterior`, or something is not of its shape or not in floating point.

    >>> class Wide(nn.Module):
    ...     name, input_shape, input_range, latent = "wide", (4,), (0.0, 1.0), 4
    ...     def encode(self, images): return Posterior(images, torch.ones_like(images))
    ...     def decode(self, latents): return latents[:, :2]
    >>> check_contract(Wide(), torch.zeros(1, 4))
    Traceback (most recent call last):
    ValueError: expected `decode` to give shape (1, 4), got (1, 2)
    """
    check_model(vae)
    with borrowed(vae) as lent, torch.no_grad():
        for count in (1, 2):
            # Copies, since a first layer may work in place.
            posterior = lent.encode(torch.cat([image] * count))
            _check_posterior(posterior, count, vae.latent)
            reconstruction = lent.decode(posterior.mean.clone())
            _check_tensor("`decode` to give", reconstruction, (count, *vae.input_shape))


def _check_posterior(posterior: Any, count: int, latent: int) -> None:
    require(isinstance(posterior, Posterior), "`encode` to give a `vaerdict.vae.Posterior`", type(posterior).__name__)
    shape = (count, latent + posterior.given)
    _check_tensor("`encode` to give a `mean` of", posterior.mean, shape)
    _check_tensor("`encode` to give a `std` of", posterior.std, shape)


def _check_tensor(what: str, value: Any, shape: tuple[int, ...]) -> None:
    require(isinstance(value, Tensor), f"{what} shape {shape}", type(value).__name__)
    require(tuple(value.shape) == shape, f"{what} shape {shape}", tuple(value.shape))
    require(value.is_floating_point(), f"{what} a floating point type", str(value.dtype).removeprefix("torch."))
