"""From a probability to a margin: one batched search, shared by all certificates (THEORY 5)."""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float64
from torch import Tensor

Radii = Float64[Tensor, " batch"]
Probability = Callable[[Radii], Radii]

_CLOSE = 2.0**-32
"""The search ends where the largest verified and the smallest failed radius differ relatively by no more."""

_LEAST = 2.0**-60
"""The least share of the largest radius that is tried; at 0 itself a bound may be undefined."""


def solve_margin(probability: Probability, p: float, upper: Radii, steps: int = 60) -> Radii:
    """Give the largest radius found at which `probability(rho) > p` was evaluated and true.

    Inverse quadratic interpolation between three radii where Chandrupatla (Adv. Eng. Software 1997) trusts it, else
    bisection. What is evaluated for an image does not depend on the others.

    Args:
        probability: a lower bound of the probability, non-increasing in each radius; any function serves, with any
            level, where a radius is good if it is above that.
        p: the level.
        upper: the largest radius per image that is tried, in input units.
        steps: most evaluations besides those at the ends.

    Returns:
        A verified radius per image, at most `upper`; 0 where none was verified.

    Raises:
        FloatingPointError: the probability is NaN somewhere.

    >>> solve_margin(lambda rho: 1 - rho, 0.5, torch.tensor([10.0], dtype=torch.float64))
    tensor([0.5000], dtype=torch.float64)
    """

    def excess(rho: Radii) -> Radii:
        bound = probability(rho)
        if bool(torch.isnan(bound).any()):
            raise FloatingPointError("a bound of the probability is not a number")
        return bound - p

    last, other = upper, upper * _LEAST  # the latest radius, and the nearest on the other side of the margin
    at_last, at_other = excess(last), excess(other)
    open_ = (at_last <= 0) & (at_other > 0)
    share = torch.full_like(upper, 0.5)
    for _ in range(steps):
        if not bool(open_.any()):
            break
        here = torch.where(open_, last + share * (other - last), last)
        at_here = excess(here)
        same = (at_here > 0) == (at_last > 0)
        before, at_before = torch.where(same, last, other), torch.where(same, at_last, at_other)
        other = torch.where(open_ & ~same, last, other)
        at_other = torch.where(open_ & ~same, at_last, at_other)
        last, at_last = here, torch.where(open_, at_here, at_last)
        gap, least = (other - last).abs(), _CLOSE / 2 * torch.maximum(last, other)
        open_ = open_ & (gap > 2 * least)
        share = _next_share((last, other, before), (at_last, at_other, at_before))
        share = torch.minimum(torch.maximum(share, least / gap), 1 - least / gap)
    return torch.where(at_last > 0, last, torch.where(at_other > 0, other, 0.0))


def _next_share(radii: tuple[Radii, Radii, Radii], values: tuple[Radii, Radii, Radii]) -> Radii:
    """Give where to go on from the first radius towards the second: where the inverse quadratic is 0, or half-way."""
    (x1, x2, x3), (f1, f2, f3) = radii, values
    xi, phi = (x1 - x2) / (x3 - x2), (f1 - f2) / (f3 - f2)
    trusted: Bool[Tensor, " batch"] = (phi.square() < xi) & ((1 - phi).square() < 1 - xi)
    zero = f1 / (f2 - f1) * f3 / (f2 - f3) + (x3 - x1) / (x2 - x1) * f1 / (f3 - f1) * f2 / (f3 - f2)
    return torch.where(trusted, zero, 0.5)
