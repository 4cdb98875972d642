"""Lower bounds of `P(|g(z') - g(z)| <= r)` as functions of how far the posterior can move (THEORY 4).

All are float64 and batched. `d` latents, `a`, `b`, `c` Lipschitz constants of decoder, mean and standard deviations,
`t = r / a` the distance in latent space that the decoder needs, `rho` the radius in input units.
"""

import math

import numpy as np
import torch
from jaxtyping import Float64
from scipy.special import chdtr
from scipy.stats import ncx2
from torch import Tensor

CDF_SLACK = 1e-9
"""What is taken off every CDF for its own numerical error; tests hold the CDF to a tenth of it against mpmath."""

_FAR = 1e5
"""Shifts of more standard deviations than this are left to the triangle inequality: there scipy's CDF ends in NaN."""


def isotropic_probability(
    d: int, t: float | Float64[Tensor, " batch"], shift: Float64[Tensor, " batch"], std: Float64[Tensor, " batch"]
) -> Float64[Tensor, " batch"]:
    """Bound `P(|N(m, std^2 I)| <= t)` over all `|m| <= shift` (THEORY 4.2): a non-central chi-square, exact.

    Decreasing in `shift`, and in `std` while `shift <= t`; beyond that nothing is claimed.

    >>> isotropic_probability(2, 1.0, torch.zeros(1).double(), torch.ones(1).double())
    tensor([0.3935], dtype=torch.float64)
    """
    reach, moved = (t / std).cpu().numpy(), (shift / std).cpu().numpy()  # ratios first: no square over- or underflows
    exact = np.asarray(ncx2.cdf(reach**2, d, np.minimum(moved, _FAR) ** 2))
    triangle = chdtr(d, np.maximum(reach - moved, 0.0) ** 2)  # smaller, but defined where the other gives up
    cdf = np.where((moved < _FAR) & (exact > triangle), exact, triangle)
    probability = torch.as_tensor(cdf, device=shift.device) - CDF_SLACK
    return torch.where(shift <= t, probability, 0.0).clamp(0.0, 1.0)


def barrett_tail(d: int, u: Float64[Tensor, " batch"]) -> Float64[Tensor, " batch"]:
    """Bound the tail `P(chi^2_d >= u)` as Barrett et al. (AISTATS 2022) do: Inglot's bound where it holds, else 1.

    >>> barrett_tail(2, torch.tensor([4.0], dtype=torch.float64)) >= math.exp(-2)
    tensor([True])
    """
    if d < 2:
        return torch.ones_like(u)
    inside = u > d - 2
    safe = torch.where(inside, u, d)  # any value of the domain, so that no NaN is made
    logarithm = (
        (d - (d - 1) * math.log(d)) / 2 - math.log(math.pi) / 2 + d / 2 * safe.log() - safe / 2 - (safe - d + 2).log()
    )
    return torch.where(inside, logarithm.exp().clamp(max=1.0), 1.0)


def barrett_probability(
    d: int,
    t: float | Float64[Tensor, " batch"],
    shift: Float64[Tensor, " batch"],
    std_norm: Float64[Tensor, " batch"],
    tail_scale: Float64[Tensor, " batch"],
) -> Float64[Tensor, " batch"]:
    """Bound the probability as published by Barrett et al. (THEORY 4.1): Markov or chi-square tail.

    Args:
        d: latents.
        t: `r / a`.
        shift: `b rho`.
        std_norm: `c rho + 2 |sigma|`.
        tail_scale: what divides `t - shift` in the tail: `std_norm`, or `sqrt(2) sigma` for a constant isotropic sigma.
    """
    markov = (shift / t).square() + (std_norm / t).square()
    tail = barrett_tail(d, ((t - shift) / tail_scale).square())
    tail = torch.where(shift <= t, tail, 1.0)
    return 1 - torch.minimum(markov.clamp(max=1.0), tail)


def gaussian_shift_probability(
    clean: Float64[Tensor, " batch"], whitened_shift: Float64[Tensor, " batch"]
) -> Float64[Tensor, " batch"]:
    """Bound the probability of any event after the Gaussian's mean moved (Neyman-Pearson, THEORY 4.4).

    Args:
        clean: lower bound of the event's probability before the move.
        whitened_shift: bound of the move, in standard deviations.
    """
    return torch.special.ndtr(torch.special.ndtri(clean) - whitened_shift) - CDF_SLACK
