"""Certificates for hierarchical posteriors `q(z_1|x) q(z_2|z_1,x) ...`, whatever the decoder (THEORY 4.6).

Claim: let the mean of every level, given any values of the earlier latents, move by at most `s_l` standard deviations
when the image moves from `x` to `x'`, and let no covariance depend on the image. Then every event `A` of the latents
has `P_x'(A) >= Phi(Phi^-1(P_x(A)) - s)`, `s = sqrt(sum s_l^2)`.

Proof by induction. One level: Neyman and Pearson (THEORY 4.4). More: given `z_1` one level less is left, so
`P_x'(A|z_1) >= Phi(Phi^-1(a) - t)` with `a = P_x(A|z_1)` and `t` the root of the other levels' sum. Take `y ~ N(0, 1)`
independent of `z_1`, and the event `y <= Phi^-1(a(z_1))` of the pair: its probability is `P_x(A)` with `z_1` from `x`,
and at most `P_x'(A)` with `z_1` from `x'` and `y ~ N(t, 1)`. Between the two, the mean of the pair moved by at most
`sqrt(s_1^2 + t^2)` standard deviations: Neyman and Pearson again. (It is the adaptive composition of Dong, Roth and Su
2022.) The independent latents of the unmoved image, in `sampled` reconstructions, are a level with `s_l = 0`.
"""

import math
import time
from collections.abc import Sequence
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from vaerdict.certify.draws import draws_at_once, noise_pieces, number_samples
from vaerdict.certify.monte_carlo import TIE
from vaerdict.certify.probability import gaussian_shift_probability
from vaerdict.certify.statistics import margins_from_counts
from vaerdict.lipschitz import LipschitzBound, NoSoundBound, round_up
from vaerdict.options import Question, require
from vaerdict.results import Row, canonical_json, subjects
from vaerdict.vae import HierarchicalVAE, borrowed, fingerprint

_CHECKED = 16  # draws on which the model's levels are held against what was said of them
_SLACK = 1e-4  # relative: the model is evaluated in float32


def certify_hierarchical(
    vae: HierarchicalVAE,
    images: Float[Tensor, "batch ..."],
    *,
    r: float,
    p: float = 0.5,
    whitened: Sequence[float | LipschitzBound],
    reconstruction: Literal["sampled", "anchored"] = "sampled",
    samples: int = 2000,
    confidence: float = 0.999,
    seed: int = 0,
    sample_ids: Sequence[int] | None = None,
    dataset: str = "",
    r_relative: float | None = None,
) -> list[Row]:
    """Certify how far each image may move before the reconstruction of a hierarchical VAE moves by more than `r`.

    Args:
        vae: the model; no Lipschitz constant of its decoder is needed.
        images: `[B, *input_shape]`, pixels in the model's `input_range`.
        r: allowed L2 distance between reconstructions, in pixel units.
        p: the reconstruction must stay within `r` with a probability above this level, in [1/2, 1).
        whitened: proved Lipschitz constants in the image of each level's mean in standard deviations, for every value
            of the earlier latents.
        reconstruction: two samples, or a sample against the reconstruction of every level's mean.
        samples: draws per image.
        confidence: of each image's statement.
        seed: of the draws; each image has its own.
        sample_ids: index of each image in its source; default 0, 1, 2, ...
        dataset: name of the source, for the rows.
        r_relative: `r` as a share of the models' typical distance, for the rows.

    Returns:
        Rows of the method `hierarchical`, margins L2 in pixel units. Their `constants` hold `whitened` as given, and
        `shift`, how far the joint posterior moves at most per unit of input distance, in standard deviations.

    Raises:
        NoSoundBound: a level's standard deviation was seen to depend on the image.
        TypeError: the model is not a torch module.
        ValueError: something outside its range; a constant that the model was seen to exceed; too few samples.

    >>> from vaerdict.vae import Posterior
    >>> class Two(torch.nn.Module):
    ...     name, input_shape, input_range, levels = "two", (1, 1, 2), (0.0, 1.0), (2, 2)
    ...     def posterior(self, images, earlier):
    ...         mean = images.flatten(1) + sum(earlier)
    ...         return Posterior(mean, torch.full_like(mean, 0.5))
    ...     def decode(self, latents):
    ...         return sum(latents).unflatten(1, (1, 1, 2))
    >>> (row,) = certify_hierarchical(Two(), torch.rand(1, 1, 1, 2), r=5.0, whitened=[2.0, 2.0])
    >>> row.method, row.strength, row.margin > 0.5
    ('hierarchical', 'statistical', True)
    """
    Question(r=r, p=p)
    require(reconstruction in ("sampled", "anchored"), "`reconstruction` sampled or anchored", reconstruction)
    ids = number_samples(len(images), sample_ids)
    slope = bound_joint_shift(whitened)
    levels = [float(bound) for bound in whitened]
    require(len(levels) == len(vae.levels), f"{len(vae.levels)} `whitened` constants", len(levels))
    _check_images(vae, images)
    start = time.perf_counter()
    anchored = reconstruction == "anchored"
    with borrowed(vae) as lent, torch.no_grad():
        who = subjects(vae.name, fingerprint(lent), dataset, images.cpu().numpy(), ids)
        _check_levels(vae, images, levels)
        counts = [
            _count(vae, image, r=r, anchored=anchored, samples=samples, seed=seed, sample_id=i)
            for image, i in zip(images, ids, strict=True)
        ]
    clean, margins = margins_from_counts(
        counts,
        samples,
        confidence=confidence,
        p=p,
        shifted=lambda clean, rho: gaussian_shift_probability(clean, slope * rho),
    )
    columns = {
        **{"r": r, "r_relative": r_relative, "p": p, "reconstruction": reconstruction},
        **{"confidence": confidence, "seed": seed, "time_s": (time.perf_counter() - start) / len(images)},
        **{"n_forward": (1 if anchored else 2) * (len(levels) + 1) * samples},
        **{"device": images.device.type, "dtype": str(images.dtype).removeprefix("torch.")},
    }
    shared = {"shift": slope, "whitened": levels, "samples": samples, "alpha": 1 - confidence}
    return [
        _row({**subject, **columns}, margin, {**shared, "successes": count, "clean": low})
        for subject, margin, count, low in zip(who, margins.tolist(), counts, clean.tolist(), strict=True)
    ]


def _row(columns: dict[str, Any], margin: float, constants: dict[str, Any]) -> Row:
    why = f"only shown to be within `r` with probability {constants['clean']:.3g}, not above {columns['p']:g}"
    return Row(
        **columns,
        kind="certificate",
        strength="statistical",
        method="hierarchical",
        margin=margin,
        reason="" if margin > 0 else why,
        constants=canonical_json(constants),
    )


def bound_joint_shift(whitened: Sequence[float | LipschitzBound]) -> float:
    """Bound how far the joint posterior moves from how far each level does: the root of the sum of squares, rounded up.

    Raises:
        ValueError: no constant, or one that is negative or not finite.

    >>> round(bound_joint_shift([3.0, 4.0]), 12)
    5.0
    """
    constants = [float(bound) for bound in whitened]
    require(bool(constants), "a `whitened` constant for each level", "none")
    for constant in constants:
        require(0 <= constant < math.inf, "finite `whitened` constants >= 0", constant)
    return round_up(math.hypot(*constants), 2)


def _check_images(vae: HierarchicalVAE, images: Tensor) -> None:
    low, high = vae.input_range
    shape = tuple(images.shape)
    fits = len(images) > 0 and shape[1:] == tuple(vae.input_shape)
    require(fits, f"one or more images of shape {tuple(vae.input_shape)}", shape)
    inside = bool(((images >= low) & (images <= high)).all())  # false for NaN
    require(inside, f"pixels in [{low:g}, {high:g}]", f"[{float(images.min()):g}, {float(images.max()):g}]")


def _latents(vae: HierarchicalVAE, image: Tensor, noise: Float[Tensor, "some latents"]) -> list[Tensor]:
    """Draw the levels one after the other; no noise gives the means."""
    images = image.unsqueeze(0).repeat(len(noise), *(1 for _ in image.shape))
    drawn: list[Tensor] = []
    for part in noise.split(list(vae.levels), dim=1):
        drawn.append(vae.posterior(images.clone(), [z.clone() for z in drawn]).sample(part))  # may work in place
    return drawn


def _count(
    vae: HierarchicalVAE, image: Tensor, *, r: float, anchored: bool, samples: int, seed: int, sample_id: int
) -> int:
    """Count the draws in which two reconstructions of the unmoved image are within `r`."""
    latent = sum(vae.levels)
    at_once = draws_at_once(image.numel() + 2 * latent)
    count = 0
    for noise in noise_pieces(seed, sample_id, "hierarchical", samples, 2 * latent, at_once):
        moved, still = noise.to(image).split(latent, dim=1)
        other = vae.decode(_latents(vae, image, torch.zeros_like(still[:1]) if anchored else still))
        change = (vae.decode(_latents(vae, image, moved)) - other).flatten(1).double()
        count += int((change.norm(dim=1) <= r * (1 - TIE)).sum())
    return count


def _check_levels(vae: HierarchicalVAE, images: Tensor, whitened: Sequence[float]) -> None:
    """Hold the first image against one far from it: what was said of the levels must be true at least of these."""
    low, high = vae.input_range
    image, other = images[0], torch.where(images[0] > (low + high) / 2, low, high).to(images)
    noise = next(noise_pieces(0, 0, "hierarchical/check", _CHECKED, sum(vae.levels), _CHECKED)).to(image)
    drawn = _latents(vae, image, noise)
    apart = float((image - other).double().norm())
    for level, constant in enumerate(whitened):
        here, there = (
            vae.posterior(one.expand(_CHECKED, *one.shape).clone(), [z.clone() for z in drawn[:level]])
            for one in (image, other)
        )
        fine = bool(torch.isfinite(here.mean).all() and torch.isfinite(here.std).all() and (here.std > 0).all())
        require(fine, f"finite means and positive finite standard deviations at level {level + 1}", "others")
        if not torch.allclose(here.std, there.std, rtol=_SLACK, atol=0.0):
            raise NoSoundBound(f"level {level + 1}: the standard deviation depends on the image")
        moved = float(((there.mean - here.mean) / here.std).double().norm(dim=1).max())
        rounding = _SLACK * float((here.mean.abs() / here.std).max())
        believable = moved <= constant * apart + rounding
        require(believable, f"`whitened` >= {moved / apart:g} at level {level + 1}", constant)
