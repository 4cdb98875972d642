"""Certificates of `mean` reconstructions, in which nothing is random (THEORY 4.8)."""

from vaerdict.certify.methods.batch import Batch, Margins, Method, per_image, proved_where_rounded
from vaerdict.certify.methods.lipschitz import within
from vaerdict.certify.model import ModelBounds


def _reason(model: ModelBounds) -> str | None:
    if model.options.reconstruction != "mean":
        return f"certifies `mean` reconstructions, not `{model.options.reconstruction}` ones"
    return model.sensitivity.missing("decoder", "mean")


def _deterministic(batch: Batch) -> Margins:
    shift = batch.proved_movement.mean
    values = within(shift, batch.t, batch.movement.limit)
    constants = per_image(
        a=batch.a,
        b=batch.b,
        shift=shift.at(values),
        shift_by=shift.winners(values),
        mean_rounding=shift.rounding,
        decoder_rounding=batch.decoder_rounding,
    )
    return Margins(values=values, constants=constants, strengths=[proved_where_rounded(batch)] * len(values))


DETERMINISTIC = Method(kind="certificate", strength="proved", reason=_reason, margins=_deterministic)
