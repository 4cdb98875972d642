"""Constrained layers and Lipschitz constants that are proved from above."""

from vaerdict.lipschitz.bounds import Factor, LipschitzBound, bound_lipschitz
from vaerdict.lipschitz.chains.chain import dense_chain
from vaerdict.lipschitz.chains.changes import bound_local_changes
from vaerdict.lipschitz.chains.coordinates import bound_blocks, bound_coordinates
from vaerdict.lipschitz.chains.local import bound_local_lipschitz
from vaerdict.lipschitz.chains.multipliers import bound_product, bound_slope_restricted
from vaerdict.lipschitz.estimate import LipschitzEstimate, estimate_lipschitz
from vaerdict.lipschitz.floats import round_up
from vaerdict.lipschitz.graph.nodes import NoSoundBound
from vaerdict.lipschitz.graph.trace import trace
from vaerdict.lipschitz.layers import (
    BallAttention,
    ConvexPotential,
    ConvexResidual,
    GroupSort,
    Householder,
    InvertibleResidual,
    L2SelfAttention,
    MaxMin,
    Scale,
    Select,
    lipschitz_conv2d,
    lipschitz_conv_transpose2d,
    lipschitz_linear,
    lipschitz_residual_conv2d,
    remove_parametrizations,
)
from vaerdict.lipschitz.norms.attention import (
    bound_ball_attention,
    bound_l2_attention,
    bound_mean_shift,
    bound_mean_shift_published,
)
from vaerdict.lipschitz.norms.convolution import bound_convolution_norm
from vaerdict.lipschitz.norms.spectral import bound_spectral_norm
from vaerdict.lipschitz.rounding.bound import RoundingBound, bound_rounding

__all__ = [
    "BallAttention",
    "ConvexPotential",
    "ConvexResidual",
    "Factor",
    "GroupSort",
    "Householder",
    "InvertibleResidual",
    "L2SelfAttention",
    "LipschitzBound",
    "LipschitzEstimate",
    "MaxMin",
    "NoSoundBound",
    "RoundingBound",
    "Scale",
    "Select",
    "bound_ball_attention",
    "bound_blocks",
    "bound_convolution_norm",
    "bound_coordinates",
    "bound_l2_attention",
    "bound_lipschitz",
    "bound_local_changes",
    "bound_local_lipschitz",
    "bound_mean_shift",
    "bound_mean_shift_published",
    "bound_product",
    "bound_rounding",
    "bound_slope_restricted",
    "bound_spectral_norm",
    "dense_chain",
    "estimate_lipschitz",
    "lipschitz_conv2d",
    "lipschitz_conv_transpose2d",
    "lipschitz_linear",
    "lipschitz_residual_conv2d",
    "remove_parametrizations",
    "round_up",
    "trace",
]
