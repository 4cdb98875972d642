"""L2 norms free of overflow and underflow, up to float64 rounding that the callers add."""

import torch
from jaxtyping import Float
from torch import Tensor


def norm_of_each(values: Float[Tensor, "batch ..."]) -> Float[Tensor, " batch"]:
    """Give the L2 norm of every entry of a batch.

    >>> norm_of_each(torch.tensor([[3e-200, 4e-200]], dtype=torch.float64)) > 4.9e-200
    tensor([True])
    """
    flat = values.flatten(1)
    largest = flat.abs().amax(1) if flat.shape[1] else flat.new_zeros(len(flat))
    ordinary = (largest > 0) & torch.isfinite(largest)
    scale = torch.where(ordinary, largest, 1.0)
    return torch.where(ordinary, scale * (flat / scale[:, None]).norm(dim=1), largest)


def frobenius(values: Float[Tensor, "..."]) -> float:
    """Give the L2 norm of all values together.

    >>> frobenius(torch.tensor([3.0, 4.0]).double())
    5.0
    """
    return float(norm_of_each(values.reshape(1, -1)))
