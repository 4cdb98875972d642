"""The first-order estimate of Camuto et al. (AISTATS 2021): nothing is proved (THEORY 4.7)."""

import torch

from vaerdict.certify.jacobian import mean_jacobians
from vaerdict.certify.methods.batch import Batch, Margins, Method, per_image
from vaerdict.certify.methods.lipschitz import is_random
from vaerdict.certify.model import ModelBounds
from vaerdict.certify.monte_carlo import count_images

MOST = 2000
"""More draws than this hardly move an estimate."""


def _first_order(batch: Batch) -> Margins:
    trials = min(batch.options.samples, MOST)
    counts = count_images(
        batch.model.vae,
        batch.posterior,
        r=batch.r,
        anchored=batch.anchored,
        samples=trials,
        seed=batch.seed,
        sample_ids=batch.sample_ids,
    )
    share = counts.to(batch.std) / trials
    clean = share.clamp(max=1 - 0.5 / trials)  # a share of 1 would give an infinite estimate
    quantile = torch.special.ndtri(clean.new_tensor(batch.p))
    jacobian = mean_jacobians(batch.model.vae, batch.images).flatten(1).norm(dim=1).double().clamp(min=1e-30)
    values = batch.std.min(dim=1).values * (torch.special.ndtri(clean) - quantile) / jacobian
    return Margins(
        values=values.clamp(min=0.0),
        constants=per_image(successes=counts, samples=trials),
        n_forward=2 + 2 * trials,
        n_backward=batch.std.shape[1],
    )


def _reason(model: ModelBounds) -> str | None:
    return is_random(model) or (None if model.options.norm == "2" else "published for the L2 norm")


FIRST_ORDER = Method(kind="estimate", strength="empirical", reason=_reason, margins=_first_order)
