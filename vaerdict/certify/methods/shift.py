"""Certificates for any decoder: the event's probability by Monte Carlo, moved with the posterior (THEORY 4.4, 4.5)."""

from jaxtyping import Float64
from torch import Tensor

from vaerdict.certify.margin import solve_margin
from vaerdict.certify.methods.batch import Batch, Margins, Method, per_image
from vaerdict.certify.methods.lipschitz import is_random
from vaerdict.certify.model import ModelBounds
from vaerdict.certify.moving import moving_probability
from vaerdict.certify.probability import gaussian_shift_probability
from vaerdict.certify.statistics import clopper_pearson_lower, require_samples

DRAWS = "clean"
"""The draws of the clean event: one confidence statement, whatever is concluded from it."""


def _movable(model: ModelBounds) -> str | None:
    """Give the reason why nothing bounds the posterior mean's move."""
    missing = model.sensitivity.missing("mean")
    boxed = not isinstance(model.bounded_mean, str)
    return is_random(model) or (None if boxed else missing)


def _shift_reason(model: ModelBounds) -> str | None:
    if model.vae.std_map is not None:
        return "the posterior's standard deviation depends on the image (see `shift_moving`)"
    return _movable(model)


def _moving_reason(model: ModelBounds) -> str | None:
    if model.vae.std_map is None:
        return "the posterior's standard deviation is constant (see `shift`)"
    return _movable(model) or model.missing_std(boxes=True)


def _clean(batch: Batch) -> Float64[Tensor, " batch"]:
    """Bound the clean event's probability from below, with the confidence."""
    trials, confidence = batch.options.samples, batch.confidence
    require_samples("samples", trials, batch.p, confidence)
    return batch.std.new_tensor([clopper_pearson_lower(count, trials, confidence) for count in batch.clean_counts])


def _shift(batch: Batch) -> Margins:
    clean, movement = _clean(batch), batch.movement
    values = solve_margin(
        lambda rho: gaussian_shift_probability(clean, movement.whitened.at(rho)), batch.p, movement.limit
    )
    return _margins(batch, values)


def _shift_moving(batch: Batch) -> Margins:
    clean, movement = _clean(batch), batch.movement

    def probability(rho: Tensor) -> Tensor:
        low, high = movement.std_range(rho)
        return moving_probability(clean, movement.whitened.at(rho), low / batch.std, high / batch.std)

    values = solve_margin(probability, batch.p, movement.limit)
    low, high = movement.std_range(values)
    return _margins(batch, values, ratio_low=low / batch.std, ratio_high=high / batch.std)


def _margins(batch: Batch, values: Float64[Tensor, " batch"], **moved: Tensor) -> Margins:
    whitened = batch.movement.whitened
    constants = per_image(
        b=batch.b,
        std_min=batch.std.amin(1),
        shift=whitened.at(values),
        shift_by=whitened.winners(values),
        mean_rounding=whitened.rounding,
        successes=batch.clean_counts,
        samples=batch.options.samples,
        alpha=1 - batch.confidence,
        **moved,
    )
    return Margins(
        values=values,
        constants=constants,
        confidence=batch.confidence,
        n_forward=1 + 2 * batch.options.samples,
    )


SHIFT = Method(kind="certificate", strength="statistical", reason=_shift_reason, margins=_shift, statistics=DRAWS)
SHIFT_MOVING = Method(
    kind="certificate", strength="statistical", reason=_moving_reason, margins=_shift_moving, statistics=DRAWS
)
