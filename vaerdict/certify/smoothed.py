"""The smoothed reconstruction (THEORY 4.10): the centre of what a VAE makes of an image and noise, found by sampling.

After Kumar and Goldstein (NeurIPS 2021): of some candidates, drawn like everything here from the reconstructions of the
image plus noise (each with its own latent draw), the one whose ball around a little over half of the other draws is
smallest, unless fresh draws fail to show that this ball has a probability above `1/2 - delta`; then there is none.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from vaerdict.certify.draws import draws_at_once, noise_pieces, number_samples
from vaerdict.certify.statistics import clopper_pearson_lower, order_statistic_index, samples_needed, split_confidence
from vaerdict.options import require
from vaerdict.vae import VAE, borrowed, check_images

Draw = Callable[[str, int], Iterator[Float64[Tensor, "some pixels"]]]
"""From a purpose and a number of draws to that many reconstructions, piece by piece."""

CANDIDATES = 32
"""Draws, one of which becomes the smoothed reconstruction."""

SELECTION = 4000
"""Draws that choose among the candidates, and as many again that test the choice."""

SHARE = 0.55
"""`u`, the probability that the small ball must keep; `1 - u` (exact in floats) is what the centre's must exceed."""


def confidence_of_each(confidence: float) -> float:
    """Give the confidence of each of the four statements: candidate, other draws, test and clean probability.

    >>> round(confidence_of_each(0.996), 12)
    0.999
    """
    return split_confidence(confidence, 4)


@dataclass(frozen=True, kw_only=True)
class Center:
    """A smoothed reconstruction; with a `reason` there is none, and the rest says how the search went.

    Attributes:
        pixels: the candidate that was chosen, float64.
        radius: of the ball around it.
        tested: how many of the fresh draws fell into the ball.
        reason: why the ball was not accepted; empty where it was.
    """

    pixels: Float64[Tensor, " pixels"] = field(repr=False, compare=False)
    radius: float
    tested: int
    reason: str = ""


def estimate_centers(
    vae: VAE,
    images: Float[Tensor, "batch ..."],
    *,
    noise_std: float,
    confidence: float = 0.999,
    seed: int = 0,
    sample_ids: Sequence[int] | None = None,
) -> list[Center]:
    """Find the smoothed reconstructions that the certificates `center` and `latent_center` speak of.

    Args:
        vae: any VAE.
        images: `[B, *input_shape]`, pixels in the model's `input_range`.
        noise_std: standard deviation of the noise on the pixels; 0 leaves the posterior's own noise.
        confidence: as in the certificate's row.
        seed: as in the row for the image that was certified; another one for a moved image, which has its own draws.
        sample_ids: index of each image in its source; default 0, 1, 2, ...

    Raises:
        ValueError: images outside the model's range, `noise_std` < 0, `confidence` outside (0, 1).

    >>> from vaerdict.models import build_vae
    >>> from vaerdict.options import ModelOptions
    >>> vae = build_vae(ModelOptions(hidden=(8,), latent=2), name="toy", input_shape=(1, 4, 4))
    >>> (found,) = estimate_centers(vae, torch.rand(1, 1, 4, 4), noise_std=0.1)
    >>> found.pixels.shape, found.reason
    (torch.Size([16]), '')
    """
    draws = prepare_draws(vae, images, noise_std, seed, number_samples(len(images), sample_ids))
    with borrowed(vae), torch.no_grad():
        return [find_center(draw, confidence) for draw in draws]


def count_candidates(confidence: float) -> int:
    """Give how many candidates there are: enough that one lies in a set of probability `u`.

    >>> count_candidates(0.999)
    32
    """
    return max(CANDIDATES, samples_needed(1 - SHARE, confidence_of_each(confidence)))


def prepare_draws(vae: VAE, images: Tensor, noise_std: float, seed: int, sample_ids: Sequence[int]) -> list[Draw]:
    """Give what draws the reconstructions of each image.

    Raises:
        ValueError: images outside the model's range, `noise_std` < 0.
    """
    check_images(vae, images)
    require(0 <= noise_std < torch.inf, "a finite `noise_std` >= 0", noise_std)
    return [
        partial(_reconstructions, vae, image, noise_std, seed, sample_id)
        for image, sample_id in zip(images, sample_ids, strict=True)
    ]


def _reconstructions(
    vae: VAE, image: Tensor, noise_std: float, seed: int, sample_id: int, purpose: str, draws: int
) -> Iterator[Float64[Tensor, "some pixels"]]:
    """Draw reconstructions of one image with noise on its pixels and its latent, each purpose with its own noise."""
    pixels = image.numel() if noise_std > 0 else 0
    numbers, at_once = pixels + vae.latent, draws_at_once(image.numel() + vae.latent)
    for noise in noise_pieces(seed, sample_id, f"center/{purpose}", draws, numbers, at_once):
        on_pixels, on_latents = noise.to(image).split([pixels, vae.latent], dim=1)
        moved = noise_std * on_pixels.unflatten(1, image.shape) if pixels else torch.zeros_like(image).unsqueeze(0)
        posterior = vae.encode(image + moved)
        yield vae.decode(posterior.sample(on_latents)).flatten(1).double()


def _distances(
    some: Float64[Tensor, "some pixels"], centers: Float64[Tensor, "centers pixels"]
) -> Float64[Tensor, "some centers"]:
    """Give L2 distances; infinite where a reconstruction is not finite, so that it never counts as near."""
    exact = torch.cdist(some, centers, compute_mode="donot_use_mm_for_euclid_dist")
    return exact.nan_to_num(nan=torch.inf, posinf=torch.inf)


def count_near(pieces: Iterator[Tensor], center: Tensor, radius: float) -> int:
    """Count the reconstructions within `radius` of the centre."""
    return sum(int((_distances(piece, center.unsqueeze(0)) <= radius).sum()) for piece in pieces)


def find_center(draw: Draw, confidence: float) -> Center:
    """Choose the candidate with the smallest ball, then test that ball on fresh draws."""
    each, rest = confidence_of_each(confidence), 1 - SHARE
    candidates = torch.cat(list(draw("candidates", count_candidates(confidence))))
    distances = torch.cat([_distances(piece, candidates) for piece in draw("select", SELECTION)])
    nearest = order_statistic_index(SELECTION, rest, each)
    radius, best = distances.kthvalue(nearest, dim=0).values.min(dim=0)
    center = candidates[best]
    if not torch.isfinite(radius):
        return Center(pixels=center, radius=float(radius), tested=0, reason="too many reconstructions are not finite")
    tested = count_near(draw("test", SELECTION), center, float(radius))
    shown = clopper_pearson_lower(tested, SELECTION, each)
    reason = f"the ball of the centre is only shown to have a probability of {shown:.3g}, not above {rest:.3g}"
    return Center(pixels=center, radius=float(radius), tested=tested, reason="" if shown > rest else reason)
