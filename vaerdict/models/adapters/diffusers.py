"""Stable Diffusion's AutoencoderKL and its kin in diffusers; the package itself is not imported.

The autoencoder's own `encode` and `decode` would cut large images into tiles or run them one by one: its layers are
taken in their place, and held against them once.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vaerdict.models.adapters.trials import require_full_precision
from vaerdict.models.gaussian import GaussianVAE, wrap
from vaerdict.options import require
from vaerdict.vae import borrowed

LEAST, MOST = -30.0, 20.0
"""Where diffusers cuts off log-variances; beyond, the gradient is exactly zero."""
TRIAL_SIDE = 64
"""Pixels per side, at most, of the image on which the layers are held against the autoencoder's own methods."""


class ClampLogVariance(nn.Module):
    """Cut off the log-variances, the second half of the channels, as diffusers does."""

    def forward(self, moments: Float[Tensor, "batch both h w"]) -> Float[Tensor, "batch both h w"]:
        """Give means and log-variances."""
        mean, log_variance = moments.chunk(2, dim=1)
        return torch.cat([mean, log_variance.clamp(LEAST, MOST)], dim=1)


def adapt_diffusers(autoencoder: Any, input_shape: tuple[int, int, int], name: str = "autoencoder-kl") -> GaussianVAE:
    """Make a VAE of an `AutoencoderKL`: pixels in [-1, 1], latents flat and unscaled, reconstructions not cut off.

    The layers are shared, not copied. `enable_gradient_checkpointing` works; before 0.32, diffusers heeded it in
    training only. Slicing changes nothing and is not used.

    Args:
        autoencoder: in float32 or float64.
        input_shape: of one image, `(C, H, W)`; the autoencoder's downsampling must divide the sides.
        name: how tables call the model.

    Raises:
        ValueError: the model is none, its weights are of half precision, tiling is on, or the shapes do not fit.

    >>> adapt_diffusers(nn.Linear(1, 1), (3, 8, 8))
    Traceback (most recent call last):
    ValueError: expected an AutoencoderKL of diffusers, got Linear
    """
    parts = [getattr(autoencoder, part, None) for part in ("encoder", "quant_conv", "post_quant_conv", "decoder")]
    fits = isinstance(parts[0], nn.Module) and isinstance(parts[3], nn.Module) and hasattr(autoencoder, "config")
    require(fits, "an AutoencoderKL of diffusers", type(autoencoder).__name__)
    require_full_precision(autoencoder)
    _check_shape(autoencoder, input_shape)
    tiled = getattr(autoencoder, "use_tiling", False)
    require(not tiled, "no tiling, which computes another function (disable_tiling())", "use_tiling=True")
    before, quant, post, after = (part if part is not None else nn.Identity() for part in parts)
    encoder = _named(encoder=before, quant_conv=quant, clamp=ClampLogVariance())
    decoder = _named(post_quant_conv=post, decoder=after)
    _check_same(autoencoder, encoder, decoder, input_shape)
    return wrap(
        encoder,
        decoder,
        input_shape=input_shape,
        latent_shape=_latent_shape(encoder, input_shape),
        spread="log_variance",
        input_range=(-1.0, 1.0),
        name=name,
    )


def clamped_share(vae: GaussianVAE, images: Float[Tensor, "batch ..."]) -> Float[Tensor, " batch"]:
    """Give the share of each image's latent coordinates whose log-variance is cut off: it has no gradient there.

    An attack on posterior variances cannot move those, and one on divergences only by their means.

    Args:
        vae: made by `adapt_diffusers`.
        images: `[B, C, H, W]`.

    Raises:
        ValueError: the model was made otherwise.

    >>> encoder = nn.Sequential(nn.Conv2d(1, 2, 1), ClampLogVariance())
    >>> vae = wrap(encoder, nn.Identity(), input_shape=(1, 2, 2), latent_shape=(1, 2, 2), spread="log_variance")
    >>> clamped_share(vae, torch.zeros(1, 1, 2, 2))
    tensor([0.])
    """
    clamps = any(isinstance(part, ClampLogVariance) for part in vae.encoder.modules())
    require(clamps, "a VAE made by adapt_diffusers", vae.name)
    with borrowed(vae), torch.no_grad():
        log_variance = vae.encoder(images).chunk(2, dim=1)[1].flatten(1)
    return ((log_variance <= LEAST) | (log_variance >= MOST)).to(images.dtype).mean(1)


def _check_shape(autoencoder: Any, input_shape: tuple[int, ...]) -> None:
    sizes = len(input_shape) == 3 and min(input_shape) >= 1
    require(sizes, "an `input_shape` of channels, height and width", input_shape)
    channels = getattr(autoencoder.config, "in_channels", input_shape[0])
    require(input_shape[0] == channels, f"an `input_shape` with the autoencoder's {channels} channels", input_shape)


def _latent_shape(encoder: nn.Module, input_shape: tuple[int, ...]) -> tuple[int, ...]:
    with borrowed(encoder), torch.no_grad():
        channels, *sides = encoder(next(encoder.parameters()).new_zeros((1, *input_shape))).shape[1:]
    return (channels // 2, *sides)


def _check_same(autoencoder: Any, encoder: nn.Module, decoder: nn.Module, input_shape: tuple[int, int, int]) -> None:
    """Refuse relatives that do more than run the layers."""
    channels, height, width = input_shape
    side = min(height, width, TRIAL_SIDE)
    ramp = torch.linspace(-1, 1, channels * side * side).reshape(1, channels, side, side)
    with borrowed(autoencoder), torch.no_grad():
        images = ramp.to(next(autoencoder.parameters()))
        expected: Any = getattr(autoencoder.encode(images), "latent_dist", None)
        require(hasattr(expected, "logvar"), "an autoencoder with a Gaussian posterior", type(autoencoder).__name__)
        moments = encoder(images)
        mean = moments.chunk(2, dim=1)[0]
        pairs = [
            (moments, torch.cat([expected.mean, expected.logvar], dim=1)),
            (decoder(mean), autoencoder.decode(mean).sample),
        ]
    same = all(one.shape == two.shape and torch.allclose(one, two, rtol=1e-3, atol=1e-4) for one, two in pairs)
    require(same, "an autoencoder that only runs its layers", type(autoencoder).__name__)


def _named(**parts: nn.Module) -> nn.Sequential:
    sequence = nn.Sequential()
    for name, part in parts.items():
        sequence.add_module(name, part)
    return sequence
