"""Runs of layers that are affine together, made into one matrix or kept as a convolution."""

import math

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from vaerdict.certify.propagation.pieces import Dense, Reshape
from vaerdict.lipschitz import NoSoundBound, Scale, Select
from vaerdict.lipschitz.graph.nodes import kind_of
from vaerdict.lipschitz.layers.elementary import Move, Shift

AFFINE = frozenset(
    {
        *(nn.Linear, nn.Conv1d, nn.Conv2d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.BatchNorm1d, nn.BatchNorm2d),
        *(nn.Flatten, nn.Unflatten, nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.PixelShuffle),
        *(nn.PixelUnshuffle, nn.AvgPool1d, nn.AvgPool2d, nn.Upsample, nn.ZeroPad2d, Scale, Shift, Select, Move),
    }
)
"""Classes of layers whose output is a matrix times the input plus a constant."""

LARGEST = 2**25
"""Most entries of a matrix: 256 MiB."""

_NEUTRAL = (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d)
_ROWS = 256  # unit vectors sent through the layers together


def affine_step(layers: list[nn.Module], inputs: tuple[int, ...], outputs: tuple[int, ...]) -> nn.Module:
    """Give one operation that equals affine layers in a row.

    A single convolution stays one, which the backend bounds faster; everything else, transposed convolutions with
    any option included, becomes a matrix.

    Args:
        layers: in float64 and evaluation mode; none for the identity.
        inputs: shape of one input.
        outputs: shape of one output.

    Raises:
        NoSoundBound: the matrix would be too large.

    >>> affine_step([nn.Linear(2, 2).double(), Scale(2.0)], (2,), (2,))(torch.zeros(1, 2).double()).shape
    torch.Size([1, 2])
    """
    layers = [layer for layer in layers if not isinstance(layer, _NEUTRAL)]
    kinds = [kind_of(layer) for layer in layers]
    if kinds == [nn.Linear] and len(inputs) == 1:
        return layers[0]
    if kinds in ([nn.Conv2d], [nn.Conv2d, nn.BatchNorm2d]) and _is_plain(layers[0]):
        return _fused(*layers).requires_grad_(False)
    if layers and set(kinds) <= {nn.Flatten, nn.Unflatten}:
        return Reshape(outputs)
    sizes = math.prod(inputs), math.prod(outputs)
    if math.prod(sizes) > LARGEST:
        names = " and ".join(kind.__name__ for kind in kinds) or "the identity"
        raise NoSoundBound(
            f"{names} from {inputs} to {outputs} values would need a matrix of {math.prod(sizes):.2g} entries"
        )
    return Dense(_matrix(layers, inputs), len(inputs) > 1, outputs)


def _is_plain(layer: nn.Module) -> bool:
    """Tell whether a convolution is one that both versions of the backend bound in every method."""
    assert isinstance(layer, nn.Conv2d)
    return layer.groups == 1 and layer.padding_mode == "zeros" and not isinstance(layer.padding, str)


def _fused(layer: nn.Module, normalisation: nn.Module | None = None) -> nn.Module:
    if normalisation is None:
        return layer
    assert isinstance(layer, nn.Conv2d)
    assert isinstance(normalisation, nn.BatchNorm2d)
    return fuse_conv_bn_eval(layer, normalisation)


def _matrix(layers: list[nn.Module], shape: tuple[int, ...]) -> nn.Linear:
    """Read the matrix off the images of the unit vectors, in float64."""
    size = math.prod(shape)
    with torch.no_grad():
        offset = _run(layers, torch.zeros(1, *shape, dtype=torch.float64))
        linear = nn.utils.skip_init(nn.Linear, size, offset.shape[1], dtype=torch.float64).requires_grad_(False)
        linear.bias.copy_(offset[0])
        for start in range(0, size, _ROWS):
            units = torch.zeros(min(_ROWS, size - start), size, dtype=torch.float64)
            units.diagonal(start).fill_(1.0)
            linear.weight[:, start : start + len(units)] = (_run(layers, units.view(-1, *shape)) - offset).T
    return linear


def _run(layers: list[nn.Module], values: Tensor) -> Tensor:
    for layer in layers:
        values = layer(values)
    return values.flatten(1)
