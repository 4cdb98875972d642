"""Robustness specified up front: the Lipschitz budgets that promise a margin at every input (THEORY 6)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float64
from torch import Tensor

from vaerdict.certify.margin import solve_margin
from vaerdict.certify.probability import barrett_probability, isotropic_probability
from vaerdict.options import Question, require

SPARE = 1e-4
"""Share of every constant that is kept back: float32 layers exceed the norm they are given by some 1e-6."""

_LEAST = 1e-6
"""Products `a b` below this are refused: such a decoder gives all inputs the same image, as float32 has it."""


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

    Only `sigma / b` matters besides: `(a, b, sigma)` and `(a / k, k b, k sigma)` promise the same. The rounding of the
    network's evaluation is not in it.

    Args:
        latent: number of latent coordinates.
        r: distance between reconstructions, L2 in pixel units.
        margin: how far an input may move, L2 in pixel units.
        b: Lipschitz constant of the encoder's mean.
        sigmas: posterior standard deviations to try.
        p: level.

    Returns:
        One design per `sigma`, in their order; a constant is 0 where none was found.

    Raises:
        ValueError: a number is not positive or too far from the others, or `p` is outside [1/2, 1).

    >>> [design] = design_frontier(latent=10, r=8.0, margin=0.3085, b=5.0, sigmas=[0.1])
    >>> round(design.a_isotropic, 2)
    5.0
    """
    Question(r=r, p=p)
    for name, value in {"latent": latent, "margin": margin, "b": b, "least sigma": min(sigmas)}.items():
        require(value > 0, f"`{name}` > 0", value)
    shift = b * margin
    require(0 < shift < math.inf and r / shift < math.inf, "a `margin` times `b` that a float can hold", shift)
    near = all(1e-100 <= sigma / shift <= 1e100 for sigma in sigmas)  # so that no square overflows
    require(near, "only `sigmas` within a factor of 1e100 of `margin` times `b`", shift)
    std = torch.tensor(sigmas, dtype=torch.float64)

    def barrett(a: Tensor) -> Tensor:
        spread = math.sqrt(2) * std
        return barrett_probability(latent, r / a, torch.full_like(std, shift), 2 * math.sqrt(latent) * std, spread)

    def isotropic(a: Tensor) -> Tensor:
        return by_isotropic(latent, r, shift, std, a)

    most = torch.full_like(std, r / shift)  # beyond it the shift alone is too large
    largest = ((1 - SPARE) * solve_margin(bound, p, most) for bound in (barrett, isotropic))
    return [
        Design(sigma=sigma, b=b, a_barrett=theirs, a_isotropic=ours)
        for sigma, theirs, ours in zip(sigmas, *(a.tolist() for a in largest), strict=True)
    ]


def by_isotropic(
    latent: int, r: float, shift: float, std: Float64[Tensor, " batch"], a: Float64[Tensor, " batch"]
) -> Float64[Tensor, " batch"]:
    """Bound the probability of a reconstruction within `r` after a `shift` of the mean (THEORY 4.2), for each `a`.

    >>> one = torch.ones(1, dtype=torch.float64)
    >>> by_isotropic(10, 8.0, 0.3, 0.1 * one, 15.0 * one) > 0.5
    tensor([True])
    """
    return isotropic_probability(latent, r / a, torch.full_like(std, shift), math.sqrt(2) * std)


def choose_design(designs: Sequence[Design], *, r: float, margin: float, sigma: float | None = None) -> Design:
    """Choose the design to train: the one with the standard deviation `sigma`, or one that pays half for its noise.

    As `sigma` falls, the product `a b` rises to `r / margin`, and each halving costs a VAE up to `d ln 2` nats more of
    KL divergence. Without `sigma` this takes the largest one that keeps half of `r / margin`: beyond it `a b` is lost
    nearly in proportion, below it there is at most a factor of two to gain. Where none keeps half, the smallest.

    Raises:
        ValueError: no design has this `sigma`, or its decoder would be constant in float32.

    >>> designs = design_frontier(latent=10, r=8.0, margin=0.3, b=1.0, sigmas=[0.02, 0.05, 0.1, 0.2])
    >>> choose_design(designs, r=8.0, margin=0.3).sigma
    0.1
    """
    if sigma is None:
        keeping = [design.sigma for design in designs if design.a_isotropic * design.b >= 0.5 * r / margin]
        sigma = max(keeping) if keeping else min(design.sigma for design in designs)
    chosen = next((design for design in designs if design.sigma == sigma), None)
    if chosen is None:
        raise ValueError(f"expected `sigma` among {', '.join(repr(design.sigma) for design in designs)}, got {sigma}")
    reached = chosen.a_isotropic * chosen.b >= _LEAST
    require(reached, f"a `margin` that is promised by some `a*b` >= {_LEAST!r} at sigma = {sigma!r}", margin)
    return chosen
