"""The evidence lower bound, in nats per image."""

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from vaerdict.models.gaussian import GaussianVAE
from vaerdict.options import ModelOptions


def kl_to_prior(mean: Float[Tensor, "batch latent"], std: Float[Tensor, "batch latent"]) -> Float[Tensor, " batch"]:
    """Give `KL(N(mean, std^2) | N(0, 1))` of each image, in nats.

    >>> kl_to_prior(torch.zeros(1, 3), torch.ones(1, 3))
    tensor([0.])
    """
    return 0.5 * (std.square() + mean.square() - 1 - 2 * std.log()).sum(1)


def log_likelihood(
    images: Float[Tensor, "batch ..."], reconstructions: Float[Tensor, "batch ..."], options: ModelOptions
) -> Float[Tensor, " batch"]:
    """Give `log p(x|z)` of each image, in nats, from its mean reconstruction.

    Raises:
        FloatingPointError: a reconstruction is not finite.

    >>> one = torch.ones(1, 1, 2, 2)
    >>> log_likelihood(one, one / 2, ModelOptions())
    tensor([-2.7726])
    """
    # Checked here because torch's Bernoulli likelihood of NaN stops with an error that says nothing of it.
    if not torch.isfinite(reconstructions).all():
        raise FloatingPointError("expected finite reconstructions, got NaN or infinity")
    if options.likelihood == "bernoulli":
        return -functional.binary_cross_entropy(reconstructions, images, reduction="none").flatten(1).sum(1)
    scaled = ((images - reconstructions) / options.observation_std).flatten(1)
    constant = scaled.shape[1] * math.log(options.observation_std * math.sqrt(2 * math.pi))
    return -0.5 * scaled.square().sum(1) - constant


def elbo(
    vae: GaussianVAE, images: Float[Tensor, "batch ..."], noise: Float[Tensor, "batch latent"], options: ModelOptions
) -> tuple[Float[Tensor, " batch"], Float[Tensor, " batch"]]:
    """Give, per image, the two terms of the ELBO in nats: `log p(x|z)` at one latent sample, and the KL term."""
    posterior = vae.encode(images)
    reconstructions = vae.decode(posterior.sample(noise))
    return log_likelihood(images, reconstructions, options), kl_to_prior(posterior.mean, posterior.std)
