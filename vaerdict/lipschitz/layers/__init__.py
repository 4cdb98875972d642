"""Layers that train well under a Lipschitz constraint.

Down- and up-sampling without loss needs no class of its own: `nn.PixelUnshuffle` and `nn.PixelShuffle` move values.
"""

from vaerdict.lipschitz.layers.activations import GroupSort, Householder, MaxMin
from vaerdict.lipschitz.layers.attention import BallAttention, L2SelfAttention
from vaerdict.lipschitz.layers.convolution import (
    AlmostOrthogonal,
    OrthogonalPatches,
    lipschitz_conv2d,
    lipschitz_conv_transpose2d,
)
from vaerdict.lipschitz.layers.dense import Bjorck, SemiOrthogonal, lipschitz_linear
from vaerdict.lipschitz.layers.elementary import Scale, Select
from vaerdict.lipschitz.layers.freezing import remove_parametrizations
from vaerdict.lipschitz.layers.potential import ConvexPotential, lipschitz_residual_conv2d
from vaerdict.lipschitz.layers.residual import ConvexResidual, InvertibleResidual

__all__ = [
    "AlmostOrthogonal",
    "BallAttention",
    "Bjorck",
    "ConvexPotential",
    "ConvexResidual",
    "GroupSort",
    "Householder",
    "InvertibleResidual",
    "L2SelfAttention",
    "MaxMin",
    "OrthogonalPatches",
    "Scale",
    "Select",
    "SemiOrthogonal",
    "lipschitz_conv2d",
    "lipschitz_conv_transpose2d",
    "lipschitz_linear",
    "lipschitz_residual_conv2d",
    "remove_parametrizations",
]
