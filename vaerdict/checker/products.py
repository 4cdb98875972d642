"""Matrices in float64 whose distance to the meant ones is bounded: products that trust numpy within its known error."""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

UNIT = 2.0**-53
"""Unit roundoff of float64."""

_LEAST = 2.0**-1070  # more than what underflow takes off one product


@dataclass(frozen=True)
class Near:
    """A matrix that is near to the one that is meant.

    Attributes:
        values: of finite numbers.
        error: bounds the Frobenius norm of what they are off by.
    """

    values: Float64[np.ndarray, "rows columns"]
    error: float = 0.0

    def __matmul__(self, other: "Near") -> "Near":
        """Multiply. `|fl(A B) - A B| <= gamma_n |A| |B|` in any order of summation, `n` the number of terms.

        >>> (Near(np.eye(2)) @ Near(np.eye(2), error=0.5)).error < 0.71
        True
        """
        inner = self.values.shape[1]
        gamma = inner * UNIT / (1 - inner * UNIT)
        size = frobenius(np.abs(self.values) @ np.abs(other.values)) * (1 + 2 * gamma)
        values = self.values @ other.values
        rounding = round_up(gamma * size + inner * values.size * _LEAST, 4)
        inherited = frobenius(self.values) * other.error + self.error * (frobenius(other.values) + other.error)
        return Near(values, round_up(rounding + round_up(inherited, 8)))

    def scaled(self, factors: Float64[np.ndarray, "*sizes"]) -> "Near":
        """Multiply entry by entry with numbers that broadcast: one rounding each.

        >>> Near(np.eye(2)).scaled(np.array([2.0, 3.0])).values.diagonal()
        array([2., 3.])
        """
        values = self.values * factors
        largest = float(np.abs(factors).max(initial=0.0))
        rounding = 2 * UNIT * frobenius(values) + values.size * _LEAST
        return Near(values, round_up(rounding + largest * self.error, 4))

    def minus(self, other: "Near") -> "Near":
        """Subtract: one rounding each.

        >>> float(Near(np.eye(2)).minus(Near(np.eye(2))).values.max())
        0.0
        """
        values = self.values - other.values
        return Near(values, round_up(2 * UNIT * frobenius(values) + self.error + other.error, 4))

    @property
    def size(self) -> float:
        """A bound of the meant matrix's Frobenius norm."""
        return round_up(frobenius(self.values) + self.error)


def frobenius(matrix: Float64[np.ndarray, "*sizes"]) -> float:
    """Bound the Frobenius norm of stored numbers from above.

    >>> 5.0 <= frobenius(np.array([[3.0, 4.0]])) < 5.0 + 1e-12
    True
    """
    largest = float(np.abs(matrix).max(initial=0.0))
    scale = 2.0 ** min(math.frexp(largest)[1], 1023) if 0 < largest < math.inf else 1.0  # no square underflows
    return round_up(float(np.linalg.norm(matrix / scale)) * (1 + 2 * (matrix.size + 4) * UNIT) * scale, 1)


def round_up(value: float, steps: int = 2) -> float:
    """Give a float64 number so many steps above.

    >>> round_up(1.0, 1) - 1.0 == 2 * UNIT
    True
    """
    for _ in range(steps):
        value = math.nextafter(value, math.inf)
    return value
