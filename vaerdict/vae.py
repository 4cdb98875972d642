"""The contract between a VAE and everything that examines it, and the manners of borrowing one."""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True)
class Posterior:
    """The diagonal Gaussian `q(z|x)`, one row per image.

    >>> Posterior(torch.zeros(1, 2), torch.ones(1, 2)).sample(torch.full((1, 2), 3.0))
    tensor([[3., 3.]])
    """

    mean: Float[Tensor, "batch latent"]
    std: Float[Tensor, "batch latent"]
    given: int = 0
    """How many of the last coordinates are known rather than drawn, and take no noise."""

    @property
    def drawn(self) -> "Posterior":
        """The posterior of the coordinates that are drawn."""
        last = self.mean.shape[-1] - self.given
        return Posterior(self.mean[..., :last], self.std[..., :last]) if self.given else self

    def sample(self, noise: Float[Tensor, "batch drawn"]) -> Float[Tensor, "batch latent"]:
        """Turn standard normal noise into latents."""
        return self.mean + self.std * self.padded(noise)

    def padded(self, noise: Float[Tensor, "... drawn"]) -> Float[Tensor, "... latent"]:
        """Give the noise of all coordinates: zero for those that are given."""
        return functional.pad(noise, (0, self.given)) if self.given else noise


@runtime_checkable
class VAE(Protocol):
    """What an attack may use of a model: two maps and the facts about their spaces.

    `encode` takes images `[B, *input_shape]` with pixels in `input_range`; `decode` takes latents `[B, latent]`
    and returns the mean reconstruction `[B, *input_shape]`, deterministic given the latents.
    """

    name: str
    input_shape: tuple[int, ...]
    input_range: tuple[float, float]
    latent: int

    def encode(self, images: Tensor) -> Posterior:
        """Give the posterior of each image."""
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """Give the mean reconstruction of each latent."""
        ...


@runtime_checkable
class BoundableVAE(VAE, Protocol):
    """What a certificate needs besides: the maps as modules, so that their Lipschitz constants can be bounded.

    `mean_map` gives the posterior mean from images and `decoder_map` the reconstruction from latents. `std_map` gives
    the standard deviations `[B, latent]`, or `[B, 1]` where all coordinates share one; it is None where the standard
    deviation does not depend on the image at all.
    """

    @property
    def mean_map(self) -> nn.Module:
        """The map from images to posterior means."""
        ...

    @property
    def std_map(self) -> nn.Module | None:
        """The map from images to standard deviations; None where they are constant."""
        ...

    @property
    def decoder_map(self) -> nn.Module:
        """The map from latents to mean reconstructions."""
        ...


@runtime_checkable
class HierarchicalVAE(Protocol):
    """What a hierarchical model must offer: the posterior of the next level, and a deterministic decoder of all.

    `levels` holds the numbers of latents. `posterior` takes images `[B, *input_shape]` and the latents `[B, levels[l]]`
    of the levels before; how many they are says which level is meant. `decode` takes the latents of all levels.
    """

    name: str
    input_shape: tuple[int, ...]
    input_range: tuple[float, float]
    levels: tuple[int, ...]

    def posterior(self, images: Tensor, earlier: Sequence[Tensor]) -> Posterior:
        """Give the posterior of the level after the earlier ones, given their latents."""
        ...

    def decode(self, latents: Sequence[Tensor]) -> Tensor:
        """Give the mean reconstruction of the latents of all levels."""
        ...


@runtime_checkable
class HierarchicalPriorVAE(HierarchicalVAE, Protocol):
    """A hierarchical model that also offers its prior, without which it has no evidence."""

    def prior(self, earlier: Sequence[Tensor]) -> Posterior:
        """Give the prior of the level after the earlier ones, given their latents; of the first level in one row."""
        ...


def fingerprint(module: nn.Module) -> str:
    """Give the SHA-256 of a module: its architecture as torch prints it, and every parameter and buffer.

    >>> fingerprint(nn.ReLU()) == fingerprint(nn.Tanh())
    False
    """
    digest = hashlib.sha256(repr(module).encode())
    for name, tensor in sorted(_tensors(module)):
        values = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {values.dtype} {tuple(values.shape)}\n".encode())
        digest.update(values.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _tensors(module: nn.Module) -> list[tuple[str, Tensor]]:
    """Give parameters and buffers under each of their names: a layer used twice makes another model."""
    return [*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False)]


def check_images(vae: VAE | HierarchicalVAE, images: Tensor) -> None:
    """Refuse images that the model was not made for.

    Raises:
        ValueError: the shape is not `[B, *input_shape]`, a pixel is not finite or lies outside `input_range`.
    """
    if tuple(images.shape[1:]) != tuple(vae.input_shape):
        raise ValueError(f"expected images of shape [B, {vae.input_shape}], got {tuple(images.shape)}")
    if not len(images):
        raise ValueError(f"expected at least one image, got shape {tuple(images.shape)}")
    if not torch.isfinite(images).all():
        raise ValueError("expected finite pixels, got NaN or infinity")
    low, high = vae.input_range
    least, most = (float(value) for value in images.detach().aminmax())
    if least < low or most > high:
        raise ValueError(f"expected pixels in [{low:g}, {high:g}], got [{least:g}, {most:g}]")


@contextmanager
def borrowed(vae: Any) -> Iterator[Any]:
    """Lend a model in evaluation mode with frozen weights, and give it back exactly as it came.

    Raises:
        TypeError: the object is not a torch module.
    """
    if not isinstance(vae, nn.Module):
        raise TypeError(f"expected a VAE that is a torch module, got {type(vae).__name__}")
    modes = [(module, module.training) for module in vae.modules()]
    gradients = [(parameter, parameter.requires_grad) for parameter in vae.parameters()]
    try:
        vae.eval().requires_grad_(False)
        yield vae
    finally:
        for module, training in modes:
            module.training = training
        for parameter, needed in gradients:
            parameter.requires_grad_(needed)
