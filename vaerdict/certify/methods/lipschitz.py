"""Certificates from Lipschitz constants: Barrett's, isotropic, by reflection, by coordinates (THEORY 4.1 to 4.3)."""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float64
from torch import Tensor

from vaerdict.certify.closed_form import barrett_margins
from vaerdict.certify.margin import solve_margin
from vaerdict.certify.methods.batch import Batch, Margins, Method, per_image, proved_where_rounded
from vaerdict.certify.model import ModelBounds
from vaerdict.certify.probability import isotropic_probability
from vaerdict.certify.quadratic import CentralTable
from vaerdict.certify.reach import Change
from vaerdict.certify.reflection import coordinate_probability, reflection_probability, solve_reflection
from vaerdict.options import require

Spread = Float64[Tensor, "batch latent"]
Bound = Callable[[Float64[Tensor, " batch"], Float64[Tensor, " batch"]], Float64[Tensor, " batch"]]
"""From the latent distance that is allowed and the mean's shift to a probability."""

MOST_LATENTS = 1024
"""Sums over more variances are not bounded: the contour's terms grow beyond float64."""


def within(
    change: Change, most: Float64[Tensor, " batch"], limit: Float64[Tensor, " batch"]
) -> Float64[Tensor, " batch"]:
    """Give the largest radii found up to which a change is verified to be less than so much."""
    return solve_margin(lambda rho: most - change.at(rho), 0.0, limit)


def is_random(model: ModelBounds) -> str | None:
    """Give the reason why certificates of random reconstructions do not apply."""
    return "nothing is random in `mean` reconstructions" if model.options.reconstruction == "mean" else None


def _barrett_reason(model: ModelBounds) -> str | None:
    if model.options.reconstruction != "sampled" or model.options.norm != "2":
        return "published for two samples and the L2 norm"
    return model.sensitivity.missing("decoder", "mean", "std")


def _barrett(batch: Batch) -> Margins:
    """Give the margins as published, for the network as it is evaluated."""
    c, mean_off = float(batch.model.sensitivity.std), batch.movement.mean.rounding
    copies = 1 if batch.model.sensitivity.shared_std is None else batch.std.shape[1]  # of the one that is computed
    std_off = math.sqrt(copies) * batch.movement.std_change.rounding
    values = barrett_margins(batch.std, a=1.0, b=batch.b, c=c, r=batch.t, p=batch.p, mean_off=mean_off, std_off=std_off)
    values = torch.minimum(values, batch.movement.limit)  # the rounding was bounded up to there
    constants = per_image(
        a=batch.a, b=batch.b, c=c, std=batch.std, mean_rounding=mean_off, decoder_rounding=batch.decoder_rounding
    )
    return Margins(values=values, constants=constants)


def _isotropic_reason(model: ModelBounds) -> str | None:
    missing = is_random(model) or model.sensitivity.missing("decoder", "mean", "std")
    if missing is None and model.sensitivity.shared_std is None:
        return "the posterior's coordinates do not share one standard deviation"
    return missing


def _isotropic_bound(clean: Spread, moved: Spread) -> Bound:
    spread = torch.hypot(moved[:, 0], clean[:, 0])
    return lambda t, shift: isotropic_probability(clean.shape[1], t, shift, spread)


def _isotropic(batch: Batch) -> Margins:
    require(bool((batch.std == batch.std[:, :1]).all()), "one standard deviation for all coordinates", "several")
    if batch.model.vae.std_map is None:
        return _with_constant_spread(batch, _isotropic_bound)
    moved, clean = batch.proved_movement, clean_spread(batch)
    shift = moved.mean

    def probability(rho: Tensor) -> Tensor:
        return _isotropic_bound(clean, moved.std_range(rho)[1])(batch.t, shift.at(rho))

    return _lipschitz_margins(batch, solve_margin(probability, batch.p, moved.limit))


def clean_spread(batch: Batch) -> Spread:
    """Give the spread of what a moved sample is compared with."""
    return torch.zeros_like(batch.std) if batch.anchored else batch.std


def one_spread(batch: Batch) -> Spread:
    """Give the standard deviations that all images share, where they are constant."""
    require(bool((batch.std == batch.std[:1]).all()), "the same standard deviations for all images", "others")
    return batch.std[:1]


def _with_constant_spread(batch: Batch, make: Callable[[Spread, Spread], Bound]) -> Margins:
    """Find the largest shift of the mean once for all images with the same `t`, then each one's radius."""
    t, index = batch.t.unique(return_inverse=True)
    bound = make(*(spread.expand(len(t), -1) for spread in (clean_spread(batch)[:1], one_spread(batch))))
    most = solve_margin(lambda shift: bound(t, shift), batch.p, t)[index]
    radii = within(batch.proved_movement.mean, most, batch.movement.limit)
    return _lipschitz_margins(batch, torch.where(most > 0, radii, 0.0))


def _reflection_reason(model: ModelBounds) -> str | None:
    if model.vae.latent > MOST_LATENTS:
        return f"made for up to {MOST_LATENTS} latents, not for {model.vae.latent}"
    return is_random(model) or model.sensitivity.missing("decoder", "mean") or model.missing_std(boxes=False)


def _reflection_bound(clean: Spread, moved: Spread) -> Bound:
    table = CentralTable.of(moved.square() + clean.square())
    return lambda t, shift: reflection_probability(table, t, shift)


def _reflection(batch: Batch) -> Margins:
    if batch.model.vae.std_map is None:
        return _with_constant_spread(batch, _reflection_bound)
    moved, clean = batch.proved_movement, clean_spread(batch).square()
    values = solve_reflection(
        lambda rho: moved.std_range(rho)[1].square() + clean,
        t=batch.t,
        shift=moved.mean.at,
        p=batch.p,
        upper=moved.limit,
    )
    return _lipschitz_margins(batch, values)


def _lipschitz_margins(batch: Batch, values: Float64[Tensor, " batch"]) -> Margins:
    movement = batch.proved_movement
    shift = movement.mean
    moved = {} if batch.model.vae.std_map is None else {"std_moved": movement.std_range(values)[1]}
    constants = per_image(
        a=batch.a,
        b=batch.b,
        std=batch.std,
        **moved,
        shift=shift.at(values),
        shift_by=shift.winners(values),
        mean_rounding=shift.rounding,
        decoder_rounding=batch.decoder_rounding,
    )
    return Margins(values=values, constants=constants, strengths=[proved_where_rounded(batch)] * len(values))


def _coordinate_reason(model: ModelBounds) -> str | None:
    if model.vae.std_map is not None:
        return "the posterior's standard deviation depends on the image"
    return _reflection_reason(model)


def _coordinate(batch: Batch) -> Margins:
    """Use bounds on every coordinate's move, by boxes or by balls."""
    movement, spread = batch.movement, batch.std.square() + clean_spread(batch).square()

    def probability(rho: Tensor) -> Tensor:
        shifts = movement.coordinates.at(rho)
        known = torch.isfinite(shifts).all(1)
        bound = coordinate_probability(spread, torch.where(known[:, None], shifts, 0.0), batch.t)
        return torch.where(known, bound, 0.0)

    values = solve_margin(probability, batch.p, movement.limit)
    winners = movement.coordinates.winners(values)
    constants = per_image(
        a=batch.a,
        b=batch.b,
        std=batch.std,
        shifts=movement.coordinates.at(values),
        shift_by=winners,
        mean_rounding=movement.coordinates.rounding,
        decoder_rounding=batch.decoder_rounding,
    )
    return Margins(values=values, constants=constants)


BARRETT = Method(kind="certificate", strength="numerical", reason=_barrett_reason, margins=_barrett)
ISOTROPIC = Method(kind="certificate", strength="proved", reason=_isotropic_reason, margins=_isotropic)
REFLECTION = Method(kind="certificate", strength="proved", reason=_reflection_reason, margins=_reflection)
COORDINATE = Method(kind="certificate", strength="numerical", reason=_coordinate_reason, margins=_coordinate)
