"""Layers that train well under a Lipschitz constraint."""

from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils import parametrize


class MaxMin(nn.Module):
    """Sort each pair of neighbouring features: 1-Lipschitz and gradient-norm preserving (Anil et al., ICML 2019).

    Features are on the last axis, an even number of them.

    >>> MaxMin()(torch.tensor([[1.0, 3.0, 5.0, 2.0]]))
    tensor([[3., 1., 5., 2.]])
    """

    def forward(self, features: Float[Tensor, "*batch features"]) -> Float[Tensor, "*batch features"]:
        """Put the larger of each pair first."""
        first, second = features.unflatten(-1, (-1, 2)).unbind(-1)
        return torch.stack([torch.maximum(first, second), torch.minimum(first, second)], -1).flatten(-2)


class Scale(nn.Module):
    """Multiply by a constant."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, values: Tensor) -> Tensor:
        """Multiply every value."""
        return self.factor * values

    def extra_repr(self) -> str:
        """Show the factor."""
        return f"{self.factor!r}"


class Select(nn.Module):
    """Keep the channels (axis 1) from `start` up to `stop`, or to the end."""

    def __init__(self, start: int, stop: int | None) -> None:
        super().__init__()
        self.start = start
        self.stop = stop

    def forward(self, values: Tensor) -> Tensor:
        """Slice the channels."""
        return values[:, self.start : self.stop]

    def extra_repr(self) -> str:
        """Show the range."""
        return f"{self.start}, {self.stop}"


class SemiOrthogonal(nn.Module):
    """A parametrisation whose matrix has all singular values equal to `norm`, whatever the free weights are.

    Cayley transform for rectangular matrices (Trockman and Kolter, ICLR 2021): with the free weights `[U; V]`,
    `U` square, and `A = U - U^T + V^T V`, the columns of `[(I + A)^-1 (I - A); -2 V (I + A)^-1]` are orthonormal.
    """

    def __init__(self, norm: float) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, free: Float[Tensor, "rows columns"]) -> Float[Tensor, "rows columns"]:
        """Turn free weights into the constrained matrix."""
        if free.shape[0] < free.shape[1]:
            return self.forward(free.T).T.contiguous()  # as a loaded weight is: the same products, bit for bit
        columns = free.shape[1]
        square, rest = free[:columns], free[columns:]
        skewed = square - square.T + rest.T @ rest
        identity = torch.eye(columns, dtype=free.dtype, device=free.device)
        inverse = torch.linalg.inv(identity + skewed)
        return self.norm * torch.cat([inverse @ (identity - skewed), -2 * rest @ inverse])


def lipschitz_linear(inputs: int, outputs: int, norm: float = 1.0) -> nn.Linear:
    """Make a dense layer whose spectral norm is `norm` at every step of training, up to float32 rounding.

    What a certificate uses is `bound_lipschitz` of the layer, which measures the weights as they are.

    Raises:
        ValueError: `norm` is not positive.

    >>> layer = lipschitz_linear(5, 3, norm=2.0)
    >>> bool(torch.allclose(layer.weight @ layer.weight.T, 4 * torch.eye(3), atol=1e-5))
    True
    """
    if not norm > 0:
        raise ValueError(f"expected `norm` > 0, got {norm}")
    layer = nn.Linear(inputs, outputs)
    nn.init.xavier_uniform_(layer.weight)
    parametrize.register_parametrization(layer, "weight", SemiOrthogonal(norm))
    return layer


def freeze(module: nn.Module) -> None:
    """Replace, in place, every parametrised weight by its present value: evaluates identically, and fast.

    >>> layer = lipschitz_linear(4, 2)
    >>> freeze(layer)
    >>> parametrize.is_parametrized(layer)
    False
    """
    for part in module.modules():
        if parametrize.is_parametrized(part):
            for name in list(cast(nn.ModuleDict, part.parametrizations)):
                parametrize.remove_parametrizations(part, name, leave_parametrized=True)
