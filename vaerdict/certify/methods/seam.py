"""Reflection behind the decoder's first layer: the encoder's last layer and it count as one matrix (THEORY 2, 4.3).

With `W` that layer and `a` the constant of the rest, `|g(z') - g(z)| <= a |W (z' - z)|`. Coordinates that the decoder
ignores then neither add noise nor move.
"""

import torch
from jaxtyping import Float64
from torch import Tensor

from vaerdict.certify.margin import solve_margin
from vaerdict.certify.methods.batch import Batch, Margins, Method, per_image
from vaerdict.certify.methods.lipschitz import MOST_LATENTS, clean_spread, is_random, one_spread
from vaerdict.certify.model import ModelBounds
from vaerdict.certify.quadratic import CentralTable
from vaerdict.certify.reach import Change, slope_source
from vaerdict.certify.reflection import reflection_probability
from vaerdict.certify.seam import Seam

_UP = 1 + 1e-9  # for the rounding of eigenvalues: far above it, but not verified; hence `numerical`


def _reason(model: ModelBounds) -> str | None:
    if model.vae.std_map is not None:
        return "the posterior's standard deviation depends on the image"
    if model.vae.latent > MOST_LATENTS:
        return f"made for up to {MOST_LATENTS} latents, not for {model.vae.latent}"
    missing = is_random(model) or model.sensitivity.missing("decoder", "mean")
    return missing or (model.seam if isinstance(model.seam, str) else None)


def _seam(batch: Batch) -> Margins:
    seam = batch.model.seam
    assert isinstance(seam, Seam)
    spread = one_spread(batch).square() + clean_spread(batch)[:1].square()
    variances = _eigenvalues(seam.gram.to(spread), spread).expand(len(batch.std), -1)
    movement = batch.proved_movement
    rounding = batch.decoder_error(movement.mean.at(movement.limit))  # the seam does not bound the latents
    t = ((batch.r - 2 * rounding) / seam.a).clamp(min=0.0) * (1 - 2.0**-50)
    whole = slope_source("global", movement.limit[:, None], torch.full_like(t, seam.b)[:, None] * movement.to_l2)
    shift = Change(sources=[whole], rounding=movement.mean.rounding * seam.norm)
    table = CentralTable.of(variances)
    values = solve_margin(lambda rho: reflection_probability(table, t, shift.at(rho)), batch.p, movement.limit)
    constants = per_image(
        a_rest=seam.a,
        b_seam=seam.b,
        std=batch.std,
        variances=variances,
        shift=shift.at(values),
        mean_rounding=shift.rounding,
        decoder_rounding=rounding,
    )
    return Margins(values=values, constants=constants)


def _eigenvalues(
    gram: Float64[Tensor, "latent latent"], spread: Float64[Tensor, "batch latent"]
) -> Float64[Tensor, "batch latent"]:
    """Bound the variances of `W z` along its axes: the eigenvalues of `D^(1/2) W^T W D^(1/2)`."""
    root = spread.sqrt()
    scaled = root[:, :, None] * gram * root[:, None, :]
    lost = (_UP - 1) * scaled.diagonal(dim1=1, dim2=2).sum(1, keepdim=True)
    return torch.linalg.eigvalsh(scaled).clamp(min=0.0) + lost


SEAM = Method(kind="certificate", strength="numerical", reason=_reason, margins=_seam)
