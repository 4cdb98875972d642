"""What floating point adds to a box: the backend's own rounding, and that of the module where it is evaluated."""

import copy
import math
from functools import cache

import torch
from jaxtyping import Float64
from torch import Tensor

from vaerdict.certify.propagation.reading import Parts
from vaerdict.lipschitz import NoSoundBound, bound_rounding
from vaerdict.lipschitz.rounding.rules import LIBRARY
from vaerdict.models.gaussian import HalfExponential

_BACKEND = 16.0  # the backend sums each output several times over, forwards and backwards
_RELATIVE = 1e-9


class BoxRounding:
    """Rounding of one module, cut at its last function.

    Args:
        parts: the module, in the dtype in which it is evaluated.
        input_shape: of one input.
        rounded: whether the bounds shall hold for the module as evaluated, or for the real function of its weights.
    """

    def __init__(self, parts: Parts, input_shape: tuple[int, ...], rounded: bool) -> None:
        self._parts, self._shape, self._rounded = parts, input_shape, rounded
        self._exact = copy.deepcopy(parts.body).double()
        floats = {one.dtype for one in [*parts.body.parameters(), *parts.body.buffers()] if one.is_floating_point()}
        if len(floats) > 1:
            raise NoSoundBound(f"expected weights of one dtype, got {sorted(map(str, floats))}")
        self.dtype = next(iter(floats), torch.float32)
        self._error = cache(self._bound_error)

    def error(self, input_norm: float) -> float:
        """Bound the rounding before the last function, for inputs of L2 norm up to `input_norm`.

        Computed for powers of two only, and from half the norm of a white image on, so that few are needed.

        Raises:
            NoSoundBound: no bound is known, or values may overflow.
        """
        least = math.sqrt(math.prod(self._shape)) / 2
        return self._error(2.0 ** math.ceil(math.log2(max(input_norm, least, 1.0))))

    def _bound_error(self, input_norm: float) -> float:
        if not len(self._parts.body):
            return 0.0
        body, dtype = (self._parts.body, self.dtype) if self._rounded else (self._exact, torch.float64)
        own = float(bound_rounding(body, input_norm, dtype, "cpu", self._shape))
        # Bounds on rounding are proportional to the unit roundoff, up to far less than the factor's margin.
        backend = _BACKEND * own * torch.finfo(torch.float64).eps / torch.finfo(dtype).eps
        return own + backend if self._rounded else backend

    def widen(
        self, lower: Float64[Tensor, "batch outputs"], upper: Float64[Tensor, "batch outputs"], input_norm: float
    ) -> tuple[Float64[Tensor, "batch outputs"], Float64[Tensor, "batch outputs"]]:
        """Move the bounds of the real function outward by all rounding.

        Raises:
            NoSoundBound: no bound on it is known.
        """
        error = self.error(input_norm)
        unit = LIBRARY * torch.finfo(self.dtype).eps if self._rounded else 0.0
        if self._parts.last is None:
            lower, upper = lower - error, upper + error
        elif isinstance(self._parts.last, HalfExponential):
            grown = math.exp(error / 2) * (1 + unit)
            lower, upper = lower.clamp(min=0.0) / grown, upper * grown
        else:
            lower = (lower.clamp(min=0.0).square() - error).clamp(min=0.0).sqrt() * (1 - unit)
            upper = (upper.square() + error).sqrt() * (1 + unit)
        tiny = torch.finfo(self.dtype).tiny
        return lower - _RELATIVE * lower.abs() - tiny, upper + _RELATIVE * upper.abs() + tiny
