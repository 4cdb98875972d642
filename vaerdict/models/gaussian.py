"""A VAE made of any two torch modules: the native models and a user's own are instances of the same class."""

import math
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, get_args

import torch
from torch import Tensor, nn

from vaerdict.lipschitz import Scale, Select
from vaerdict.options import Spread, require, require_known
from vaerdict.vae import Posterior, borrowed


class SquareRoot(nn.Module):
    """Standard deviation from variance."""

    def forward(self, variance: Tensor) -> Tensor:
        """Take the root of each value."""
        return variance.sqrt()


class HalfExponential(nn.Module):
    """Standard deviation from log-variance."""

    def forward(self, log_variance: Tensor) -> Tensor:
        """Take the exponential of half of each value."""
        return (log_variance / 2).exp()


class Pair(nn.Module):
    """Pick one of the two tensors that an encoder returned."""

    def __init__(self, index: int) -> None:
        super().__init__()
        self.index = index

    def forward(self, outputs: Sequence[Tensor]) -> Tensor:
        """Give the tensor at the index."""
        return outputs[self.index]

    def extra_repr(self) -> str:
        """Show the index."""
        return f"{self.index}"


class GaussianVAE(nn.Module):
    """A VAE with a diagonal Gaussian posterior, in the contract of `vaerdict.vae.BoundableVAE`.

    Args:
        encoder: from images `[B, *input_shape]` to a pair `(mean, spread)`, or to one tensor that holds the mean in
            its first `latent_shape[0]` channels (axis 1) and the spread in the rest. With a constant spread it gives
            the mean alone.
        decoder: from latents `[B, *latent_shape]` to mean reconstructions `[B, *input_shape]`.
        name: how tables call the model.
        input_shape: shape of one image, `(C, H, W)`.
        latent_shape: shape of one latent, `(d,)` or with further axes.
        spread: what the encoder gives beside the mean: `std`, `variance` or `log_variance`; `bounded`, a number whose
            sigmoid times `std` is the standard deviation; or `constant`, nothing: it is `std` always.
        std: the constant or the bound, in latent units.
        input_range: the least and the greatest value of a pixel.
        returns_pair: whether the encoder returns a pair.
    """

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        *,
        name: str,
        input_shape: tuple[int, ...],
        latent_shape: tuple[int, ...],
        spread: Spread,
        std: float | None = None,
        input_range: tuple[float, float] = (0.0, 1.0),
        returns_pair: bool = False,
    ) -> None:
        super().__init__()
        require_known("spread", [spread], get_args(Spread))
        fixed = spread in ("constant", "bounded")
        require((std is not None) == fixed, f"`std` {'given' if fixed else 'not given'} with spread {spread!r}", std)
        require(std is None or 0 < std < math.inf, "a finite `std` > 0", std)
        require(latent_shape != () and min(latent_shape) > 0, "a `latent_shape` of positive sizes", latent_shape)
        require(input_range[0] < input_range[1], "an increasing `input_range`", input_range)
        require(not (spread == "constant" and returns_pair), "no pair with a constant spread", "a pair")
        self.name = name
        self.input_shape = tuple(input_shape)
        self.latent_shape = tuple(latent_shape)
        self.latent = torch.Size(latent_shape).numel()
        self.input_range = (float(input_range[0]), float(input_range[1]))
        self.spread = spread
        self.std = math.nan if std is None else float(std)
        self.returns_pair = returns_pair
        self.encoder = encoder
        self.decoder = decoder

    def encode(self, images: Tensor) -> Posterior:
        """Give the posterior of images `[B, *input_shape]`: mean and standard deviation `[B, latent]`."""
        outputs = self.encoder(images)
        if self.spread == "constant":
            mean = outputs.flatten(1)
            return Posterior(mean, torch.full_like(mean, self.std))
        mean = self._mean_part(outputs).flatten(1)
        std = self._to_std(self._spread_part(outputs)).flatten(1)
        return Posterior(mean, std.expand_as(mean))

    def decode(self, latents: Tensor) -> Tensor:
        """Give the mean reconstructions `[B, *input_shape]` of latents `[B, latent]`."""
        return self.decoder(latents.unflatten(1, self.latent_shape))

    @property
    def mean_map(self) -> nn.Module:
        """The map from images to posterior means, as one module."""
        part = nn.Identity() if self.spread == "constant" else self._mean_part
        return _named(encoder=self.encoder, mean=part, flat=nn.Flatten())

    @property
    def std_map(self) -> nn.Module | None:
        """The map from images to standard deviations, as one module; None where they are constant."""
        if self.spread == "constant":
            return None
        return _named(encoder=self.encoder, spread=self._spread_part, std=self._to_std, flat=nn.Flatten())

    @property
    def decoder_map(self) -> nn.Module:
        """The map from latents to reconstructions, as one module."""
        return _named(latents=nn.Unflatten(1, self.latent_shape), decoder=self.decoder)

    @property
    def _mean_part(self) -> nn.Module:
        return Pair(0) if self.returns_pair else Select(0, self.latent_shape[0])

    @property
    def _spread_part(self) -> nn.Module:
        return Pair(1) if self.returns_pair else Select(self.latent_shape[0], None)

    @property
    def _to_std(self) -> nn.Module:
        kinds = {
            "std": nn.Identity(),
            "variance": SquareRoot(),
            "log_variance": HalfExponential(),
            "bounded": nn.Sequential(nn.Sigmoid(), Scale(self.std)),
        }
        return kinds[self.spread]

    def extra_repr(self) -> str:
        """Show the facts that the weights do not hold: they are part of the model's fingerprint."""
        names = ("name", "spread", "std", "input_shape", "latent_shape", "input_range", "returns_pair")
        return ", ".join(f"{name}={getattr(self, name)!r}" for name in names)


def _named(**parts: nn.Module) -> nn.Sequential:
    """Give a sequence whose layers are named as in the model, for the messages about them."""
    return nn.Sequential(OrderedDict(parts))


def wrap(
    encoder: nn.Module,
    decoder: nn.Module,
    *,
    input_shape: tuple[int, ...],
    latent_shape: tuple[int, ...],
    spread: Spread,
    std: float | None = None,
    input_range: tuple[float, float] = (0.0, 1.0),
    name: str = "model",
) -> GaussianVAE:
    """Make any two torch modules a VAE that can be certified and attacked. See `GaussianVAE` for the arguments.

    The two maps are tried on one blank image, so that shapes which do not fit are found here.

    Raises:
        ValueError: the encoder's output does not fit `spread` and `latent_shape`, or the decoder's `input_shape`; a
            standard deviation is not a positive number.

    >>> encoder, decoder = nn.Sequential(nn.Flatten(), nn.Linear(4, 6)), nn.Linear(3, 4)
    >>> decoder = nn.Sequential(decoder, nn.Unflatten(1, (1, 2, 2)))
    >>> vae = wrap(encoder, decoder, input_shape=(1, 2, 2), latent_shape=(3,), spread="log_variance")
    >>> vae.encode(torch.zeros(5, 1, 2, 2)).std.shape
    torch.Size([5, 3])
    """
    example = next(iter(encoder.parameters()), torch.zeros(()))
    blank = torch.full((1, *input_shape), float(input_range[0]), device=example.device, dtype=example.dtype)
    with borrowed(nn.ModuleList([encoder, decoder])), torch.no_grad():
        outputs = _tried(f"an encoder of images {tuple(blank.shape)}", encoder, blank)
        pair = isinstance(outputs, tuple | list)
        kinds = [type(part).__name__ for part in outputs] if pair else type(outputs).__name__
        fits = all(isinstance(part, Tensor) for part in (outputs if pair else [outputs]))
        require(fits and (not pair or len(outputs) == 2), "an encoder that gives a tensor or a pair of them", kinds)
        vae = GaussianVAE(
            encoder,
            decoder,
            name=name,
            input_shape=input_shape,
            latent_shape=latent_shape,
            spread=spread,
            std=std,
            input_range=input_range,
            returns_pair=pair,
        )
        _check_fit(vae, blank)
    return vae


def _check_fit(vae: GaussianVAE, blank: Tensor) -> None:
    posterior = _tried(f"an encoder's output that fits spread {vae.spread!r}", vae.encode, blank)
    shape = tuple(posterior.mean.shape)
    require(shape == (1, vae.latent), f"posterior means of shape {(1, vae.latent)}", shape)
    positive = bool((posterior.std > 0).all() and torch.isfinite(posterior.std).all())
    require(positive, "positive finite standard deviations", f"{posterior.std.flatten()[:4].tolist()} on a blank image")
    decode = f"a decoder of latents {(1, *vae.latent_shape)}"
    shape = _tried(decode, lambda latents: tuple(vae.decode(latents).shape), posterior.mean)
    require(shape == (1, *vae.input_shape), f"reconstructions of shape {(1, *vae.input_shape)}", shape)


def _tried(what: str, compute: Callable[[Tensor], Any], values: Tensor) -> Any:
    try:
        return compute(values)
    except (AttributeError, IndexError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(f"expected {what}, got {type(error).__name__}: {error}") from None
