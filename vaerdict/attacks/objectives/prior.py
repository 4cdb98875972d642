"""Objectives against the prior: the posterior driven to a Gaussian around zero or away, and less evidence."""

import itertools
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from vaerdict.attacks.batch import Batch
from vaerdict.attacks.levels import behind, top_down
from vaerdict.attacks.objectives.base import Uniform
from vaerdict.attacks.objectives.divergences import divergence_kl, divergence_to_normal
from vaerdict.attacks.objectives.levelled import Levelled
from vaerdict.attacks.objectives.protocol import Loss
from vaerdict.attacks.question import Question
from vaerdict.options import Likelihood, require, require_known
from vaerdict.vae import HierarchicalPriorVAE, HierarchicalVAE, Posterior, borrowed


@dataclass(frozen=True, kw_only=True)
class PosteriorCollapse(Levelled):
    """Bring the posterior to `N(0, variance)` or away from it (Guo et al. 2024). Encoder only.

    The paper's two attacks are the default ("-", with almost no variance) and `variance=1.0, direction=1` ("+", away
    from the prior).

    Args:
        variance: of each latent coordinate; "own" takes those of the clean image's posterior.
        direction: -1 minimises `KL(q(.|x+delta) | N(0, variance))`, 1 maximises it.
        levels: of a hierarchical model, those that count; with weights as in `Levelled`.
        level_weights: one per level that counts.

    >>> PosteriorCollapse().name, PosteriorCollapse(variance=1.0, direction=1).name
    ('collapse-minus', 'collapse-plus')
    """

    variance: float | Literal["own"] = 1e-8
    direction: Literal[-1, 1] = -1

    def __post_init__(self) -> None:
        super().__post_init__()
        fits = self.variance == "own" or (not isinstance(self.variance, str) and 0 < self.variance < math.inf)
        require(fits, "a finite `variance` > 0 or 'own'", repr(self.variance))
        require(self.direction in (-1, 1), "`direction` in (-1, 1)", self.direction)

    @property
    def name(self) -> str:
        """The end of the method's name in the results."""
        return self.named("collapse-plus" if self.direction > 0 else "collapse-minus")

    def describe(self, index: int) -> dict[str, Any]:
        """Give the objective's name and the variance."""
        return {**super().describe(index), "variance": self.variance}

    def loss(self, batch: Batch) -> Loss:
        """Give the divergence from `N(0, variance)`, times the direction."""
        stds = self._stds(batch)

        def divergence(images: Tensor, noise: Tensor) -> Tensor:
            posteriors = self.seen(batch, images, noise)
            return self.direction * self.total([*map(divergence_to_normal, posteriors, stds(noise))])

        return divergence

    def _stds(self, batch: Batch) -> Callable[[Tensor], Iterable[float | Tensor]]:
        """Give the normal's standard deviations, level by level."""
        if isinstance(self.variance, str):
            clean = self.still(batch, batch.images)
            return lambda noise: [posterior.std for posterior in clean(noise)]
        std = math.sqrt(self.variance)
        return lambda noise: itertools.repeat(std)


@dataclass(frozen=True, kw_only=True)
class Evidence(Uniform):
    """Lower the evidence of the attacked image: maximise minus its ELBO, on one draw of the latent, in nats.

    The ELBO is `E log p(x+delta|z) - KL(q(.|x+delta) | N(0, 1))`; its gradient at the clean image is not zero. Of a
    hierarchical model it is over all levels, each against the model's own prior given the levels above.

    Args:
        likelihood: "gaussian", independent pixels around the mean reconstruction, or "bernoulli", for which pixels and
            reconstructions lie in [0, 1].
        std: of a pixel, in pixel units; given exactly where the likelihood is Gaussian.

    >>> Evidence(std=0.1).name
    'evidence'
    """

    likelihood: Likelihood = "gaussian"
    std: float | None = None

    def __post_init__(self) -> None:
        require_known("likelihood", [self.likelihood], get_args(Likelihood))
        gaussian = self.likelihood == "gaussian"
        wanted = f"`std` {'given' if gaussian else 'not given'} with likelihood {self.likelihood!r}"
        require((self.std is not None) == gaussian, wanted, self.std)
        require(self.std is None or 0 < self.std < math.inf, "a finite `std` > 0", self.std)

    @property
    def name(self) -> str:
        """The end of the method's name in the results."""
        return "evidence"

    def check(self, vae: Any, images: Tensor) -> None:
        """Refuse a hierarchical model without its prior.

        Also a Bernoulli likelihood where pixels or the first mean reconstruction are no probabilities.
        """
        model = behind(vae)
        known = not isinstance(model, HierarchicalVAE) or isinstance(model, HierarchicalPriorVAE)
        require(known, "a hierarchical model with a `prior`", type(model).__name__)
        if self.likelihood == "gaussian":
            return
        pixels = tuple(vae.input_range)
        require(pixels == (0.0, 1.0), "pixels in [0, 1] with the Bernoulli likelihood", pixels)
        with borrowed(vae), torch.no_grad():
            least, most = map(float, vae.decode(vae.encode(images[:1].clone()).mean).aminmax())
        # A comparison with NaN is false: a broken model is the search's to report, image by image.
        wrong = least < 0 or most > 1
        require(not wrong, "reconstructions in [0, 1] with the Bernoulli likelihood", f"[{least:g}, {most:g}]")

    def describe(self, index: int) -> dict[str, Any]:
        """Give the objective's name and the likelihood."""
        return {"objective": self.name, "likelihood": self.likelihood, "std": self.std}

    def draws(self, question: Question) -> int:
        """Give one draw, whatever the question: the evidence is an expectation over the posterior."""
        return 1

    def loss(self, batch: Batch) -> Loss:
        """Give minus the ELBO at one draw."""

        def surprise(images: Tensor, noise: Tensor) -> Tensor:
            posterior = batch.vae.encode(images)
            latents = posterior.sample(noise[:, 0])
            reconstruction = batch.vae.decode(latents)
            return _divergence_to_prior(batch.vae, posterior, latents) - self.log_likelihood(images, reconstruction)

        return surprise

    def log_likelihood(
        self, images: Float[Tensor, "batch ..."], reconstructions: Float[Tensor, "batch ..."]
    ) -> Float[Tensor, " batch"]:
        """Give `log p(x|z)` of each image from its mean reconstruction, in nats.

        A probability of zero counts as the least normal number; one outside [0, 1] gives NaN.

        >>> one = torch.ones(1, 1, 2, 2)
        >>> Evidence(likelihood="bernoulli").log_likelihood(one, one / 2)
        tensor([-2.7726])
        """
        if self.std is None:
            logs = images * _log(reconstructions) + (1 - images) * _log(1 - reconstructions)
        else:
            scaled = (images - reconstructions) / self.std
            logs = -0.5 * scaled.square() - math.log(self.std * math.sqrt(2 * math.pi))
        return logs.flatten(1).sum(1)


def _divergence_to_prior(vae: Any, posterior: Posterior, latents: Tensor) -> Tensor:
    """Give the divergence from `N(0, 1)`, or the sum over levels of that from the model's prior on what was drawn."""
    view = top_down(vae)
    if view is None:
        return divergence_to_normal(posterior.drawn)
    (posteriors, drawn), model = view.descend(latents), behind(vae)
    priors = [model.prior([above.clone() for above in drawn[:level]]) for level in range(len(drawn))]
    return torch.stack([*map(divergence_kl, posteriors, priors)]).sum(0)


def _log(probability: Tensor) -> Tensor:
    tiny = torch.finfo(probability.dtype).tiny
    return torch.where(probability < 0, torch.nan, probability.clamp_min(tiny)).log()
