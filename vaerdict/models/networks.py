"""The native architectures, built from `ModelOptions`."""

import math
from collections.abc import Callable
from itertools import pairwise
from typing import get_args, get_type_hints

from torch import nn

from vaerdict.lipschitz import MaxMin, lipschitz_linear
from vaerdict.models.gaussian import GaussianVAE
from vaerdict.options import ModelOptions, require, require_known

_Dense = Callable[[int, int], nn.Linear]


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
        ValueError: Bernoulli with another range; the convolutional family with sides that 4 does not divide; a family,
            spread or likelihood that is not known.

    >>> vae = build_vae(ModelOptions(latent=3, hidden=(8,)), name="toy", input_shape=(1, 4, 4))
    >>> vae.latent, vae.spread
    (3, 'constant')
    """
    kinds = get_type_hints(ModelOptions)
    for choice in ("family", "spread", "likelihood"):  # a configuration read from a file is checked by nobody else
        require_known(choice, [getattr(options, choice)], get_args(kinds[choice]))
    bernoulli = options.likelihood == "bernoulli"
    if bernoulli:
        require(tuple(input_range) == (0.0, 1.0), "pixels in [0, 1] with the Bernoulli likelihood", input_range)
    outputs = options.latent + {"constant": 0, "bounded": 1, "log_variance": options.latent}[options.spread]
    build = _convolutional if options.family == "conv" else _dense
    encoder, decoder = build(options, input_shape, outputs, constrained)
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
    """Build a dense encoder and its mirror, the Lipschitz budget shared equally among the layers."""
    pixels = math.prod(input_shape)
    widths = [pixels, *options.hidden, outputs]
    mirror = [options.latent, *reversed(options.hidden), pixels]
    slope = 0.25 if options.likelihood == "bernoulli" else 1.0  # of the decoder's last activation
    layers = len(widths) - 1
    lipschitz = options.family == "lipschitz"

    def dense(budget: float) -> _Dense:
        return lambda i, o: (
            lipschitz_linear(i, o, budget ** (1 / layers)) if lipschitz and constrained else nn.Linear(i, o)
        )

    activation = MaxMin if lipschitz else nn.ReLU
    encoder = nn.Sequential(nn.Flatten(), *_chain(widths, dense(options.b), activation))
    decoder = nn.Sequential(*_chain(mirror, dense(options.a / slope), activation), nn.Unflatten(1, input_shape))
    return encoder, decoder


def _chain(widths: list[int], dense: _Dense, activation: type[nn.Module]) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        layers += [dense(inputs, outputs), activation()]
    return layers[:-1]


def _convolutional(
    options: ModelOptions, input_shape: tuple[int, ...], outputs: int, constrained: bool
) -> tuple[nn.Sequential, nn.Sequential]:
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
        nn.Linear(options.latent, features),
        nn.ReLU(),
        nn.Unflatten(1, inner),
        nn.ConvTranspose2d(32, 16, 4, stride=2, padding=1),
        nn.ReLU(),
        nn.ConvTranspose2d(16, channels, 4, stride=2, padding=1),
    )
    return encoder, decoder
