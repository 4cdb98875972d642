"""Center smoothing (THEORY 4.10): certificates of the smoothed reconstruction, for any encoder and decoder at all.

Kumar and Goldstein (NeurIPS 2021), with exact binomial bounds in place of Hoeffding's. `F_x` is the distribution of the
reconstruction of `x` plus noise, `u = 1/2 + delta`.

Claim: let `z` be the centre found at `x`, and let a ball of radius `r/3` around `z` have a probability `>= u` under
`F_x'`. The centre `z'` found at `x'` with draws of its own is then within `r` of `z`, or there is none, but for the
error probabilities of the draws. Proof: some candidate of `x'` lies in the ball, and so do `h` of the other draws, `h`
the order statistic that a probability `u` guarantees. These are within `2r/3` of that candidate, hence the smallest
ball has a radius of at most `2r/3`, and that is the ball of `z'`. It was shown to have a probability above `1 - u`, so
the two balls meet: `|z - z'| <= r/3 + 2r/3`.

`F_x'` gives the ball around `z` at least `Phi(Phi^-1(p_low) - w)` (THEORY 4.4), with `p_low` the Clopper-Pearson bound
under `F_x` on fresh draws, and `w` how far `x'` is from `x` in standard deviations of the noise. The margin is the
largest radius at which this was evaluated and above `u`: `noise_std (Phi^-1(p_low) - Phi^-1(u))`. The four errors (no
candidate, too few others, the test of `z'`, `p_low`) share `1 - confidence`. The level `p` plays no part.

`latent_center` adds no noise: the posterior's own smooths, and `w` is how far its mean moves.

The strength is statistical. Float noise is not exactly translation-invariant (Voracek and Hein, ICLR 2023): a model
made to read the last digits of `x + noise` could break the claim, which is about Gaussian noise on real numbers.
"""

import math
from collections.abc import Callable
from typing import Any

from jaxtyping import Float64
from torch import Tensor

from vaerdict.certify.margin import solve_margin
from vaerdict.certify.methods.batch import Batch, Margins, Method, per_image
from vaerdict.certify.model import ModelBounds
from vaerdict.certify.monte_carlo import TIE
from vaerdict.certify.movement import MOST_SHIFT
from vaerdict.certify.probability import gaussian_shift_probability
from vaerdict.certify.smoothed import (
    SELECTION,
    SHARE,
    Center,
    Draw,
    confidence_of_each,
    count_candidates,
    count_near,
    find_center,
    prepare_draws,
)
from vaerdict.certify.statistics import clopper_pearson_lower, require_samples

Whitened = Callable[[Float64[Tensor, " batch"]], Float64[Tensor, " batch"]]
"""From radii to bounds on the move, in standard deviations of what smooths."""

_UP = 1 + 2.0**-40


def _bare(model: ModelBounds) -> str | None:
    kind = model.options.reconstruction
    return None if kind == "smoothed" else f"`reconstruction` is {kind}, this certifies smoothed ones"


def _center_reason(model: ModelBounds) -> str | None:
    return _bare(model) or (None if model.options.noise_std else "`noise_std` is 0 (see `latent_center`)")


def _latent_reason(model: ModelBounds) -> str | None:
    if reason := _bare(model):
        return reason
    if model.options.noise_std:
        return "`noise_std` is not 0 (see `center`)"
    if model.vae.std_map is not None:
        return "the posterior's standard deviation depends on the image (see `center`, with `noise_std` > 0)"
    return None if not isinstance(model.bounded_mean, str) else model.sensitivity.missing("mean")


def _center(batch: Batch) -> Margins:
    """Let noise on the pixels smooth; nothing of the model is bounded."""
    pixels = batch.images[0].numel()
    per_unit = (math.sqrt(pixels) if batch.options.norm == "inf" else 1.0) / batch.options.noise_std * _UP
    limit = batch.std.new_full((len(batch.images),), MOST_SHIFT / per_unit)
    return _margins(batch, lambda rho: per_unit * rho, limit)


def _latent_center(batch: Batch) -> Margins:
    """Let the posterior's own noise smooth, whose mean moves by no more than is bounded."""
    whitened, limit = batch.movement.whitened, batch.movement.limit
    known = {"b": batch.b, "std_min": batch.std.amin(1), "mean_rounding": whitened.rounding}
    return _margins(batch, whitened.at, limit, lambda rho: {**known, "shift_by": whitened.winners(rho)})


def _margins(
    batch: Batch,
    whitened: Whitened,
    limit: Float64[Tensor, " batch"],
    more: Callable[[Tensor], dict[str, Any]] = lambda values: {},
) -> Margins:
    """Find the centres, count the draws near them, and move the probability of being near.

    `more` gives, from the margins, what else the constants hold.
    """
    options, each = batch.options, confidence_of_each(batch.confidence)
    require_samples("samples", options.samples, SHARE, each)
    draws = prepare_draws(batch.model.vae, batch.images, options.noise_std, batch.seed, batch.sample_ids)
    centers = [find_center(draw, batch.confidence) for draw in draws]
    within = [_count(draw, center, batch.r, options.samples) for draw, center in zip(draws, centers, strict=True)]
    clean = batch.std.new_tensor([clopper_pearson_lower(count, options.samples, each) for count in within])
    values = solve_margin(lambda rho: gaussian_shift_probability(clean, whitened(rho)), SHARE, limit)
    candidates = count_candidates(batch.confidence)
    drawn = candidates + 2 * SELECTION + options.samples
    constants = per_image(
        noise_std=options.noise_std,
        share=SHARE,
        shift=whitened(values),
        successes=within,
        samples=options.samples,
        alpha=1 - each,
        candidates=candidates,
        selection=SELECTION,
        tested=[center.tested for center in centers],
        radius=batch.std.new_tensor([center.radius for center in centers]),
        **more(values),
    )
    return Margins(
        values=values,
        constants=constants,
        confidence=batch.confidence,
        n_forward=2 * drawn,
        reasons=[
            center.reason or _why(probability) for center, probability in zip(centers, clean.tolist(), strict=True)
        ],
    )


def _count(draw: Draw, center: Center, r: float, samples: int) -> int:
    """Count the fresh draws within `r/3` of a centre; none where there is no centre."""
    near = r / 3 * (1 - TIE)  # what is taken off outweighs the rounding of all three distances
    return 0 if center.reason else count_near(draw("certify", samples), center.pixels, near)


def _why(clean: float) -> str:
    return f"the ball of radius r/3 is only shown to have a probability of {clean:.3g}, not above {SHARE:.3g}"


CENTER = Method(kind="certificate", strength="statistical", reason=_center_reason, margins=_center, statistics="center")
LATENT_CENTER = Method(
    kind="certificate", strength="statistical", reason=_latent_reason, margins=_latent_center, statistics="center"
)
