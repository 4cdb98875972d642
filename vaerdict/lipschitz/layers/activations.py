"""Activations that keep the norm of the gradient: they move or reflect values instead of cutting them off."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn


def _groups(features: Tensor, size: int, axis: int) -> tuple[Tensor, int]:
    """Split an axis into groups of neighbours; give the result and the axis inside a group."""
    count = features.shape[axis]
    if count % size:
        raise ValueError(f"expected a multiple of {size} features on axis {axis}, got {count}")
    return features.unflatten(axis, (count // size, size)), axis if axis < 0 else axis + 1


class MaxMin(nn.Module):
    """Sort each pair of neighbouring features: 1-Lipschitz and gradient-norm preserving (Anil et al., ICML 2019).

    Args:
        axis: where the features are, an even number of them; 1 for the channels of images `[batch, channels, ...]`.

    Raises:
        ValueError: when called with an odd number of features.

    >>> MaxMin()(torch.tensor([[1.0, 3.0, 5.0, 2.0]]))
    tensor([[3., 1., 5., 2.]])
    """

    def __init__(self, axis: int = -1) -> None:
        super().__init__()
        self.axis = axis

    def forward(self, features: Float[Tensor, "*sizes"]) -> Float[Tensor, "*sizes"]:
        """Put the larger of each pair first."""
        pairs, inner = _groups(features, 2, self.axis)
        first, second = pairs.unbind(inner)
        sorted_pairs = torch.stack([torch.maximum(first, second), torch.minimum(first, second)], inner)
        return sorted_pairs.flatten(inner - 1, inner)

    def extra_repr(self) -> str:
        """Show the axis."""
        return f"axis={self.axis}"


class GroupSort(nn.Module):
    """Sort groups of neighbouring features, largest first (Anil et al., ICML 2019); groups of 2 are `MaxMin`.

    1-Lipschitz in L2 and in L-infinity: for sorted `x` and `y`, no other order of `y` brings it nearer to `x`.

    Args:
        group: how many features a group has; it divides their number.
        axis: where the features are.

    Raises:
        ValueError: `group` is not positive, or does not divide the number of features of a call.

    >>> GroupSort(3)(torch.tensor([[1.0, 3.0, 2.0]]))
    tensor([[3., 2., 1.]])
    """

    def __init__(self, group: int, axis: int = -1) -> None:
        super().__init__()
        if group < 1:
            raise ValueError(f"expected `group` >= 1, got {group}")
        self.group = group
        self.axis = axis

    def forward(self, features: Float[Tensor, "*sizes"]) -> Float[Tensor, "*sizes"]:
        """Sort each group."""
        groups, inner = _groups(features, self.group, self.axis)
        return groups.sort(dim=inner, descending=True).values.flatten(inner - 1, inner)

    def extra_repr(self) -> str:
        """Show the options."""
        return f"{self.group}, axis={self.axis}"


class Householder(nn.Module):
    """Reflect each pair of features that lies behind a line of learned direction (Singla et al., ICLR 2022).

    A pair `z = (a, b)` and the unit vector `v = (sin(angle/2), -cos(angle/2))`: `z` itself where `v.z > 0`, otherwise
    its mirror image `z - 2 (v.z) v`. The angle `pi/2`, where training starts, is `MaxMin`.
    Continuous: on the line `v.z = 0` both agree. 1-Lipschitz in L2: on one side it is an isometry; for `z` and `z'` on
    different sides, with `p` where their segment meets the line, `|f(z) - f(z')| <= |z - p| + |p - z'| = |z - z'|`.
    In L-infinity `sqrt(2)`: the rows of a reflection are `(cos, sin)` and `(sin, -cos)`.

    Args:
        features: how many there are, an even number.
        axis: where they are.

    Raises:
        ValueError: `features` is odd or not positive, or a call has another number of them.

    >>> Householder(2)(torch.tensor([[1.0, 3.0]])).allclose(torch.tensor([[3.0, 1.0]]))
    True
    """

    def __init__(self, features: int, axis: int = -1) -> None:
        super().__init__()
        if features < 2 or features % 2:
            raise ValueError(f"expected an even number of `features` >= 2, got {features}")
        self.features = features
        self.axis = axis
        self.angle = nn.Parameter(torch.full((features // 2,), math.pi / 2))

    def forward(self, features: Float[Tensor, "*sizes"]) -> Float[Tensor, "*sizes"]:
        """Reflect the pairs behind their line."""
        if features.shape[self.axis] != self.features:
            raise ValueError(f"expected {self.features} features on axis {self.axis}, got {features.shape[self.axis]}")
        pairs, inner = _groups(features, 2, self.axis)
        first, second = pairs.unbind(inner)
        sizes = [1] * features.ndim
        sizes[self.axis] = -1
        angle = self.angle.view(sizes)
        kept = first * torch.sin(angle / 2) - second * torch.cos(angle / 2) > 0
        cos, sin = torch.cos(angle), torch.sin(angle)
        mirrored = torch.stack([first * cos + second * sin, first * sin - second * cos], inner)
        return torch.where(kept.unsqueeze(inner), pairs, mirrored).flatten(inner - 1, inner)

    def extra_repr(self) -> str:
        """Show the options."""
        return f"{self.features}, axis={self.axis}"
