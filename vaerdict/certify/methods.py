"""The certificates: each says when it applies, and turns a batch of posteriors into margins."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from vaerdict.certify.closed_form import barrett_margins, isotropic_margins
from vaerdict.certify.margin import solve_margin
from vaerdict.certify.monte_carlo import clopper_pearson_lower, count_images
from vaerdict.certify.probability import gaussian_shift_probability
from vaerdict.certify.sensitivity import Sensitivity
from vaerdict.lipschitz import LipschitzBound
from vaerdict.options import CertifyOptions, require
from vaerdict.vae import BoundableVAE, Posterior

_LEAST = 1e-30  # a constant of 0 is replaced by this larger one, so that nothing is divided by 0


@dataclass(frozen=True, kw_only=True)
class Batch:
    """What a method may look at: a model with its constants, some images with their posteriors, and the question."""

    vae: BoundableVAE
    sensitivity: Sensitivity
    images: Tensor
    posterior: Posterior
    r: float
    p: float
    options: CertifyOptions
    seed: int
    sample_ids: Sequence[int]

    @property
    def anchored(self) -> bool:
        """Whether a sample is compared with the clean mean's reconstruction."""
        return self.options.reconstruction == "anchored"

    @property
    def std(self) -> Float64[Tensor, "batch latent"]:
        """Give the posterior standard deviations in float64."""
        return self.posterior.std.double()

    @cached_property
    def clean_counts(self) -> list[int]:
        """Count, once per batch, the Monte-Carlo draws of each unmoved image whose reconstructions are within `r`."""
        counts = count_images(
            self.vae,
            self.posterior,
            r=self.r,
            anchored=self.anchored,
            samples=self.options.samples,
            seed=self.seed,
            sample_ids=self.sample_ids,
        )
        return counts.tolist()


@dataclass(frozen=True, kw_only=True)
class Margins:
    """Margins of a batch in input units, with what a checker needs and what they cost (evaluations per image)."""

    values: Float64[Tensor, " batch"]
    constants: list[dict[str, Any]]
    confidence: float | None = None
    n_forward: int = 1
    n_backward: int = 0


@dataclass(frozen=True, kw_only=True)
class Method:
    """One certificate or estimate.

    `reason` says why it does not apply to a model (None: it does); `margins` computes it.
    """

    kind: Literal["certificate", "estimate"]
    strength: Literal["proved", "numerical", "statistical", "empirical"]
    reason: Callable[[Sensitivity, CertifyOptions], str | None]
    margins: Callable[[Batch], Margins]


def _number(bound: LipschitzBound | float | str) -> float:
    return max(float(bound), _LEAST)


def _barrett_reason(sensitivity: Sensitivity, options: CertifyOptions) -> str | None:
    if options.reconstruction != "sampled":
        return f"published for two samples, not for `{options.reconstruction}` reconstructions"
    return sensitivity.missing("decoder", "mean", "std")


def _barrett(batch: Batch) -> Margins:
    a, b = _number(batch.sensitivity.decoder), _number(batch.sensitivity.mean)
    c = float(batch.sensitivity.std)
    values = barrett_margins(batch.std, a=a, b=b, c=c, r=batch.r, p=batch.p)
    constants = [{"a": a, "b": b, "c": c, "std": std} for std in batch.std.tolist()]
    return Margins(values=values, constants=constants)


def _isotropic_reason(sensitivity: Sensitivity, options: CertifyOptions) -> str | None:
    missing = sensitivity.missing("decoder", "mean", "std")
    if missing is None and sensitivity.shared_std is None:
        return "the posterior's coordinates do not share one standard deviation"
    return missing


def _isotropic(batch: Batch) -> Margins:
    a, b = _number(batch.sensitivity.decoder), _number(batch.sensitivity.mean)
    c, std, latent = batch.sensitivity.shared_std or 0.0, batch.std[:, 0], batch.std.shape[1]
    require(bool((batch.std == std.unsqueeze(1)).all()), "one standard deviation for all coordinates", "several")
    distinct, index = std.unique(return_inverse=True)  # a constant spread has one margin for all images
    values = isotropic_margins(distinct, latent=latent, a=a, b=b, c=c, r=batch.r, p=batch.p, anchored=batch.anchored)[
        index
    ]
    constants = [{"a": a, "b": b, "c": c, "std": value, "latent": latent} for value in std.tolist()]
    return Margins(values=values, constants=constants)


def _shift_reason(sensitivity: Sensitivity, options: CertifyOptions) -> str | None:
    if sensitivity.std != 0.0:
        return "the posterior's standard deviation depends on the image"
    return sensitivity.missing("mean")


def _draw_constants(batch: Batch) -> list[dict[str, Any]]:
    return [{"successes": count, "samples": batch.options.samples} for count in batch.clean_counts]


def _shift(batch: Batch) -> Margins:
    b, trials, confidence = _number(batch.sensitivity.mean), batch.options.samples, batch.options.confidence
    clean = batch.std.new_tensor([clopper_pearson_lower(count, trials, confidence) for count in batch.clean_counts])
    whitened = b / batch.std.min(dim=1).values  # Lipschitz constant of the mean in standard deviations
    quantile = torch.special.ndtri(clean.new_tensor(batch.p))
    upper = ((torch.special.ndtri(clean) - quantile) / whitened).clamp(min=0.0)
    values = solve_margin(lambda rho: gaussian_shift_probability(clean, whitened * rho), batch.p, upper)
    smallest = batch.std.min(dim=1).values.tolist()
    constants = [{"b": b, "std_min": std, **drawn} for std, drawn in zip(smallest, _draw_constants(batch), strict=True)]
    return Margins(values=values, constants=constants, confidence=confidence, n_forward=1 + 2 * trials)


def _jacobian_norms(batch: Batch) -> Float[Tensor, " batch"]:
    """Give the Frobenius norm of the mean's Jacobian at each image, one backward pass per latent."""
    with torch.enable_grad():
        images = batch.images.detach().requires_grad_()
        mean = batch.vae.encode(images.clone()).mean
        squares = [
            torch.autograd.grad(mean[:, i].sum(), images, retain_graph=True)[0].flatten(1).square().sum(1)
            for i in range(mean.shape[1])
        ]
    return torch.stack(squares).sum(0).sqrt()


def _first_order(batch: Batch) -> Margins:
    """Estimate as Camuto et al. (AISTATS 2021) do (THEORY 4.7): nothing is proved."""
    trials = batch.options.samples
    share = batch.std.new_tensor(batch.clean_counts) / trials
    clean = share.clamp(max=1 - 0.5 / trials)  # a share of 1 would give an infinite estimate
    quantile = torch.special.ndtri(clean.new_tensor(batch.p))
    jacobian = _jacobian_norms(batch).double()
    values = batch.std.min(dim=1).values * (torch.special.ndtri(clean) - quantile) / jacobian
    return Margins(
        values=values.clamp(min=0.0),
        constants=_draw_constants(batch),
        n_forward=2 + 2 * trials,
        n_backward=batch.std.shape[1],
    )


METHODS: dict[str, Method] = {
    "barrett": Method(kind="certificate", strength="numerical", reason=_barrett_reason, margins=_barrett),
    "isotropic": Method(kind="certificate", strength="numerical", reason=_isotropic_reason, margins=_isotropic),
    "shift": Method(kind="certificate", strength="statistical", reason=_shift_reason, margins=_shift),
    "first_order": Method(
        kind="estimate", strength="empirical", reason=lambda sensitivity, options: None, margins=_first_order
    ),
}
