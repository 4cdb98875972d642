"""Draws of the unmoved images' reconstructions, which the statistical certificates start from (THEORY 7.4)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from vaerdict.seeds import normal_noise
from vaerdict.vae import VAE, Posterior

DECODED_AT_ONCE = 16_384
"""Latents decoded in one call; it bounds the memory whatever the number of images or draws."""

TIE = 1e-6
"""Distances this close to `r`, relatively, do not count as within it: they may be rounded."""


@dataclass(frozen=True)
class Pairs:
    """Pairs of reconstructions of the same images.

    Attributes:
        distances: between the two, L2 in pixel units.
        squares: of the noise in the first one's latents.
    """

    distances: Float64[Tensor, "batch draws"]
    squares: Float[Tensor, "batch draws latent"]


def draw_pairs(
    vae: VAE,
    posterior: Posterior,
    *,
    anchored: bool,
    samples: int,
    seed: int,
    sample_ids: Sequence[int],
    purpose: str,
) -> Pairs:
    """Draw pairs of reconstructions of the unmoved images, with noise that depends only on seed, sample and purpose.

    Two independent samples are compared; with `anchored` a sample is compared with the mean's reconstruction.
    """
    found = []
    for part in _parts(len(sample_ids), samples):
        some = Posterior(posterior.mean[part], posterior.std[part])
        noise = normal_noise(seed, sample_ids[part], purpose, (2, samples, posterior.mean.shape[1])).to(some.mean)
        found.append(Pairs(_distances(vae, some, noise, anchored=anchored), noise[:, 0].square()))
    return Pairs(torch.cat([one.distances for one in found]), torch.cat([one.squares for one in found]))


def count_images(
    vae: VAE,
    posterior: Posterior,
    *,
    r: float,
    anchored: bool,
    samples: int,
    seed: int,
    sample_ids: Sequence[int],
    roots: Float64[Tensor, "batch latent latent"] | None = None,
    purpose: str = "certify",
) -> Int64[Tensor, " batch"]:
    """Count the draws of each image in which the two reconstructions are within `r` of each other.

    The noise in the latents of the first, in standard deviations, is multiplied by the roots.
    """
    counts = []
    for part in _parts(len(sample_ids), samples):
        some = Posterior(posterior.mean[part], posterior.std[part])
        noise = normal_noise(seed, sample_ids[part], purpose, (2, samples, posterior.mean.shape[1]))
        if roots is not None:
            _widen(noise, roots[part])
        distances = _distances(vae, some, noise.to(some.mean), anchored=anchored)
        counts.append((distances <= r * (1 - TIE)).sum(1))
    return torch.cat(counts)


def _widen(noise: Float[Tensor, "batch 2 draws latent"], roots: Float64[Tensor, "batch latent latent"]) -> None:
    """Multiply the first noise by the roots, in place: image by image and in float64, the same in any batch."""
    for moved, root in zip(noise[:, 0], roots.cpu(), strict=True):
        moved.copy_(moved.double() @ root.mT)


def _parts(images: int, samples: int) -> Iterator[slice]:
    at_once = max(1, DECODED_AT_ONCE // samples)
    return (slice(start, start + at_once) for start in range(0, images, at_once))


def _distances(
    vae: VAE, posterior: Posterior, noise: Float[Tensor, "batch 2 draws latent"], *, anchored: bool
) -> Float64[Tensor, "batch draws"]:
    draws = noise.shape[2]
    mean, std = (part.repeat_interleave(draws, 0) for part in (posterior.mean, posterior.std))
    moved, still = noise.transpose(0, 1).flatten(1, 2)
    pieces = zip(*(part.split(DECODED_AT_ONCE) for part in (mean, std, moved, still)), strict=True)
    distances = [
        (vae.decode(m + s * e) - vae.decode(m.clone() if anchored else m + s * f)).flatten(1).double().norm(dim=1)
        for m, s, e, f in pieces
    ]
    return torch.cat(distances).unflatten(0, (-1, draws))
