"""The probability of the clean event by Monte Carlo, which the Gaussian-shift certificate starts from (THEORY 7.4)."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int64
from scipy.stats import beta
from torch import Tensor

from vaerdict.seeds import normal_noise
from vaerdict.vae import VAE, Posterior

DECODED_AT_ONCE = 16_384
"""Latents decoded in one call; it bounds the memory whatever the number of images or draws."""

TIE = 1e-6
"""Distances this close to `r`, relatively, do not count as within it: they may be rounded."""


def clopper_pearson_lower(successes: int, trials: int, confidence: float) -> float:
    """Give the exact one-sided lower confidence bound of a probability (Clopper and Pearson 1934).

    >>> round(clopper_pearson_lower(1000, 1000, 0.999), 4)
    0.9931
    """
    if successes == 0:
        return 0.0
    return float(beta.ppf(1 - confidence, successes, trials - successes + 1))


def count_within(
    vae: VAE, posterior: Posterior, noise: Float[Tensor, "batch 2 draws latent"], *, r: float, anchored: bool
) -> Int64[Tensor, " batch"]:
    """Count, per image, the draws in which two reconstructions of the unmoved input are within `r`.

    Two independent samples are compared; with `anchored` a sample is compared with the mean's reconstruction.
    """
    draws = noise.shape[2]
    mean, std = (part.repeat_interleave(draws, 0) for part in (posterior.mean, posterior.std))
    moved, still = noise.transpose(0, 1).flatten(1, 2)
    pieces = zip(*(part.split(DECODED_AT_ONCE) for part in (mean, std, moved, still)), strict=True)
    within = [
        (vae.decode(m + s * e) - vae.decode(m.clone() if anchored else m + s * f)).flatten(1).double().norm(dim=1)
        <= r * (1 - TIE)
        for m, s, e, f in pieces
    ]
    return torch.cat(within).unflatten(0, (-1, draws)).sum(1)


def count_images(
    vae: VAE, posterior: Posterior, *, r: float, anchored: bool, samples: int, seed: int, sample_ids: Sequence[int]
) -> Int64[Tensor, " batch"]:
    """Count as `count_within` does, some images at a time, with noise that depends only on seed and sample."""
    at_once = max(1, DECODED_AT_ONCE // samples)
    counts = []
    for start in range(0, len(sample_ids), at_once):
        part = slice(start, start + at_once)
        some = Posterior(posterior.mean[part], posterior.std[part])
        noise = normal_noise(seed, sample_ids[part], "certify", (2, samples, posterior.mean.shape[1]))
        counts.append(count_within(vae, some, noise.to(some.mean), r=r, anchored=anchored))
    return torch.cat(counts)
