"""A 1-Lipschitz residual convolution: a gradient step of a convex potential."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils import parametrize

from vaerdict.lipschitz.layers.convolution import AlmostOrthogonal


class ConvexPotential(nn.Module):
    """The map `x - 2 K^T relu(K x + bias)` of images, `K` a convolution with zero padding: an image of the same shape.

    A convex potential layer (Meunier et al., ICML 2022). Its constant in L2 is `max(1, 2 |K|^2 - 1)`: for two inputs,
    the differences of `relu` are `D` times those of its arguments with a diagonal `0 <= D <= 1`, so the map's are those
    of `I - 2 K^T D K`, which is symmetric with eigenvalues from `1 - 2 |K|^2` to 1.

    Args:
        channels: of the images.
        kernel_size: odd, in pixels.

    Raises:
        ValueError: `kernel_size` is even.

    >>> layer = ConvexPotential(1, 1)
    >>> _ = layer.weight.data.fill_(1.0)  # the map is `-|x|`
    >>> layer(torch.tensor([[[[-2.0, 3.0]]]])).detach()
    tensor([[[[-2., -3.]]]])
    """

    def __init__(self, channels: int, kernel_size: int) -> None:
        super().__init__()
        if kernel_size % 2 == 0:
            raise ValueError(f"expected an odd `kernel_size`, got {kernel_size}")
        self.weight = nn.Parameter(torch.randn(channels, channels, kernel_size, kernel_size))
        self.bias = nn.Parameter(torch.zeros(channels))
        with torch.no_grad():  # nearly one orthogonal tap
            self.weight.mul_(0.1 / (kernel_size * math.sqrt(channels)))
            nn.init.orthogonal_(self.weight[:, :, kernel_size // 2, kernel_size // 2])

    def forward(
        self, images: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch channels height width"]:
        """Take the step."""
        kernel = self.weight  # read once: a parametrisation would compute it twice
        padding = kernel.shape[-1] // 2
        hidden = F.relu(F.conv2d(images, kernel, self.bias, padding=padding))
        return images - F.conv_transpose2d(2 * hidden, kernel, padding=padding)

    def convolution(self) -> nn.Conv2d:
        """Give `K` with the weights as they are, in float64: its norm is what the constant depends on."""
        kernel = self.weight.detach().cpu().double()
        rows, columns, size, width = kernel.shape
        if size != width:
            raise ValueError(f"expected a square kernel, got {size} x {width}")
        layer = nn.Conv2d(columns, rows, size, padding=size // 2, bias=False, dtype=torch.float64)
        layer.weight.data = kernel
        return layer

    def extra_repr(self) -> str:
        """Show the sizes."""
        return f"{self.bias.numel()}, {self.weight.shape[-1]}"


def lipschitz_residual_conv2d(channels: int, kernel_size: int = 3) -> ConvexPotential:
    """Make a `ConvexPotential` that is 1-Lipschitz at every step, up to float32 rounding, since `|K| <= 1`.

    With an `AlmostOrthogonal` kernel: the SDP-based Lipschitz layer of Araujo et al. (ICLR 2023) with `q = 1`, where
    `W T^-1 relu(W^T x + b)` is `K^T relu(K x + T^(-1/2) b)` for `K = T^(-1/2) W^T`.

    Raises:
        ValueError: `kernel_size` is even.

    >>> lipschitz_residual_conv2d(4)(torch.zeros(1, 4, 5, 5)).shape
    torch.Size([1, 4, 5, 5])
    """
    layer = ConvexPotential(channels, kernel_size)
    parametrize.register_parametrization(layer, "weight", AlmostOrthogonal(1, 1.0))
    return layer
