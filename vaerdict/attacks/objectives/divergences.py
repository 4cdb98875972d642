"""How far one diagonal Gaussian posterior is from another, one number per image, in nats or squared latent units."""

from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from vaerdict.vae import Posterior

Divergence = Literal["kl", "kl-reverse", "kl-symmetric", "l2", "wasserstein"]


def divergence_kl(one: Posterior, other: Posterior) -> Float[Tensor, " batch"]:
    """Give `KL(one | other)` of diagonal Gaussians, in nats.

    >>> one = Posterior(torch.zeros(1, 2), torch.ones(1, 2))
    >>> divergence_kl(one, Posterior(torch.ones(1, 2), torch.ones(1, 2)))
    tensor([1.])
    """
    variance = (one.std / other.std).square()
    shift = ((one.mean - other.mean) / other.std).square()
    return (variance - 1 - variance.log() + shift).sum(1) / 2


def divergence_kl_reverse(one: Posterior, other: Posterior) -> Float[Tensor, " batch"]:
    """Give `KL(other | one)`, in nats.

    >>> one = Posterior(torch.zeros(1, 1), torch.full((1, 1), 2.0))
    >>> divergence_kl_reverse(one, Posterior(torch.zeros(1, 1), torch.ones(1, 1)))
    tensor([0.3181])
    """
    return divergence_kl(other, one)


def divergence_kl_symmetric(one: Posterior, other: Posterior) -> Float[Tensor, " batch"]:
    """Give the mean of both directions' KL (Kuzina et al. 2021), in nats.

    >>> one = Posterior(torch.zeros(1, 1), torch.full((1, 1), 2.0))
    >>> divergence_kl_symmetric(one, Posterior(torch.zeros(1, 1), torch.ones(1, 1)))
    tensor([0.5625])
    """
    return (divergence_kl(one, other) + divergence_kl(other, one)) / 2


def divergence_l2(one: Posterior, other: Posterior) -> Float[Tensor, " batch"]:
    """Give the squared distance of the means, in squared latent units.

    >>> one = Posterior(torch.zeros(1, 2), torch.ones(1, 2))
    >>> divergence_l2(one, Posterior(torch.tensor([[3.0, 4.0]]), torch.ones(1, 2)))
    tensor([25.])
    """
    return (one.mean - other.mean).square().sum(1)


def divergence_wasserstein(one: Posterior, other: Posterior) -> Float[Tensor, " batch"]:
    """Give the squared 2-Wasserstein distance, `|mean - mean'|^2 + |std - std'|^2`, in squared latent units.

    >>> one = Posterior(torch.zeros(1, 2), torch.ones(1, 2))
    >>> divergence_wasserstein(one, Posterior(torch.tensor([[3.0, 0.0]]), torch.tensor([[3.0, 1.0]])))
    tensor([13.])
    """
    return divergence_l2(one, other) + (one.std - other.std).square().sum(1)


def divergence_to_normal(one: Posterior, std: float | Float[Tensor, "batch latent"] = 1.0) -> Float[Tensor, " batch"]:
    """Give `KL(one | N(0, std^2))`, in nats; the prior's for a `std` of 1.

    >>> divergence_to_normal(Posterior(torch.ones(1, 2), torch.ones(1, 2)))
    tensor([1.])
    """
    wide = std if isinstance(std, Tensor) else torch.full_like(one.mean, std)
    return divergence_kl(one, Posterior(torch.zeros_like(one.mean), wide))


DIVERGENCES: dict[Divergence, Callable[[Posterior, Posterior], Tensor]] = {
    "kl": divergence_kl,
    "kl-reverse": divergence_kl_reverse,
    "kl-symmetric": divergence_kl_symmetric,
    "l2": divergence_l2,
    "wasserstein": divergence_wasserstein,
}
"""The first argument is the attacked posterior, the second that of the target or of the clean image."""
