"""The two reconstructions that the question compares (THEORY 1), for one draw per image."""

from jaxtyping import Float
from torch import Tensor

from vaerdict.attacks.batch import Batch
from vaerdict.vae import Posterior


def latent_of(
    batch: Batch, posterior: Posterior, noise: Float[Tensor, "batch draws drawn"]
) -> Float[Tensor, "batch latent"]:
    """Give the latent that the question decodes: the first draw, or the mean where the question knows no draws."""
    return posterior.sample(noise[:, 0]) if batch.question.draws else posterior.mean


def attacked(
    batch: Batch, images: Float[Tensor, "batch ..."], noise: Float[Tensor, "batch draws latent"]
) -> Float[Tensor, "batch ..."]:
    """Give the reconstruction of each attacked image, in pixel units."""
    return batch.vae.decode(latent_of(batch, batch.vae.encode(images), noise))


def clean(batch: Batch, noise: Float[Tensor, "batch draws latent"]) -> Float[Tensor, "batch ..."]:
    """Give the reconstruction of each clean image: of its own draw ("sampled"), else of its mean."""
    if batch.question.reconstruction == "sampled":
        return batch.vae.decode(batch.posterior.sample(noise[:, 1]))
    return batch.anchor
