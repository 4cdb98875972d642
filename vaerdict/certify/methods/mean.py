"""Certificates of `mean` reconstructions, in which nothing is random (THEORY 4.8)."""

import math
from typing import Any

import torch
from jaxtyping import Bool, Float64
from torch import Tensor

from vaerdict.certify.methods.batch import Batch, Margins, Method, per_image, proved_where_rounded
from vaerdict.certify.methods.lipschitz import within
from vaerdict.certify.methods.near import Allowed, allowed_distance
from vaerdict.certify.model import ModelBounds
from vaerdict.certify.movement import Movement, measure_movement
from vaerdict.vae import Posterior


def _reason(model: ModelBounds) -> str | None:
    if model.options.reconstruction != "mean":
        return f"certifies `mean` reconstructions, not `{model.options.reconstruction}` ones"
    return model.sensitivity.missing("decoder", "mean")


def _deterministic(batch: Batch) -> Margins:
    allowed = allowed_distance(batch)
    found = _moved(batch.proved_movement, allowed.t)
    for index in _ends_early(batch, allowed).nonzero().flatten().tolist():
        t = allowed.t[index : index + 1]
        farther = _moved(_movement_of(batch, index, float(t)), t)
        for name, column in found.items():
            column[index] = farther[name][0]
    values: Tensor = found.pop("values")
    constants = per_image(
        a=allowed.a, a_by=allowed.by, ball=allowed.ball, b=batch.b, decoder_rounding=allowed.rounding, **found
    )
    return Margins(values=values, constants=constants, strengths=[proved_where_rounded(batch)] * len(values))


def _moved(movement: Movement, t: Float64[Tensor, " batch"]) -> dict[str, Any]:
    """Give the largest radii within which means move by less than `t`, with what is written beside them."""
    shift = movement.mean
    values = within(shift, t, movement.limit)
    return {
        "values": values,
        "shift": shift.at(values),
        "shift_by": shift.winners(values),
        "mean_rounding": shift.rounding.clone(),
    }


def _ends_early(batch: Batch, allowed: Allowed) -> Bool[Tensor, " batch"]:
    """Say whose movement is bounded up to where the global constant ends, though the local one reaches farther."""
    movement, (low, high) = batch.proved_movement, batch.model.vae.input_range
    widest = (high - low) * math.sqrt(batch.images[0].numel())
    inside = movement.limit * movement.to_l2 < widest
    return torch.isfinite(allowed.ball) & inside & (movement.mean.at(movement.limit) < allowed.t)


def _movement_of(batch: Batch, index: int, t: float) -> Movement:
    one = slice(index, index + 1)
    posterior = Posterior(batch.posterior.mean[one], batch.posterior.std[one])
    return measure_movement(batch.model, batch.images[one], posterior, t, batch.options.norm).trusted()


DETERMINISTIC = Method(kind="certificate", strength="proved", reason=_reason, margins=_deterministic)
