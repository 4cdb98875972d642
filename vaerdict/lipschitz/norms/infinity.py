"""L-infinity operator norms of matrices and convolutions: the largest sum of magnitudes in a row of the operator."""

import numpy as np
from jaxtyping import Bool, Float
from torch import Tensor

from vaerdict.lipschitz.floats import gamma, round_up
from vaerdict.lipschitz.norms.placement import Axis, ConvolutionLayer, pixels_read, read_convolution
from vaerdict.lipschitz.norms.scaling import scale_back


def bound_inf_norm(weight: Float[Tensor, "rows columns"]) -> float:
    """Bound the L-infinity operator norm of a matrix from above, rounding included.

    >>> import torch
    >>> 3.0 <= bound_inf_norm(torch.tensor([[1.0, -2.0]])) < 3.0 + 1e-9
    True
    """
    largest = float(weight.detach().double().abs().sum(1).max())
    return round_up(largest * (1.0 + 2.0 * gamma(weight.shape[1])), 2) if largest else 0.0


def bound_inf_norm_of_convolution(layer: ConvolutionLayer, input_shape: tuple[int, ...] | None = None) -> float:
    """Bound the L-infinity operator norm of a convolution from above, rounding included.

    An output adds one value for every input channel and tap that reaches it; for a transposed convolution the taps that
    reach an output depend on its phase in the stride. Taps that read one pixel through padding are counted apart: their
    sum is no larger than their magnitudes'.

    Args:
        layer: the layer, evaluated without its bias.
        input_shape: `(channels, *sizes)` of its input; without it the bound holds for every size.

    Raises:
        ValueError: the weights are not finite and real, or the shape does not fit.

    >>> import torch
    >>> layer = torch.nn.Conv2d(1, 1, 3)
    >>> _ = torch.nn.init.ones_(layer.weight)
    >>> 9.0 <= bound_inf_norm_of_convolution(layer) < 9.0 + 1e-9
    True
    """
    convolution = read_convolution(layer, input_shape)
    # Rows of the operator belong to the last channels of a transposed convolution's weight, to the first otherwise.
    sums = np.abs(convolution.weight).sum(axis=1 if convolution.transposed else 2)
    for axis in reversed(convolution.axes):
        sums = np.moveaxis(sums @ _reaching(axis, convolution.mode, convolution.transposed), -1, 2)
    largest = float(sums.max())
    if largest == 0.0:
        return 0.0
    return scale_back(round_up(largest * (1.0 + gamma(convolution.weight.size + 4)), 4), convolution.power)


def _reaching(axis: Axis, mode: str, transposed: bool) -> Bool[np.ndarray, "taps places"]:
    """Tell which taps reach each place along one axis (or each kind of place, where the size is not known)."""
    taps = np.arange(axis.taps)
    if axis.size is None or mode != "zeros":
        phases = axis.dilation * taps[:, None] % axis.stride == np.arange(axis.stride)
        return phases if transposed else np.ones((axis.taps, 1), dtype=bool)
    pixels = pixels_read(axis, mode)
    if not transposed:
        return np.unique(pixels >= 0, axis=1)
    reached = np.zeros((axis.taps, axis.size + 1), dtype=bool)
    reached[taps[:, None], pixels] = True  # -1, zero padding, is the last place
    return np.unique(reached[:, :-1], axis=1)
