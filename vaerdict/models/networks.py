"""The native architectures, built from `ModelOptions`."""

import math
from itertools import pairwise

from torch import nn

from vaerdict.lipschitz.layers import MaxMin, lipschitz_conv2d, lipschitz_conv_transpose2d, lipschitz_linear
from vaerdict.models.gaussian import GaussianVAE
from vaerdict.options import ModelOptions, require


def build_vae(
    options: ModelOptions,
    *,
    name: str,
    input_shape: tuple[int, ...],
    input_range: tuple[float, float] = (0.0, 1.0),
    constrained: bool = True,
) -> GaussianVAE:
    """Build a native VAE with fresh weights.

    Args:
        options: the architecture.
        name: how tables call the model.
        input_shape: `(C, H, W)` of the images.
        input_range: of the pixels; Bernoulli needs `(0, 1)`.
        constrained: False makes the layers of a Lipschitz VAE ordinary ones, to take the weights of a frozen one.

    Raises:
        ValueError: Bernoulli with another range; a convolutional family with sides that 4 does not divide.

    >>> vae = build_vae(ModelOptions(latent=3, hidden=(8,)), name="toy", input_shape=(1, 4, 4))
    >>> vae.latent, vae.spread
    (3, 'constant')
    """
    bernoulli = options.likelihood == "bernoulli"
    if bernoulli:
        require(tuple(input_range) == (0.0, 1.0), "pixels in [0, 1] with the Bernoulli likelihood", input_range)
    outputs = options.latent + {"constant": 0, "bounded": 1, "log_variance": options.latent}[options.spread]
    # The decoder's budget is shared by what comes before its last activation.
    slope = 0.25 if bernoulli else 1.0
    budgets = (options.b, options.a / slope) if constrained and options.family.startswith("lipschitz") else (None, None)
    if options.family in ("conv", "lipschitz_conv"):
        encoder, decoder = _convolutional(options, input_shape, outputs, *budgets)
    else:
        encoder, decoder = _dense(options, input_shape, outputs, *budgets)
    return GaussianVAE(
        encoder,
        nn.Sequential(*decoder, nn.Sigmoid()) if bernoulli else decoder,
        name=name,
        input_shape=input_shape,
        latent_shape=(options.latent,),
        spread=options.spread,
        std=None if options.spread == "log_variance" else options.std,
        input_range=input_range,
    )


def _dense(
    options: ModelOptions,
    input_shape: tuple[int, ...],
    outputs: int,
    encoder_budget: float | None,
    decoder_budget: float | None,
) -> tuple[nn.Sequential, nn.Sequential]:
    """Build a dense encoder and its mirror."""
    pixels = math.prod(input_shape)
    widths, mirror = [pixels, *options.hidden, outputs], [options.latent, *reversed(options.hidden), pixels]
    encoder = _dense_layers(widths, options, encoder_budget)
    decoder = _dense_layers(mirror, options, decoder_budget)
    return nn.Sequential(nn.Flatten(), *encoder), nn.Sequential(*decoder, nn.Unflatten(1, input_shape))


def _dense_layers(widths: list[int], options: ModelOptions, budget: float | None) -> list[nn.Module]:
    norm = _share(budget, len(widths) - 1)
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        layers += [_linear(inputs, outputs, norm), _activation(options)]
    return layers[:-1]


def _convolutional(
    options: ModelOptions,
    input_shape: tuple[int, ...],
    outputs: int,
    encoder_budget: float | None,
    decoder_budget: float | None,
) -> tuple[nn.Sequential, nn.Sequential]:
    """Build two strided convolutions and their mirror."""
    channels, height, width = input_shape
    require(height % 4 == 0 and width % 4 == 0, "image sides that 4 divides for the conv families", (height, width))
    inner = (32, height // 4, width // 4)
    features = math.prod(inner)
    norm, mirror_norm = _share(encoder_budget, 3), _share(decoder_budget, 3)
    encoder = nn.Sequential(
        _halving(channels, 16, norm),
        _activation(options),
        _halving(16, 32, norm),
        _activation(options),
        nn.Flatten(),
        _linear(features, outputs, norm),
    )
    decoder = nn.Sequential(
        _linear(options.latent, features, mirror_norm),
        _activation(options),
        nn.Unflatten(1, inner),
        _doubling(32, 16, mirror_norm),
        _activation(options),
        _doubling(16, channels, mirror_norm),
    )
    return encoder, decoder


def _share(budget: float | None, layers: int) -> float | None:
    """Share a budget equally among layers."""
    return None if budget is None else budget ** (1 / layers)


def _activation(options: ModelOptions) -> nn.Module:
    return MaxMin(axis=1) if options.family.startswith("lipschitz") else nn.ReLU()


def _linear(inputs: int, outputs: int, norm: float | None) -> nn.Linear:
    return nn.Linear(inputs, outputs) if norm is None else lipschitz_linear(inputs, outputs, norm)


def _halving(inputs: int, outputs: int, norm: float | None) -> nn.Conv2d:
    if norm is None:
        return nn.Conv2d(inputs, outputs, 4, stride=2, padding=1)
    return lipschitz_conv2d(inputs, outputs, 4, stride=2, padding=1, norm=norm)


def _doubling(inputs: int, outputs: int, norm: float | None) -> nn.ConvTranspose2d:
    if norm is None:
        return nn.ConvTranspose2d(inputs, outputs, 4, stride=2, padding=1)
    return lipschitz_conv_transpose2d(inputs, outputs, 4, stride=2, padding=1, norm=norm)
