"""Center smoothing (THEORY 4.10): a certificate of the smoothed reconstruction, for any encoder and decoder at all.

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
candidate, too few others, the test of `z'`, `p_low`) share `1 - confidence`.

The strength is statistical. Float noise is not exactly translation-invariant (Voracek and Hein, ICLR 2023): a model
made to read the last digits of `x + noise` could break the claim, which is about Gaussian noise on real numbers.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from vaerdict.certify.draws import number_samples
from vaerdict.certify.monte_carlo import TIE
from vaerdict.certify.probability import gaussian_shift_probability
from vaerdict.certify.smoothed import Center, CenterOptions, Draw, count_near, find_center, prepare_draws
from vaerdict.certify.statistics import margins_from_counts
from vaerdict.lipschitz import NoSoundBound
from vaerdict.options import require
from vaerdict.vae import VAE, BoundableVAE, borrowed


@dataclass(frozen=True, kw_only=True)
class CenterResult:
    """What is certified of one image's smoothed reconstruction.

    Attributes:
        sample_id: of the image.
        margin: L2 in pixel units; 0 with a `reason` where nothing is certified.
        center: the smoothed reconstruction.
        within: draws within `r/3` of it, of `options.samples`.
        clean: their Clopper-Pearson lower bound.
        reason: why nothing is certified; empty where something is.
    """

    sample_id: int
    margin: float
    center: Center
    within: int
    clean: float
    reason: str = ""


def certify_center(
    vae: VAE,
    images: Float[Tensor, "batch ..."],
    *,
    r: float,
    noise_std: float,
    options: CenterOptions = CenterOptions(),  # noqa: B008 - frozen
    seed: int = 0,
    sample_ids: Sequence[int] | None = None,
) -> list[CenterResult]:
    """Certify how far each image may move before its smoothed reconstruction moves by more than `r`.

    It says nothing about the model without smoothing, and must not be held against attacks on that.

    Args:
        vae: any VAE; no Lipschitz constant is needed.
        images: `[B, *input_shape]`, pixels in the model's `input_range`.
        r: allowed L2 distance between smoothed reconstructions, in pixel units.
        noise_std: standard deviation of the noise added to the pixels, which may leave `input_range` by it.
        options: numbers of draws and the confidence.
        seed: of the draws; each image has its own.
        sample_ids: index of each image in its source; default 0, 1, 2, ...

    Raises:
        ValueError: images outside the model's range, `r` or `noise_std` not positive.

    >>> from vaerdict.models import build_vae
    >>> from vaerdict.options import ModelOptions
    >>> vae = build_vae(ModelOptions(hidden=(8,), latent=2), name="toy", input_shape=(1, 4, 4))
    >>> (result,) = certify_center(vae, torch.rand(1, 1, 4, 4), r=9.0, noise_std=0.1)
    >>> round(result.margin, 3)
    0.302
    """
    require(0 < noise_std < torch.inf, "a finite `noise_std` > 0", noise_std)
    sample_ids = number_samples(len(images), sample_ids)
    draws = prepare_draws(vae, images, noise_std, seed, sample_ids)
    with borrowed(vae), torch.no_grad():
        return _certify(draws, r, lambda rho: rho / noise_std, options, sample_ids)


def certify_latent_center(
    vae: BoundableVAE,
    images: Float[Tensor, "batch ..."],
    *,
    r: float,
    whitened: Callable[[Float64[Tensor, " batch"]], Float64[Tensor, " batch"]],
    options: CenterOptions = CenterOptions(),  # noqa: B008 - frozen
    seed: int = 0,
    sample_ids: Sequence[int] | None = None,
) -> list[CenterResult]:
    """Certify the centre of `g(z)`, `z ~ q(.|x)`: the posterior's own noise smooths, none is added.

    Args:
        vae: its standard deviations must not depend on the image.
        images: `[B, *input_shape]`, pixels in the model's `input_range`.
        r: allowed L2 distance between the centres, in pixel units.
        whitened: from one radius per image to a proved bound, per image, on how far the posterior mean moves within
            it, in standard deviations; `lambda rho: b / std * rho` with a global Lipschitz constant.
        options: numbers of draws and the confidence.
        seed: of the draws; each image has its own.
        sample_ids: index of each image in its source; default 0, 1, 2, ...

    Raises:
        NoSoundBound: the standard deviations depend on the image.
        ValueError: images outside the model's range, `r` not positive.

    >>> from vaerdict.models import build_vae
    >>> from vaerdict.options import ModelOptions
    >>> vae = build_vae(ModelOptions(hidden=(8,), latent=2), name="toy", input_shape=(1, 4, 4))
    >>> (result,) = certify_latent_center(vae, torch.rand(1, 1, 4, 4), r=9.0, whitened=lambda rho: 50 * rho)
    >>> round(result.margin, 4)
    0.0604
    """
    sample_ids = number_samples(len(images), sample_ids)
    draws = prepare_draws(vae, images, 0.0, seed, sample_ids)
    with borrowed(vae), torch.no_grad():
        std = vae.encode(images.clone()).std
        if vae.std_map is not None or not bool((std == std[:1]).all()):
            raise NoSoundBound("the latent centre: the posterior's standard deviation depends on the image")
        return _certify(draws, r, whitened, options, sample_ids)


def _certify(
    draws: Sequence[Draw],
    r: float,
    whitened: Callable[[Float64[Tensor, " batch"]], Float64[Tensor, " batch"]],
    options: CenterOptions,
    sample_ids: Sequence[int],
) -> list[CenterResult]:
    require(0 < r < torch.inf, "a finite `r` > 0", r)
    centers = [find_center(draw, options) for draw in draws]
    near = r / 3 * (1 - TIE)  # what is taken off outweighs the rounding of all three distances
    within = [
        0 if center.reason else count_near(draw("certify", options.samples), center.pixels, near)
        for draw, center in zip(draws, centers, strict=True)
    ]
    clean, margins = margins_from_counts(
        within,
        options.samples,
        confidence=options.each,
        p=options.share,
        shifted=lambda clean, rho: gaussian_shift_probability(clean, whitened(rho).clamp(min=0.0)),
    )
    return [
        CenterResult(
            sample_id=sample_id,
            margin=margin,
            center=center,
            within=count,
            clean=probability,
            reason=center.reason or _reason(margin, probability, options.share),
        )
        for sample_id, center, count, probability, margin in zip(
            sample_ids, centers, within, clean.tolist(), margins.tolist(), strict=True
        )
    ]


def _reason(margin: float, clean: float, share: float) -> str:
    if margin > 0:
        return ""
    return f"the ball of radius r/3 is only shown to have a probability of {clean:.3g}, not above {share:.3g}"
