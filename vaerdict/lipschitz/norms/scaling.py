"""Weights of any size brought to order one by a power of two, and bounds brought back."""

import math

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from vaerdict.lipschitz.floats import round_up


def to_numpy(weight: Float[Tensor, "*shape"]) -> Float[np.ndarray, "*shape"]:
    """Give a real tensor's values exactly, as float32 or float64.

    >>> import torch
    >>> to_numpy(torch.ones(2, dtype=torch.bfloat16))
    array([1., 1.])
    """
    values = weight.detach().cpu()
    known = values.dtype in (torch.float32, torch.float64)  # numpy knows fewer types
    return (values if known else values.double()).numpy()


def scale_to_one(weight: Float[np.ndarray, "*shape"]) -> tuple[Float[np.ndarray, "*shape"], int]:
    """Divide by a power of two that brings the entries into [-1, 1]: no overflow, what underflows is below any slack.

    Raises:
        ValueError: a weight is NaN, infinite or above 1e300.

    >>> scale_to_one(np.array([3.0]))
    (array([0.75]), 2)
    """
    scale = max(float(weight.max(initial=0.0)), -float(weight.min(initial=0.0)))
    if not math.isfinite(scale):
        raise ValueError("expected finite weights, got NaN or infinity")
    power = math.frexp(scale)[1]
    if power > 1000:
        raise ValueError(f"expected weights below 1e300, got {scale:g}")
    # A power of two may itself be out of range; `ldexp` is slow.
    exact = weight.astype(np.float64, copy=False)
    return (exact * 2.0**-power if abs(power) < 1000 else np.ldexp(exact, -power)), power


def scale_back(bound: float, power: int) -> float:
    """Undo `scale_to_one` on a bound, never below it."""
    value = math.ldexp(bound, power)
    return value if value > 1e-300 or bound == 0.0 else round_up(value)  # a subnormal result was rounded to nearest
