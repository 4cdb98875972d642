"""Affine maps written out as float64 matrices, with bounds on how far those are from the meant ones."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from vaerdict.lipschitz.floats import UNIT, gamma
from vaerdict.lipschitz.norms.spectral import bound_spectral_norm
from vaerdict.lipschitz.sizes import frobenius

_SLACK = 1.001  # for the rounding of the bounds themselves
_TINY = 2.0**-1020  # what one product may lose to underflow


@dataclass(frozen=True)
class Affine:
    """`x -> W x + b`, where the meant `W` and `b` may differ from those held.

    Attributes:
        weight: float64.
        bias: float64.
        weight_error: bounds the Frobenius norm of the difference between the meant weight and the one held.
        bias_error: bounds the L2 norm of that of the biases.
    """

    weight: Float[Tensor, "rows columns"]
    bias: Float[Tensor, " rows"]
    weight_error: float = 0.0
    bias_error: float = 0.0

    @property
    def size(self) -> float:
        """A bound on the Frobenius norm of both weights."""
        return _SLACK * frobenius(self.weight) + self.weight_error

    def to(self, device: torch.device) -> "Affine":
        """Move the matrices to a device."""
        return Affine(self.weight.to(device), self.bias.to(device), self.weight_error, self.bias_error)

    def bound_norm(self) -> float:
        """Bound the spectral norm of the meant weight.

        >>> abs(Affine(torch.eye(2).double(), torch.zeros(2).double()).bound_norm() - 1) < 1e-9
        True
        """
        norm = bound_spectral_norm(self.weight)
        return norm + self.weight_error * _SLACK if self.weight_error else norm

    def then(self, after: "Affine") -> "Affine":
        """Compose: first this map, then `after`.

        The rounding of a sum of n products is at most `gamma_n` times the sum of their magnitudes, in any order; the
        Frobenius norms multiply.
        """
        terms = self.weight.shape[0]
        rounding = gamma(terms + 2) * _SLACK
        lost = terms * after.weight.shape[0] * (self.weight.shape[1] + 1) * _TINY
        before = _SLACK * frobenius(self.bias) + self.bias_error
        weight_error = (rounding * after.size + after.weight_error) * self.size + after.size * self.weight_error
        bias_error = (
            (rounding * after.size + after.weight_error) * before
            + after.size * self.bias_error
            + after.bias_error
            + 2 * UNIT * frobenius(after.bias)
        )
        return Affine(
            after.weight @ self.weight,
            after.weight @ self.bias + after.bias,
            _SLACK * weight_error + lost,
            _SLACK * bias_error + lost,
        )


def times_power(values: Tensor, power: int) -> Tensor:
    """Multiply by a power of two: exact but for what underflows, in two steps that reach further than one.

    >>> import torch
    >>> float(times_power(torch.ones(()).double(), -1060)) == 2.0**-1060
    True
    """
    half = power // 2
    return values * _power_of_two(half) * _power_of_two(power - half)


def _power_of_two(exponent: int) -> float:
    return math.ldexp(1.0, exponent) if exponent < 1024 else math.inf
