"""Certified labels: how far an image may move before a classifier of its latents or reconstructions decides otherwise.

The event of THEORY 4.4 is `h(z') = y`, or `h(g(z')) = y`. The class `y` is chosen on draws of its own, never on those
that bound its probability; a decoder or classifier needs no Lipschitz constant.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor, nn

from vaerdict.certify.draws import draws_at_once, noise_pieces, number_samples
from vaerdict.certify.probability import gaussian_shift_probability
from vaerdict.certify.rounding import measure_rounding
from vaerdict.certify.sensitivity import measure_sensitivity
from vaerdict.certify.statistics import Shifted, margins_from_counts, require_samples
from vaerdict.lipschitz import NoSoundBound, round_up
from vaerdict.options import require
from vaerdict.vae import BoundableVAE, Posterior, borrowed, check_images

_NONE = -1  # the class of scores that are not numbers


@dataclass(frozen=True, kw_only=True)
class LabelOptions:
    """What is classified, and how sure the certificate must be.

    Attributes:
        on: What the classifier takes: latents `[B, latent]`, or reconstructions `[B, *input_shape]`.
        p: Level: the class must have a probability above this one, in [1/2, 1).
        samples: Draws that certify, per image.
        selection: Draws that choose the class where no labels are given.
        confidence: Of each image's statement.
    """

    on: Literal["latent", "reconstruction"] = "latent"
    p: float = 0.5
    samples: int = 10_000
    selection: int = 200
    confidence: float = 0.999

    def __post_init__(self) -> None:
        require(self.on in ("latent", "reconstruction"), "`on` latent or reconstruction", self.on)
        require(0.5 <= self.p < 1, "`p` in [1/2, 1)", self.p)
        require(self.selection >= 1, "`selection` >= 1", self.selection)
        require_samples("samples", self.samples, self.p, self.confidence)


@dataclass(frozen=True, kw_only=True)
class LabelResult:
    """What is certified of one image.

    Attributes:
        sample_id: of the image.
        label: the class that was certified or tried; -1 where the draws had none.
        margin: L2 in pixel units within which `label` keeps a probability above `p`; 0 with a `reason` where nothing
            is certified.
        successes: draws of the unmoved image with this class.
        samples: draws.
        clean: the Clopper-Pearson lower bound of the probability of the class.
        reason: why nothing is certified; empty where something is.
    """

    sample_id: int
    label: int
    margin: float
    successes: int
    samples: int
    clean: float
    reason: str = ""


def certify_label(
    vae: BoundableVAE,
    classifier: nn.Module,
    images: Float[Tensor, "batch ..."],
    labels: Int64[Tensor, " batch"] | None = None,
    *,
    options: LabelOptions = LabelOptions(),
    shifted: Shifted | None = None,
    seed: int = 0,
    sample_ids: Sequence[int] | None = None,
) -> list[LabelResult]:
    """Certify how far each image may move before the class of its latent or reconstruction changes.

    Args:
        vae: the model.
        classifier: gives scores `[B, classes]`; the highest one decides.
        images: `[B, *input_shape]`, pixels in the model's `input_range`.
        labels: classes to certify; by default the one that most of some separate draws have.
        options: what is classified, numbers of draws, level and confidence.
        shifted: proved lower bound of the class's probability at a distance, from clean bounds and radii, each
            `[batch]` and in the order of the images. By default the Gaussian shift with the Lipschitz constant of the
            mean, for standard deviations that do not depend on the image.
        seed: of the draws; each image has its own.
        sample_ids: index of each image in its source; default 0, 1, 2, ...

    Raises:
        NoSoundBound: without `shifted`, the standard deviations depend on the image, or the mean has no constant.
        TypeError: the model or the classifier is not a torch module.
        ValueError: images, labels or the posterior are outside their ranges.

    >>> from vaerdict.models import build_vae
    >>> from vaerdict.options import ModelOptions
    >>> vae = build_vae(ModelOptions(hidden=(8,), latent=2), name="toy", input_shape=(1, 4, 4))
    >>> (result,) = certify_label(vae, nn.Identity(), torch.rand(1, 1, 4, 4))
    >>> result.margin > 0
    True
    """
    if not isinstance(classifier, nn.Module):
        raise TypeError(f"expected a classifier that is a torch module, got {type(classifier).__name__}")
    check_images(vae, images)
    ids = number_samples(len(images), sample_ids)
    require(labels is None or bool((labels >= 0).all()), "labels >= 0", labels)
    with borrowed(vae), borrowed(classifier), torch.no_grad():
        posterior = _posterior(vae, images)
        bound = shifted or _constant_spread(vae, images, posterior)
        voters = [
            _Voters(vae, classifier, Posterior(mean, std), options, seed, i)
            for mean, std, i in zip(posterior.mean.split(1), posterior.std.split(1), ids, strict=True)
        ]
        chosen = [voter.majority() for voter in voters] if labels is None else labels.tolist()
        counts = [voter.count(label) for voter, label in zip(voters, chosen, strict=True)]
        clean, margins = margins_from_counts(
            counts, options.samples, confidence=options.confidence, p=options.p, shifted=bound
        )
    found = zip(ids, chosen, counts, clean.tolist(), margins.tolist(), strict=True)
    return [
        LabelResult(
            sample_id=i,
            label=label,
            margin=margin,
            successes=count,
            samples=options.samples,
            clean=low,
            reason="" if margin > 0 else f"class {label} is only shown to have probability {low:.3g}",
        )
        for i, label, count, low, margin in found
    ]


def certified_accuracy(results: Sequence[LabelResult], labels: Sequence[int], radii: Sequence[float]) -> list[float]:
    """Give the share of all images whose right class is certified at each radius; the others count as wrong.

    Each image's statement has its own confidence; the share as a whole has none.

    Raises:
        ValueError: there is not one label per result, no result, or a radius is negative or NaN.

    >>> one = LabelResult(sample_id=0, label=3, margin=0.4, successes=9, samples=9, clean=0.7)
    >>> certified_accuracy([one, one], [3, 5], [0.0, 0.4, 0.5])
    [0.5, 0.5, 0.0]
    """
    require(len(results) == len(labels) > 0, f"a label for each of {len(results)} > 0 results", len(labels))
    require(all(radius >= 0 for radius in radii), "radii >= 0", list(radii))
    right = [result.margin for result, label in zip(results, labels, strict=True) if result.label == label]
    return [sum(margin > 0 and margin >= radius for margin in right) / len(results) for radius in radii]


def _posterior(vae: BoundableVAE, images: Tensor) -> Posterior:
    posterior = vae.encode(images.clone())  # a first layer may work in place
    finite = torch.isfinite(posterior.mean).all() and torch.isfinite(posterior.std).all()
    positive = bool(finite and (posterior.std > 0).all())
    require(positive, "finite posterior means and positive finite standard deviations", "others")
    return posterior


def _constant_spread(vae: BoundableVAE, images: Tensor, posterior: Posterior) -> Shifted:
    """Give the Gaussian shift (THEORY 4.4) with the mean's Lipschitz constant over the smallest standard deviation.

    Raises:
        NoSoundBound: the standard deviations depend on the image, or the mean has no constant.
    """
    sensitivity = measure_sensitivity(vae, images)
    if sensitivity.std != 0.0 or not bool((posterior.std == posterior.std[:1]).all()):
        raise NoSoundBound("labels: the posterior's standard deviation depends on the image; `shifted` must be given")
    if isinstance(sensitivity.mean, str):
        raise NoSoundBound(f"labels: {sensitivity.mean}")
    least = float(posterior.std.double().min())
    whitened = round_up(float(sensitivity.mean) / least)
    rounding = measure_rounding(vae.mean_map, images[:1])
    norms = images.double().flatten(1).norm(dim=1).cpu()

    def shifted(clean: Float64[Tensor, " batch"], rho: Float64[Tensor, " batch"]) -> Float64[Tensor, " batch"]:
        lost = (rounding.at(norms + rho) + rounding.at(norms)) / least
        return gaussian_shift_probability(clean, whitened * rho + lost)

    return shifted


@dataclass(frozen=True)
class _Voters:
    """The draws of one image; the ones that choose its class and the ones that certify it have their own noise."""

    vae: BoundableVAE
    classifier: nn.Module
    posterior: Posterior  # of this image alone
    options: LabelOptions
    seed: int
    sample_id: int

    def classes(self, purpose: str, draws: int) -> Iterator[Int64[Tensor, " some"]]:
        """Draw classes, piece by piece."""
        at_once = draws_at_once(torch.Size(self.vae.input_shape).numel() + self.vae.latent)
        for noise in noise_pieces(self.seed, self.sample_id, f"label/{purpose}", draws, self.vae.latent, at_once):
            latents = self.posterior.mean + self.posterior.std * noise.to(self.posterior.mean)
            scores = self.classifier(latents if self.options.on == "latent" else self.vae.decode(latents))
            shape = tuple(scores.shape)
            require(len(shape) == 2 and shape[0] == len(noise), f"scores of shape [{len(noise)}, classes]", shape)
            yield torch.where(scores.isnan().any(dim=1), _NONE, scores.argmax(dim=1))

    def majority(self) -> int:
        """Give the most frequent class, -1 where no draw has one."""
        classes = torch.cat(list(self.classes("select", self.options.selection)))
        known = classes[classes != _NONE]
        return int(known.bincount().argmax()) if len(known) else _NONE

    def count(self, label: int) -> int:
        """Count the fresh draws that have a class."""
        if label == _NONE:
            return 0
        return sum(int((some == label).sum()) for some in self.classes("certify", self.options.samples))
