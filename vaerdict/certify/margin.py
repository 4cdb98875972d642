"""From a probability to a margin: one batched bisection, shared by all certificates (THEORY 5)."""

from collections.abc import Callable

import torch
from jaxtyping import Float64
from torch import Tensor

Probability = Callable[[Float64[Tensor, " batch"]], Float64[Tensor, " batch"]]


def solve_margin(
    probability: Probability, p: float, upper: Float64[Tensor, " batch"], steps: int = 60
) -> Float64[Tensor, " batch"]:
    """Give the largest radius found at which `probability(rho) > p` was evaluated and true.

    Args:
        probability: a lower bound of the probability, non-increasing in each radius.
        p: the level.
        upper: a radius per image at which the search may end, in input units.
        steps: bisections.

    Returns:
        A verified radius per image, below `upper`; 0 where none was verified.

    Raises:
        FloatingPointError: the probability is NaN somewhere.

    >>> solve_margin(lambda rho: 1 - rho, 0.5, torch.tensor([10.0], dtype=torch.float64))
    tensor([0.5000], dtype=torch.float64)
    """
    verified, failed = torch.zeros_like(upper), upper
    unknown = torch.zeros_like(upper, dtype=torch.bool)
    for _ in range(steps):
        middle = (verified + failed) / 2
        bound = probability(middle)
        unknown |= torch.isnan(bound)
        holds = bound > p
        verified = torch.where(holds, middle, verified)
        failed = torch.where(holds, failed, middle)
    if bool(unknown.any()):
        raise FloatingPointError("a bound of the probability is not a number")
    return verified
