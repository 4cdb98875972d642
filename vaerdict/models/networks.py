"""The native architectures, built from `ModelOptions`."""

import math
from itertools import pairwise

from torch import nn

from vaerdict.lipschitz import MaxMin, lipschitz_linear
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
        ValueError: Bernoulli with another range; the convolutional family with sides that 4 does not divide.

    >>> vae = build_vae(ModelOptions(latent=3, hidden=(8,)), name="toy", input_shape=(1, 4, 4))
    >>> vae.latent, vae.spread
    (3, 'constant')
    """
    bernoulli = options.likelihood == "bernoulli"
    if bernoulli:
        require(tuple(input_range) == (0.0, 1.0), "pixels in [0, 1] with the Bernoulli likelihood", input_range)
    outputs = options.latent + {"constant": 0, "bounded": 1, "log_variance": options.latent}[options.spread]
    if options.family == "conv":
        encoder, decoder = _convolutional(options.latent, input_shape, outputs)
    else:
        encoder, decoder = _dense(options, input_shape, outputs, constrained)
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
    options: ModelOptions, input_shape: tuple[int, ...], outputs: int, constrained: bool
) -> tuple[nn.Sequential, nn.Sequential]:
    """Build a dense encoder and its mirror."""
    pixels = math.prod(input_shape)
    widths, mirror = [pixels, *options.hidden, outputs], [options.latent, *reversed(options.hidden), pixels]
    if options.family == "plain":
        encoder, decoder = _plain_layers(widths), _plain_layers(mirror)
    else:
        slope = 0.25 if options.likelihood == "bernoulli" else 1.0  # of the decoder's last activation
        encoder = _lipschitz_layers(widths, options.b, constrained)
        decoder = _lipschitz_layers(mirror, options.a / slope, constrained)
    return nn.Sequential(nn.Flatten(), *encoder), nn.Sequential(*decoder, nn.Unflatten(1, input_shape))


def _plain_layers(widths: list[int]) -> list[nn.Module]:
    return _with_activations([nn.Linear(i, o) for i, o in pairwise(widths)], nn.ReLU)


def _lipschitz_layers(widths: list[int], budget: float, constrained: bool) -> list[nn.Module]:
    """Share the budget equally among the layers."""
    norm = budget ** (1 / (len(widths) - 1))
    dense = [lipschitz_linear(i, o, norm) if constrained else nn.Linear(i, o) for i, o in pairwise(widths)]
    return _with_activations(dense, MaxMin)


def _with_activations(dense: list[nn.Linear], activation: type[nn.Module]) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for layer in dense:
        layers += [layer, activation()]
    return layers[:-1]


def _convolutional(latent: int, input_shape: tuple[int, ...], outputs: int) -> tuple[nn.Sequential, nn.Sequential]:
    """Build two strided convolutions and their mirror."""
    channels, height, width = input_shape
    require(height % 4 == 0 and width % 4 == 0, "image sides that 4 divides for the conv family", (height, width))
    inner = (32, height // 4, width // 4)
    features = math.prod(inner)
    encoder = nn.Sequential(
        nn.Conv2d(channels, 16, 4, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 4, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(features, outputs),
    )
    decoder = nn.Sequential(
        nn.Linear(latent, features),
        nn.ReLU(),
        nn.Unflatten(1, inner),
        nn.ConvTranspose2d(32, 16, 4, stride=2, padding=1),
        nn.ReLU(),
        nn.ConvTranspose2d(16, channels, 4, stride=2, padding=1),
    )
    return encoder, decoder
