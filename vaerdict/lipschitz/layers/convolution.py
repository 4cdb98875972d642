"""Convolutions whose norm as an operator is bounded at every step of training, and up-sampling ones for decoders.

A constraint is a parametrisation of the kernel: what remains when it is removed is an ordinary convolution.
Patches that do not overlap (kernel = stride) are dense layers in disguise, and orthogonal; others are almost so.
"""

from typing import TypeVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils import parametrize

from vaerdict.lipschitz.layers.dense import SemiOrthogonal

_Layer = TypeVar("_Layer", nn.Conv2d, nn.ConvTranspose2d)


def split_phases(
    kernel: Float[Tensor, "rows columns height width"], stride: int
) -> Float[Tensor, "rows phases tall wide"]:
    """Rewrite a kernel of any stride as one of stride 1 on the pixel-unshuffled image: `columns * stride^2` columns.

    >>> split_phases(torch.ones(2, 3, 4, 4), 2).shape
    torch.Size([2, 12, 2, 2])
    """
    missing = [-size % stride for size in kernel.shape[2:]]
    return F.pixel_unshuffle(F.pad(kernel, (0, missing[1], 0, missing[0])), stride)


def _join_phases(phases: Tensor, stride: int, size: int) -> Tensor:
    """Undo `split_phases`."""
    return F.pixel_shuffle(phases, stride)[:, :, :size, :size]


class AlmostOrthogonal(nn.Module):
    """A parametrisation whose kernel, as an operator with this stride, has norm at most `norm` (AOL).

    Almost-orthogonal layers (Prach and Lampert, ECCV 2022): with the operator `P` of the free kernel, the columns of
    `P` are divided by the root of `t_i = sum_j |P^T P|_ij`. Then `T - P^T P` is symmetric and diagonally dominant, so
    positive semi-definite (Gershgorin), and `|P T^(-1/2) v|^2 = v^T T^(-1/2) P^T P T^(-1/2) v <= |v|^2`.
    On an unbounded image `P^T P` holds the correlations of the kernel with itself, so `t` depends on the channel
    and, with a stride, on the pixel's place in it (`split_phases`): the division acts on the kernel alone. Borders, any
    zero padding and the last, incomplete stride restrict the operator's input and output: the norm cannot grow by it.
    Where there are no more rows than columns the same is done to `P^T`. Transposed convolutions are adjoints: the bound
    is theirs, too.

    Scale invariant in the free kernel, which is therefore divided by its largest entry: no overflow.
    """

    def __init__(self, stride: int, norm: float) -> None:
        super().__init__()
        self.stride = stride
        self.norm = norm

    def forward(self, free: Float[Tensor, "rows columns size size"]) -> Float[Tensor, "rows columns size size"]:
        """Turn the free kernel into the constrained one."""
        tiny = torch.finfo(free.dtype).tiny
        phases = split_phases(free / free.detach().abs().max().clamp_min(tiny), self.stride)
        if phases.shape[0] <= phases.shape[1]:
            divided = phases * self._factors(phases)[:, None, None, None]
        else:
            divided = phases * self._factors(phases.transpose(0, 1))[:, None, None]
        return (self.norm * _join_phases(divided, self.stride, free.shape[-1])).contiguous()

    @staticmethod
    def _factors(kernel: Tensor) -> Tensor:
        """Give `1 / sqrt(t)` for the first axis; the correlations at all shifts are a convolution with itself."""
        sums = F.conv2d(kernel, kernel, padding=(kernel.shape[2] - 1, kernel.shape[3] - 1)).abs().sum((1, 2, 3))
        return sums.clamp_min(torch.finfo(kernel.dtype).eps ** 2).rsqrt()


class OrthogonalPatches(nn.Module):
    """A parametrisation for a stride as large as the kernel: semi-orthogonal on patches, all singular values `norm`.

    The patches do not overlap, so the operator is block-diagonal with the matrix of the kernel as every block.
    """

    def __init__(self, norm: float) -> None:
        super().__init__()
        self.matrix = SemiOrthogonal(norm)

    def forward(self, free: Float[Tensor, "rows columns size size"]) -> Float[Tensor, "rows columns size size"]:
        """Turn the free kernel into the constrained one."""
        return self.matrix(free.flatten(1)).reshape(free.shape)


def lipschitz_conv2d(
    inputs: int, outputs: int, kernel_size: int, stride: int = 1, padding: int = 0, norm: float = 1.0
) -> nn.Conv2d:
    """Make a convolution whose norm as an operator is at most `norm` at every step, up to float32 rounding.

    Orthogonal (`OrthogonalPatches`) where the stride is the kernel's size, else `AlmostOrthogonal`. What a certificate
    uses is `bound_lipschitz` of the layer, which measures the kernel as it is.

    Args:
        inputs: channels of the input.
        outputs: channels of the output.
        kernel_size: side of the kernel, in pixels.
        stride: in pixels.
        padding: with zeros, in pixels.
        norm: the bound.

    Raises:
        ValueError: `norm` is not positive.

    >>> lipschitz_conv2d(3, 8, 4, stride=2, padding=1)(torch.zeros(1, 3, 8, 8)).shape
    torch.Size([1, 8, 4, 4])
    """
    return _constrain(nn.Conv2d(inputs, outputs, kernel_size, stride, padding), norm)


def lipschitz_conv_transpose2d(
    inputs: int, outputs: int, kernel_size: int, stride: int = 1, padding: int = 0, norm: float = 1.0
) -> nn.ConvTranspose2d:
    """Make a transposed convolution, for decoders, with the same constraint as `lipschitz_conv2d`: it is the adjoint.

    Raises:
        ValueError: `norm` is not positive.

    >>> lipschitz_conv_transpose2d(8, 3, 4, stride=2, padding=1)(torch.zeros(1, 8, 4, 4)).shape
    torch.Size([1, 3, 8, 8])
    """
    return _constrain(nn.ConvTranspose2d(inputs, outputs, kernel_size, stride, padding), norm)


def _constrain(layer: _Layer, norm: float) -> _Layer:
    if not norm > 0:
        raise ValueError(f"expected `norm` > 0, got {norm}")
    size, stride = layer.kernel_size[0], layer.stride[0]
    with torch.no_grad():  # one orthogonal tap, so that both constraints start as orthogonal layers
        phases = split_phases(torch.zeros_like(layer.weight), stride)
        middle = (phases.shape[-1] - 1) // 2
        nn.init.orthogonal_(phases[:, :, middle, middle])
        layer.weight.copy_(_join_phases(phases, stride, size))
    constraint = OrthogonalPatches(norm) if size == stride else AlmostOrthogonal(stride, norm)
    parametrize.register_parametrization(layer, "weight", constraint)
    return layer
