"""How far the posterior can move when the input moves: global Lipschitz constants (THEORY 2)."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vaerdict.lipschitz import LipschitzBound, NoSoundBound, bound_lipschitz, round_up
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
    """Bound the constants of a model in evaluation mode. `images` show only whether coordinates share their spread."""
    std, shared_std = _std_constants(vae, images[:1])
    return Sensitivity(
        decoder=_bound("decoder", vae.decoder_map), mean=_bound("mean", vae.mean_map), std=std, shared_std=shared_std
    )


def _bound(role: str, module: nn.Module) -> LipschitzBound | str:
    try:
        return bound_lipschitz(module)
    except NoSoundBound as reason:
        return f"{role}: {reason}"


def _std_constants(vae: BoundableVAE, image: Tensor) -> tuple[float | str, float | None]:
    if vae.std_map is None:
        std = vae.encode(image).std
        return 0.0, 0.0 if bool((std == std[:, :1]).all()) else None
    bound = _bound("standard deviation", vae.std_map)
    if isinstance(bound, str):
        return bound, None
    with torch.no_grad():
        columns = vae.std_map(image).flatten(1).shape[1]
    if columns == vae.latent > 1:
        return float(bound), None
    return round_up(round_up(math.sqrt(vae.latent)) * float(bound)), float(bound)
