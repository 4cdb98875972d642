"""Any torch model that encodes to a diagonal Gaussian and decodes, whatever it packs its tensors into."""

from collections.abc import Callable
from typing import Any, get_args

import torch
from torch import Tensor, nn

from vaerdict.models.adapters.reading import PairSpread, read_posterior, read_reconstruction
from vaerdict.models.adapters.trials import require_full_precision, tried, two_images
from vaerdict.models.gaussian import GaussianVAE, wrap
from vaerdict.options import require, require_known
from vaerdict.vae import borrowed

Apply = Callable[[Any, Tensor], Any]
"""From a model and images, or latents, to what it returns."""


class Encoded(nn.Module):
    """The map from images to mean and standard deviation, read from what a model returns."""

    def __init__(self, model: nn.Module, apply: Apply, spread: PairSpread | None) -> None:
        super().__init__()
        self.model, self.apply_model, self.spread = model, apply, spread

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Give mean and standard deviation, each in the shape that the model gives it."""
        return read_posterior(self.apply_model(self.model, images), self.spread)

    def extra_repr(self) -> str:
        """Show how the model is read: it is part of the fingerprint."""
        return f"spread={self.spread!r}, by {_name_of(self.apply_model)}"


class Decoded(nn.Module):
    """The map from latents to mean reconstructions, read from what a model returns."""

    def __init__(self, model: nn.Module, apply: Apply, input_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.model, self.apply_model, self.input_shape = model, apply, input_shape

    def forward(self, latents: Tensor) -> Tensor:
        """Give the reconstructions in the images' shape; many models keep them flat.

        Raises:
            ValueError: they are of another shape; another order of the axes would be another image.
        """
        images = read_reconstruction(self.apply_model(self.model, latents))
        shape = (len(latents), *self.input_shape)
        flat = (len(latents), torch.Size(self.input_shape).numel())
        fits = tuple(images.shape) in (shape, flat)
        require(fits, f"reconstructions of shape {shape} or {flat}", tuple(images.shape))
        return images.reshape(shape)

    def extra_repr(self) -> str:
        """Show how the model is read: it is part of the fingerprint."""
        return f"by {_name_of(self.apply_model)}"


def adapt(
    model: nn.Module,
    *,
    input_shape: tuple[int, ...],
    input_range: tuple[float, float] = (0.0, 1.0),
    encode: Apply | None = None,
    decode: Apply | None = None,
    spread: PairSpread | None = None,
    name: str | None = None,
) -> GaussianVAE:
    """Make a VAE of a model whose encoder returns a tuple, a mapping, an object or a distribution.

    Both maps are tried on two images. They must give the same each time, since an encoder that returns a draw has no
    mean, and the same for an image alone, since one that looks at the whole batch has no posterior of an image.
    Where the model has one, weights are hashed under both maps; of `encode` and `decode` only the names are part of the
    fingerprint, so give models that are read differently different names.

    Args:
        model: holds the weights.
        input_shape: of one image, `(C, H, W)`.
        input_range: the least and the greatest value of a pixel.
        encode: from the model and images `[B, *input_shape]` to mean and spread, see `reading.read_posterior`; by
            default the model's method `encode`.
        decode: from the model and latents, in the shape of the encoder's mean, to the reconstruction or something that
            has it by name; by default the model's method `decode`.
        spread: what the second of a pair is: `std`, `variance` or `log_variance`. A name speaks for itself.
        name: how tables call the model; by default its class.

    Raises:
        ValueError: what the model returns cannot be read, has the wrong shape, is random or depends on the batch; its
            weights are of half precision.
        TypeError: the model is not a torch module.

    >>> class Mine(nn.Module):
    ...     def encode(self, images): return images.flatten(1), torch.zeros(len(images), 4)
    ...     def decode(self, latents): return {"recon": latents}
    >>> vae = adapt(Mine(), input_shape=(1, 2, 2), spread="log_variance")
    >>> vae.name, vae.latent, vae.decode(torch.zeros(3, 4)).shape
    ('Mine', 4, torch.Size([3, 1, 2, 2]))
    """
    require_known("spread", [] if spread is None else [spread], get_args(PairSpread))
    shape = tuple(input_shape)
    encoder = Encoded(model, encode or _method(model, "encode"), spread)
    decoder = Decoded(model, decode or _method(model, "decode"), shape)
    return join(encoder, decoder, shape, input_range, name or type(model).__name__)


def join(
    encoder: nn.Module, decoder: nn.Module, shape: tuple[int, ...], input_range: tuple[float, float], name: str
) -> GaussianVAE:
    """Make a VAE of an encoder to mean and standard deviation and a decoder; the latent's shape is found by trial.

    Raises:
        ValueError: the shapes do not fit; a map is random or depends on the batch; weights are of half precision.
    """
    require_full_precision(encoder, decoder)
    images = two_images(shape, input_range, next(encoder.parameters(), None))
    with borrowed(nn.ModuleList([encoder, decoder])), torch.no_grad(), torch.random.fork_rng(devices=[]):
        mean, _ = tried("an encoder", encoder, images)
        vae = wrap(
            encoder,
            decoder,
            input_shape=shape,
            latent_shape=tuple(mean.shape[1:]),
            spread="std",
            input_range=input_range,
            name=name,
        )
        tried("a decoder", decoder, mean)
    return vae


def _method(model: nn.Module, name: str) -> Apply:
    require(callable(getattr(model, name, None)), f"`{name}`, or a model with that method", type(model).__name__)
    return _encode if name == "encode" else _decode


def _encode(model: Any, images: Tensor) -> Any:
    return model.encode(images)


def _decode(model: Any, latents: Tensor) -> Any:
    return model.decode(latents)


def _name_of(function: Apply) -> str:
    return getattr(function, "__qualname__", type(function).__name__)
