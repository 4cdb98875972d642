"""Robustness specified up front: the Lipschitz budgets that promise a margin at every input (THEORY 6)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vaerdict.certify.margin import solve_margin
from vaerdict.certify.probability import barrett_probability, isotropic_probability
from vaerdict.options import Question, require

_SPARE = 1 - 1e-5
"""Share of the budget that is handed out: float32 layers exceed the norm they are given by some 1e-7."""


@dataclass(frozen=True, kw_only=True)
class Design:
    """Budgets for a constant isotropic posterior that promise the margin.

    Attributes:
        sigma: posterior standard deviation.
        b: Lipschitz constant of the encoder's mean.
        a_barrett: largest Lipschitz constant of the decoder by the bound of Barrett et al.
        a_isotropic: the same by the exact bound.
    """

    sigma: float
    b: float
    a_barrett: float
    a_isotropic: float


def design_frontier(
    *, latent: int, r: float, margin: float, b: float, sigmas: Sequence[float], p: float = 0.5
) -> list[Design]:
    """Give, for each `sigma`, the largest decoder constant with which the margin is promised at every input.

    Only `sigma / b` matters besides: `(a, b, sigma)` and `(a / k, k b, k sigma)` promise the same.

    Raises:
        ValueError: a number is not positive, or `p` is outside [1/2, 1).

    >>> [design] = design_frontier(latent=10, r=8.0, margin=0.3085, b=5.0, sigmas=[0.1])
    >>> round(design.a_isotropic, 3)
    5.0
    """
    Question(r=r, p=p)
    for name, value in {"latent": latent, "margin": margin, "b": b, "least sigma": min(sigmas)}.items():
        require(value > 0, f"`{name}` > 0", value)
    std = torch.tensor(sigmas, dtype=torch.float64)
    shift = torch.full_like(std, b * margin)
    spread = math.sqrt(2) * std

    def isotropic(a: Tensor) -> Tensor:
        return isotropic_probability(latent, r / a, shift, spread)

    def barrett(a: Tensor) -> Tensor:
        return barrett_probability(latent, r / a, shift, 2 * math.sqrt(latent) * std, spread)

    most = torch.full_like(std, r / (b * margin))  # beyond it the shift alone is too large
    by_barrett, by_isotropic = (_SPARE * solve_margin(bound, p, most) for bound in (barrett, isotropic))
    return [
        Design(sigma=sigma, b=b, a_barrett=theirs, a_isotropic=ours)
        for sigma, theirs, ours in zip(sigmas, by_barrett.tolist(), by_isotropic.tolist(), strict=True)
    ]
