"""The closed-form margins, batched over posteriors, and as functions of plain numbers."""

import math

import torch
from jaxtyping import Float64
from torch import Tensor

from vaerdict.certify.margin import solve_margin
from vaerdict.certify.probability import barrett_probability, isotropic_probability
from vaerdict.options import Question, require


def barrett_margins(
    std: Float64[Tensor, "batch latent"],
    *,
    a: float,
    b: float,
    c: float,
    r: float | Float64[Tensor, " batch"],
    p: float,
    mean_off: float | Float64[Tensor, " batch"] = 0.0,
    std_off: float | Float64[Tensor, " batch"] = 0.0,
) -> Float64[Tensor, " batch"]:
    """Give the margins of Barrett et al. (AISTATS 2022), as published (THEORY 4.1), in input units.

    One search on the larger of their two probabilities finds the larger of their two margins. With `c = 0` and
    equal standard deviations the authors' sharper constant form is used.

    Args:
        std: posterior standard deviations.
        a: Lipschitz constant of the decoder.
        b: Lipschitz constant of the posterior mean.
        c: Lipschitz constant of the vector of standard deviations.
        r: allowed distance between reconstructions.
        p: level.
        mean_off: what the mean may move besides, by rounding.
        std_off: the same for the vector of standard deviations.
    """
    t = torch.as_tensor(r, dtype=std.dtype, device=std.device).expand(len(std)) / a
    constant = c == 0.0 and bool((std == std[:, :1]).all())

    def probability(rho: Tensor) -> Tensor:
        std_norm = c * rho + std_off + 2 * std.norm(dim=1)
        tail_scale = math.sqrt(2) * std[:, 0] if constant else std_norm
        return barrett_probability(std.shape[1], t, b * rho + mean_off, std_norm, tail_scale)

    return solve_margin(probability, p, t / b)


def isotropic_margins(
    std: Float64[Tensor, " batch"],
    *,
    latent: int,
    a: float,
    b: float,
    c: float,
    r: float,
    p: float,
    anchored: bool = False,
) -> Float64[Tensor, " batch"]:
    """Give the margins for isotropic posteriors (THEORY 4.2), in input units; none that knows only these is larger.

    Args:
        std: the standard deviation that all coordinates share.
        latent: number of coordinates.
        a: Lipschitz constant of the decoder.
        b: Lipschitz constant of the posterior mean.
        c: Lipschitz constant of the shared standard deviation.
        r: allowed distance between reconstructions.
        p: level.
        anchored: compare a sample with the reconstruction of the clean mean, not with a clean sample.
    """
    t = r / a
    clean = torch.zeros_like(std) if anchored else std

    def probability(rho: Tensor) -> Tensor:
        spread = torch.hypot(std + c * rho, clean)
        return isotropic_probability(latent, t, b * rho, spread)

    return solve_margin(probability, p, torch.full_like(std, t / b))


def margin_barrett(*, latent: int, sigma: float, a: float, b: float, r: float, p: float = 0.5) -> float:
    """Give the margin of Barrett et al. for a constant isotropic posterior `sigma`, in input units.

    Raises:
        ValueError: a number is not positive, or `p` is outside [1/2, 1).

    >>> round(margin_barrett(latent=10, sigma=0.1, a=5, b=5, r=8), 4)
    0.2245
    """
    _check(latent=latent, sigma=sigma, a=a, b=b, r=r, p=p)
    std = torch.full((1, latent), sigma, dtype=torch.float64)
    return float(barrett_margins(std, a=a, b=b, c=0.0, r=r, p=p))


def margin_isotropic(*, latent: int, sigma: float, a: float, b: float, r: float, p: float = 0.5) -> float:
    """Give the exact margin for a constant isotropic posterior `sigma`, in input units.

    Raises:
        ValueError: a number is not positive, or `p` is outside [1/2, 1).

    >>> round(margin_isotropic(latent=10, sigma=0.1, a=5, b=5, r=8), 4)
    0.3085
    """
    _check(latent=latent, sigma=sigma, a=a, b=b, r=r, p=p)
    std = torch.tensor([sigma], dtype=torch.float64)
    return float(isotropic_margins(std, latent=latent, a=a, b=b, c=0.0, r=r, p=p))


def _check(*, r: float, p: float, **positive: float) -> None:
    Question(r=r, p=p)
    for name, value in positive.items():
        require(value > 0 and math.isfinite(value), f"`{name}` > 0", value)
