"""How far the posterior can move when the input moves: global Lipschitz constants (THEORY 2)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vaerdict.lipschitz import LipschitzBound, NoSoundBound, bound_lipschitz, round_up
from vaerdict.options import require
from vaerdict.vae import BoundableVAE


@dataclass(frozen=True)
class Sensitivity:
    """Proved constants of one model; where there is none, the reason in words.

    Attributes:
        decoder: `a`, of the decoder.
        mean: `b`, of the posterior mean.
        std: `c`, of the vector of standard deviations; 0 where they are constant.
        shared_std: `c_1`, of the one standard deviation that all coordinates share; None where they differ.
    """

    decoder: LipschitzBound | str
    mean: LipschitzBound | str
    std: float | str
    shared_std: float | None

    def missing(self, *names: str) -> str | None:
        """Give the reason why one of the named constants does not exist, or None where all do."""
        reasons = [value for value in (getattr(self, name) for name in names) if isinstance(value, str)]
        return "; ".join(reasons) or None


def measure_sensitivity(vae: BoundableVAE, images: Float[Tensor, "batch ..."]) -> Sensitivity:
    """Bound the constants of a model in evaluation mode.

    The first image shows whether coordinates share their spread, and that the maps to be bounded are the ones that the
    model computes.

    Raises:
        ValueError: `mean_map`, `std_map` or `decoder_map` is not what `encode` and `decode` compute.
    """
    image = images[:1]
    posterior = vae.encode(image.clone())
    _check_same("mean_map", vae.mean_map(image.clone()), posterior.mean)
    _check_same("decoder_map", vae.decoder_map(posterior.mean.clone()), vae.decode(posterior.mean.clone()))
    std, shared_std = _std_constants(vae, image, posterior.std)
    return Sensitivity(
        decoder=_bound("decoder", vae.decoder_map, (vae.latent,)),
        mean=_bound("mean", vae.mean_map, image.shape[1:]),
        std=std,
        shared_std=shared_std,
    )


def _check_same(name: str, mapped: Tensor, computed: Tensor) -> None:
    slack = 1e-5 * float(computed.detach().abs().nan_to_num().max())
    same = mapped.shape == computed.shape and torch.allclose(mapped, computed, rtol=1e-4, atol=slack, equal_nan=True)
    require(same, f"`{name}` to compute what the model computes", "other values")


def _bound(role: str, module: nn.Module, input_shape: Sequence[int]) -> LipschitzBound | str:
    try:
        return bound_lipschitz(module, tuple(input_shape))
    except NoSoundBound as reason:
        return f"{role}: {reason}"


def _std_constants(vae: BoundableVAE, image: Tensor, std: Tensor) -> tuple[float | str, float | None]:
    if vae.std_map is None:
        return 0.0, 0.0 if bool((std == std[:, :1]).all()) else None
    mapped = vae.std_map(image.clone())
    columns = mapped.shape[1]
    require(columns in (1, vae.latent), f"`std_map` to give 1 or {vae.latent} columns", columns)
    _check_same("std_map", mapped.expand_as(std), std)
    bound = _bound("standard deviation", vae.std_map, image.shape[1:])
    if isinstance(bound, str):
        return bound, None
    if columns > 1:
        return float(bound), None
    return round_up(round_up(math.sqrt(vae.latent)) * float(bound)), float(bound)
