"""Gradients inside a model, which an attack may differentiate once more."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor


def value_and_slope(
    function: Callable[[Tensor], Float[Tensor, " batch"]], points: Float[Tensor, "batch ..."], *others: Tensor
) -> tuple[Float[Tensor, " batch"], Float[Tensor, "batch ..."]]:
    """Give `function(points)` per sample and its gradient in the points, also where gradients are off.

    Both can be differentiated where gradients are on and the points or `others` ask for it: all tensors on which the
    function depends besides.

    >>> points = torch.tensor([[3.0]], requires_grad=True)
    >>> value, slope = value_and_slope(lambda x: x.square().sum(1), points)
    >>> slope.detach(), torch.autograd.grad(slope, points)[0]
    (tensor([[6.]]), tensor([[2.]]))
    """
    through = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (points, *others))
    with torch.enable_grad():
        if not (through and points.requires_grad):
            points = points.detach().requires_grad_()
        value = function(points.clone())  # a first layer may work in place
        (slope,) = torch.autograd.grad(value.sum(), points, create_graph=through)
    return (value, slope) if through else (value.detach(), slope)
