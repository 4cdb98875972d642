"""Coupled draws: moved and unmoved samples share their noise, and only what the shift does is bounded (THEORY 4.11).

With `z' = mu(x + delta) + sigma(x + delta) e` and `z~ = mu(x) + sigma(x) e`, the decoder moves the reconstruction by at
most `a |z' - z~|`, and `|z' - z~| <= |mu(x + delta) - mu(x)| + |(sigma(x + delta) - sigma(x)) e|`. How far apart the
clean reconstructions are is what was drawn, not what the decoder's constant allows.
"""

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from vaerdict.certify.margin import solve_margin
from vaerdict.certify.methods.batch import Batch, Margins, Method, per_image
from vaerdict.certify.methods.lipschitz import is_random
from vaerdict.certify.model import ModelBounds
from vaerdict.certify.monte_carlo import TIE, draw_pairs
from vaerdict.certify.statistics import order_statistic_index

DRAWS = "coupled"
MOST = 2000
"""More draws than this hardly move a median."""

_STEPS = 40
_UP = 1 + 1e-5  # for sums in float32


def _reason(model: ModelBounds) -> str | None:
    return is_random(model) or model.sensitivity.missing("decoder", "mean") or model.missing_std(boxes=False)


def _coupling(batch: Batch) -> Margins:
    """Count the draws that stay within `r` whatever moves by up to `rho`: as many as an order statistic asks for."""
    samples = min(batch.options.samples, MOST) if batch.p == 0.5 else batch.options.samples
    index = order_statistic_index(samples, batch.p, batch.confidence)
    pairs = draw_pairs(
        batch.model.vae,
        batch.posterior,
        anchored=batch.anchored,
        samples=samples,
        seed=batch.seed,
        sample_ids=batch.sample_ids,
        purpose=DRAWS,
    )
    movement, moving = batch.proved_movement, batch.model.vae.std_map is not None
    shift = movement.mean
    rest = (batch.r - 2 * batch.decoder_rounding)[:, None] * (1 - TIE) - pairs.distances  # left for the move

    def staying(rho: Tensor) -> Tensor:
        moved = shift.at(rho)[:, None]
        if moving:
            low, high = movement.std_range(rho)
            change = torch.maximum(high - batch.std, batch.std - low)
            moved = moved + _lengths(pairs.squares, change)
        return (batch.a * moved <= rest).sum(1)

    needed = samples - index + 1
    values = solve_margin(lambda rho: (staying(rho) >= needed).double(), 0.5, movement.limit, _STEPS)
    constants = per_image(
        a=batch.a,
        b=batch.b,
        shift=shift.at(values),
        shift_by=shift.winners(values),
        mean_rounding=shift.rounding,
        decoder_rounding=batch.decoder_rounding,
        successes=staying(values),
        index=index,
        samples=samples,
        alpha=1 - batch.confidence,
    )
    return Margins(values=values, constants=constants, confidence=batch.confidence, n_forward=1 + 2 * samples)


def _lengths(
    squares: Float[Tensor, "batch draws latent"], change: Float64[Tensor, "batch latent"]
) -> Float64[Tensor, "batch draws"]:
    """Bound `|change * e|` for every draw `e`; in the dtype of the noise, as there are many."""
    largest = change.amax(1, keepdim=True).clamp(min=1e-30)  # nothing underflows
    shares = (change / largest).square().nan_to_num(1.0).to(squares)
    return torch.einsum("bni,bi->bn", squares, shares).sqrt().double() * largest * _UP


COUPLING = Method(kind="certificate", strength="statistical", reason=_reason, margins=_coupling, statistics=DRAWS)
