"""Linear layers written out as matrices."""

import math

import torch
from torch import Tensor, nn


@torch.no_grad()
def written_out(layer: nn.Module, shape: tuple[int, ...]) -> Tensor:
    """Give the matrix `[inputs, outputs]` of a layer as it evaluates in float32, converted to float64 without rounding.

    Each row is the layer on a unit vector: no sums of several products, so that float32 shows the weights themselves.
    """
    basis = torch.eye(math.prod(shape)).unflatten(1, shape)
    bias, layer.bias = layer.bias, None
    try:
        return layer(basis).flatten(1).double()
    finally:
        layer.bias = bias


def norm_of(layer: nn.Module, shape: tuple[int, ...]) -> float:
    """Give the largest singular value."""
    return float(torch.linalg.matrix_norm(written_out(layer, shape), 2))
