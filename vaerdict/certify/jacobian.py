"""Jacobians of the posterior mean at given images: they prove nothing, but say how much local bounds can gain."""

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from vaerdict.vae import VAE

MOST_LATENTS = 128
"""One backward pass per latent: beyond this many nobody waits for it."""


def mean_jacobians(vae: VAE, images: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch latent pixels"]:
    """Give the Jacobian of the posterior mean at each image, one backward pass per latent."""
    with torch.enable_grad():
        points = images.detach().requires_grad_()
        mean = vae.encode(points.clone()).mean
        rows = [
            torch.autograd.grad(mean[:, i].sum(), points, retain_graph=True)[0].flatten(1) for i in range(mean.shape[1])
        ]
    return torch.stack(rows, 1)


def largest_singular_values(matrices: Float[Tensor, "batch rows columns"]) -> Float64[Tensor, " batch"]:
    """Give the largest singular value of each matrix with few rows, to some digits."""
    tall = matrices.double()
    return torch.linalg.eigvalsh(tall @ tall.mT)[:, -1].clamp(min=0.0).sqrt()
