"""1-Lipschitz convolutions that `layers.py` compares, from their papers' mathematics: each is a whole block.

All keep the number of channels and the image's size. `proved_norm` bounds the block as it stands, in evaluation mode.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from vaerdict.lipschitz.floats import round_up
from vaerdict.lipschitz.layers import (
    ConvexPotential,
    MaxMin,
    lipschitz_conv2d,
    lipschitz_residual_conv2d,
)
from vaerdict.lipschitz.norms.convolution import bound_convolution_norm
from vaerdict.lipschitz.norms.schur import bound_kernel_norm


def residual_norm(kernel_norm: float) -> float:
    """Bound `x - 2 K^T relu(K x + b)`."""
    return max(1.0, round_up(2 * kernel_norm**2 - 1, 4))


class AOL(nn.Module):
    """Almost-orthogonal convolution (Prach and Lampert, ECCV 2022), as the package has it, and MaxMin."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layer = lipschitz_conv2d(channels, channels, 3, padding=1)
        self.activation = MaxMin(axis=1)

    def forward(self, x: Tensor) -> Tensor:
        """Evaluate the block."""
        return self.activation(self.layer(x))

    def proved_norm(self) -> float:
        """Bound the block's constant."""
        return bound_kernel_norm(self.layer.weight)


class SLL(nn.Module):
    """SDP-based Lipschitz layer (Araujo et al., ICLR 2023), as the package has it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layer = lipschitz_residual_conv2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Evaluate the block."""
        return self.layer(x)

    def proved_norm(self) -> float:
        """Bound the block's constant."""
        return residual_norm(bound_kernel_norm(self.layer.weight))


class CPL(nn.Module):
    """Convex potential layer (Meunier et al., ICML 2022), its kernel divided by a power iteration's norm in training.

    That is no bound: `proved_norm` puts the proved norm of the trained kernel in its place, and evaluation uses it.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layer = ConvexPotential(channels, 3)
        parametrize.register_parametrization(self.layer, "weight", UnitKernel(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Evaluate the block."""
        return self.layer(x)

    def proved_norm(self) -> float:
        """Bound the block's constant."""
        unit = self.layer.parametrizations.weight[0]
        unit.proved = 1.0
        unit.proved = bound_convolution_norm(self.layer.convolution())[0] * (1 + 1e-6)
        return residual_norm(bound_convolution_norm(self.layer.convolution())[0])


class UnitKernel(nn.Module):
    """Divide a kernel by its norm: by one power step a call, on a periodic image, or by what was proved."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("vector", torch.randn(1, channels, 8, 8))
        self.proved: float | None = None

    def forward(self, free: Tensor) -> Tensor:
        """Divide."""
        if self.proved is not None:
            return free / self.proved
        with torch.no_grad():
            moved = convolve_on_torus(convolve_on_torus(self.vector, free), free.transpose(0, 1).flip(2, 3))
            self.vector.copy_(moved / moved.norm())
        return free / convolve_on_torus(self.vector, free).norm()


def convolve_on_torus(image: Tensor, kernel: Tensor) -> Tensor:
    """Convolve with periodic padding."""
    return F.conv2d(F.pad(image, (1, 1, 1, 1), mode="circular"), kernel)


class SOC(nn.Module):
    """Exponential of a skew-symmetric convolution (Singla and Feizi, ICML 2021), by its series, and MaxMin."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        start = ConvexPotential(channels, 3)
        self.kernel, self.bias = start.weight, start.bias
        self.activation = MaxMin(axis=1)
        self.register_buffer("vector", torch.randn(3 * channels))

    def skew(self) -> Tensor:
        """Give the skew-symmetric kernel, of norm about 1 at most."""
        unfolded = self.kernel.transpose(1, 2).flatten(2).flatten(0, 1)  # 3 times its norm bounds the convolution's
        with torch.no_grad():
            left = F.normalize(unfolded @ self.vector, dim=0)
            if self.training:
                self.vector.copy_(F.normalize(left @ unfolded, dim=0))
        half = 0.7 * self.kernel / (3 * (left @ unfolded @ self.vector))
        return half - half.transpose(0, 1).flip(2, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Evaluate the block."""
        kernel, total, term = self.skew(), x, x
        for n in range(1, 6 if self.training else 18):
            term = F.conv2d(term, kernel, padding=1) / n
            total = total + term
        return self.activation(total + self.bias[:, None, None])

    def proved_norm(self) -> float:
        """Bound the block's constant."""
        size = bound_kernel_norm(self.skew())  # exactly skew as stored, so that the exponential is orthogonal
        rest = sum(size**n / math.factorial(n) for n in range(18, 60)) * (1 + 1e-9)
        return round_up(1 + rest, 4)
