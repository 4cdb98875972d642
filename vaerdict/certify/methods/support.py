"""Support sets: latents that hold enough mass of every reachable posterior, pushed through the decoder (THEORY 4.9)."""

import torch
from jaxtyping import Float64
from scipy.special import ndtri
from torch import Tensor

from vaerdict.certify.methods.batch import Batch, Margins, Method, per_image
from vaerdict.certify.model import ModelBounds
from vaerdict.certify.propagation import BoundedMap, bound_reconstruction_change

_SPARE = 1e-6  # of probability, for the rounding of quantiles
_STEPS = 6


def _reason(model: ModelBounds) -> str | None:
    if isinstance(model.bounded_decoder, str):
        return model.bounded_decoder
    return None if not isinstance(model.bounded_mean, str) else model.sensitivity.missing("mean")


def _support(batch: Batch) -> Margins:
    """Bisect the radius; each step is one bound propagation through the decoder for all images."""
    decoder = batch.model.bounded_decoder
    assert isinstance(decoder, BoundedMap)
    random = batch.options.reconstruction != "mean"
    wide = _quantile(batch.p, batch.std.shape[1], 1 if batch.anchored else 2) if random else 0.0
    still = torch.zeros_like(batch.movement.limit)
    if random and not batch.anchored:
        still = _change(decoder, batch, wide * batch.std)
    values, failed = torch.zeros_like(still), batch.movement.limit
    changes = still.clone()
    for _ in range(_STEPS):
        middle = (values + failed) / 2
        change = _change(decoder, batch, _half_widths(batch, middle, wide)) + still
        holds = change <= batch.r
        values, failed = torch.where(holds, middle, values), torch.where(holds, failed, middle)
        changes = torch.where(holds, change, changes)
    constants = per_image(tau=changes, quantile=wide)
    return Margins(values=values, constants=constants)


def _quantile(p: float, latent: int, samples: int) -> float:
    """Give `k` such that a box of `k` standard deviations holds all of so many samples with a probability above `p`."""
    each = (p + min(_SPARE, (1 - p) / 2)) ** (1 / (latent * samples))
    return float(ndtri((1 + each) / 2)) * (1 + 1e-12)


def _half_widths(batch: Batch, rho: Tensor, wide: float) -> Float64[Tensor, "batch latent"]:
    _, high = batch.movement.std_range(rho)
    return batch.movement.coordinates.at(rho) + (wide * high if wide else 0.0)


def _change(
    decoder: BoundedMap, batch: Batch, half_widths: Float64[Tensor, "batch latent"]
) -> Float64[Tensor, " batch"]:
    """Bound how far reconstructions move in boxes around the means; infinite where boxes are, or nothing is bounded."""
    known = torch.isfinite(half_widths).all(1)
    change = torch.full_like(half_widths[:, 0], torch.inf)
    if bool(known.any()):
        mean = batch.posterior.mean[known].double()
        unit = 2.0 ** (-24 if batch.images.dtype == torch.float32 else -53)
        widths = half_widths[known] * (1 + 1e-12) + 4 * unit * (mean.abs() + half_widths[known])  # latents are rounded
        change[known] = bound_reconstruction_change(decoder, mean, (mean - widths, mean + widths)).to(change)
    return change


SUPPORT = Method(kind="certificate", strength="numerical", reason=_reason, margins=_support)
