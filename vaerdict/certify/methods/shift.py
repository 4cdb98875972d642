"""Certificates for any decoder: the event's probability by Monte Carlo, moved with the posterior (THEORY 4.4, 4.5)."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float64
from torch import Tensor

from vaerdict.certify.margin import solve_margin
from vaerdict.certify.methods.batch import Batch, Margins, Method, per_image
from vaerdict.certify.methods.lipschitz import is_random
from vaerdict.certify.model import ModelBounds
from vaerdict.certify.monte_carlo import count_images
from vaerdict.certify.movement import Ellipsoids
from vaerdict.certify.moving import moving_probability
from vaerdict.certify.probability import gaussian_shift_probability
from vaerdict.certify.statistics import clopper_pearson_lower, require_samples
from vaerdict.certify.wide import Reached, renyi_reach, widening_roots

DRAWS = "clean"
"""The draws of the clean event: one confidence statement, whatever is concluded from it."""

SCALES = (1.0, 1.25, 1.5, 1.75, 2.0, 2.5, 3.0, 4.0)
"""How much wider than the posterior the draws may be, in the direction of the largest moves."""

_FEW = 100
_STEPS = 14

_Radii = Float64[Tensor, " batch"]


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


@dataclass(frozen=True)
class _Clean:
    """What draws, some wider than the posterior, say of each unmoved image."""

    scales: Float64[Tensor, " batch"]
    roots: Float64[Tensor, "batch latent latent"] | None
    successes: list[int]
    bounds: Float64[Tensor, " batch"]
    """Lower bounds of the event's probability under the Gaussians drawn from."""


_Reach = Callable[[Batch, _Clean], Reached]


def _pilot(samples: int) -> int:
    """Give how many draws of each scale choose one."""
    return min(samples, max(_FEW, samples // 40))


def _count(batch: Batch, samples: int, roots: Tensor | None, purpose: str) -> list[int]:
    counts = count_images(
        batch.model.vae,
        batch.posterior,
        r=batch.r,
        anchored=batch.anchored,
        samples=samples,
        seed=batch.seed,
        sample_ids=batch.sample_ids,
        roots=roots,
        purpose=purpose,
    )
    return counts.tolist()


def _bounds(batch: Batch, counts: list[int], trials: int) -> Float64[Tensor, " batch"]:
    return batch.std.new_tensor([clopper_pearson_lower(count, trials, batch.confidence) for count in counts])


def _clean(batch: Batch, reach: _Reach) -> _Clean:
    """Choose how wide to draw by what a few draws promise, then draw again and bound the event's probability."""
    trials, few = batch.options.samples, _pilot(batch.options.samples)
    require_samples("samples", trials, batch.p, batch.confidence)
    ellipsoids = batch.movement.ellipsoids
    scales, roots = torch.ones_like(batch.std[:, 0]), None
    if ellipsoids is not None:
        choices = [widening_roots(ellipsoids.shapes[:, -1], scale) for scale in SCALES]
        promised = []
        for scale, root in zip(SCALES, choices, strict=True):
            shares = [min(count / few, 1 - 0.5 / few) for count in _count(batch, few, root, f"pilot/{scale}")]
            counts = [round(trials * share) for share in shares]
            ones = torch.full_like(scales, scale)
            promised.append(reach(batch, _Clean(ones, root, counts, _bounds(batch, counts, trials))).radii)
        best = torch.stack(promised).argmax(0)
        scales = scales.new_tensor(SCALES)[best]
        roots = torch.stack(choices, 1)[torch.arange(len(best)), best]
    counts = _count(batch, trials, roots, DRAWS)
    return _Clean(scales, roots, counts, _bounds(batch, counts, trials))


def _ends(
    batch: Batch, radii: Float64[Tensor, " batch"]
) -> tuple[Float64[Tensor, "batch latent"], Float64[Tensor, "batch latent"]]:
    """Bound the ratios of moved to unmoved standard deviations."""
    low, high = batch.movement.std_range(radii)
    return low / batch.std, high / batch.std


def _widely(batch: Batch, clean: _Clean) -> Reached:
    """Conclude from draws of any width: ball by ball, or where ratios grow with the radius by a search."""
    nothing = torch.zeros_like(clean.bounds)
    best, held, roots = Reached(nothing, nothing, nothing), batch.movement.ellipsoids, clean.roots
    if held is None or roots is None:
        return best

    def within(rho: _Radii, shapes: Float64[Tensor, "batch latent latent"], most: _Radii) -> Reached:
        ends, rounding = _ends(batch, rho), batch.movement.whitened.rounding
        return renyi_reach(clean.bounds, batch.p, roots, most, shapes, ends, rounding)

    if batch.model.vae.std_map is None:
        for radii, shapes in zip(held.radii.T, held.shapes.transpose(0, 1), strict=True):
            best = best.or_farther(within(radii, shapes, radii))
        return best
    any_radius = torch.full_like(nothing, math.inf)

    def room(rho: _Radii) -> _Radii:
        return 1 - rho / (within(rho, _shapes_at(held, rho), any_radius).radii + rho)

    rho = solve_margin(room, 0.5, batch.movement.limit, _STEPS)
    return within(rho, _shapes_at(held, rho), rho)


def _shapes_at(held: Ellipsoids, rho: _Radii) -> Float64[Tensor, "batch latent latent"]:
    """Give the shapes of the smallest balls that hold the radii."""
    index = torch.searchsorted(held.radii.contiguous(), rho[:, None].contiguous())[:, 0]
    return held.shapes[torch.arange(len(rho), device=rho.device), index]


def _reached(batch: Batch, clean: _Clean, probability: Callable[[_Radii], _Radii]) -> Reached:
    """Conclude without widening, too, for the images whose draws were not widened."""
    found, narrow = _widely(batch, clean), clean.scales == 1
    if not bool(narrow.any()):
        return found
    radii = solve_margin(probability, batch.p, batch.movement.limit)
    nothing = torch.zeros_like(radii)
    return Reached(torch.where(narrow, radii, 0.0), nothing, nothing).or_farther(found)


def _fixed_reach(batch: Batch, clean: _Clean) -> Reached:
    whitened = batch.movement.whitened
    return _reached(batch, clean, lambda rho: gaussian_shift_probability(clean.bounds, whitened.at(rho)))


def _moving_reach(batch: Batch, clean: _Clean) -> Reached:
    whitened = batch.movement.whitened
    return _reached(batch, clean, lambda rho: moving_probability(clean.bounds, whitened.at(rho), *_ends(batch, rho)))


def _shift(batch: Batch) -> Margins:
    return _margins(batch, _fixed_reach)


def _shift_moving(batch: Batch) -> Margins:
    return _margins(batch, _moving_reach)


def _margins(batch: Batch, reach: _Reach) -> Margins:
    clean = _clean(batch, reach)
    reached = reach(batch, clean)
    whitened = batch.movement.whitened
    constants = per_image(
        b=batch.b,
        std_min=batch.std.amin(1),
        shift=whitened.at(reached.radii),
        shift_by=whitened.winners(reached.radii),
        mean_rounding=whitened.rounding,
        scale=clean.scales,
        order=reached.orders,
        divergence=reached.divergences,
        successes=clean.successes,
        samples=batch.options.samples,
        alpha=1 - batch.confidence,
        **_ratios(batch, reached.radii),
    )
    pilots = 0 if clean.roots is None else len(SCALES) * _pilot(batch.options.samples)
    drawn = batch.options.samples + pilots
    return Margins(values=reached.radii, constants=constants, confidence=batch.confidence, n_forward=1 + 2 * drawn)


def _ratios(batch: Batch, radii: Float64[Tensor, " batch"]) -> dict[str, Float64[Tensor, "batch latent"]]:
    """Give how far standard deviations move, where they do."""
    if batch.model.vae.std_map is None:
        return {}
    return dict(zip(("ratio_low", "ratio_high"), _ends(batch, radii), strict=True))


SHIFT = Method(kind="certificate", strength="statistical", reason=_shift_reason, margins=_shift, statistics=DRAWS)
SHIFT_MOVING = Method(
    kind="certificate", strength="statistical", reason=_moving_reason, margins=_shift_moving, statistics=DRAWS
)
