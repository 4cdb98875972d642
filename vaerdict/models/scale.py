"""The typical distance between a model's reconstructions, in which `r` may be given."""

import torch
from jaxtyping import Float
from torch import Tensor

from vaerdict.options import require
from vaerdict.vae import VAE, borrowed, check_images


def median_distance(vae: VAE, images: Float[Tensor, "batch ..."], batch_size: int = 256) -> float:
    """Give the median L2 distance, in pixel units, between the reconstructions of different images' means.

    All pairs among the first 1,000 images count.

    Raises:
        ValueError: there are fewer than two images, or they are not the model's.
    """
    require(len(images) >= 2, "at least two images", len(images))
    check_images(vae, images)
    with borrowed(vae), torch.no_grad():
        parts = [vae.decode(vae.encode(batch.clone()).mean).flatten(1) for batch in images[:1000].split(batch_size)]
    return float(torch.pdist(torch.cat(parts)).median())
