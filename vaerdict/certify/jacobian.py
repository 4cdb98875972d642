"""Jacobians of the posterior mean at given images: they prove nothing, but say how much local bounds can gain."""

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from vaerdict.vae import BoundableVAE


def mean_jacobians(vae: BoundableVAE, images: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch latent pixels"]:
    """Give the Jacobian of the posterior mean at each image, one backward pass per latent; zeros if it is constant."""
    with torch.enable_grad():
        points = images.detach().requires_grad_()
        mean = vae.mean_map(points.clone())
        if not mean.requires_grad:
            return images.new_zeros(*mean.shape, images[0].numel())
        rows = [
            torch.autograd.grad(mean[:, i].sum(), points, retain_graph=True)[0].flatten(1) for i in range(mean.shape[1])
        ]
    return torch.stack(rows, 1)


def largest_singular_values(matrices: Float[Tensor, "batch rows columns"]) -> Float64[Tensor, " batch"]:
    """Give the largest singular value of each matrix with few rows, to some digits."""
    tall = matrices.double()
    return torch.linalg.eigvalsh(tall @ tall.mT)[:, -1].clamp(min=0.0).sqrt()
