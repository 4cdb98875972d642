"""Rounding: bounds on what it may do, and results moved outward by it (THEORY 7)."""

import math

UNIT = 2.0**-53
"""Unit roundoff of float64."""


def round_up(value: float, steps: int = 1) -> float:
    """Give a float64 at least `steps` representable numbers above `value`.

    >>> round_up(1.0) > 1.0
    True
    """
    for _ in range(steps):
        value = math.nextafter(value, math.inf)
    return value


def gamma(terms: int, unit: float = UNIT) -> float:
    """Bound the relative error of a sum of `terms` products in any order, `k u / (1 - k u)` (Higham 2002, 3.1).

    Raises:
        ValueError: so many terms that nothing can be said.

    >>> gamma(10) >= 10 * UNIT
    True
    """
    if terms * unit >= 0.5:
        raise ValueError(f"expected fewer terms than {0.5 / unit:g} for unit roundoff {unit:g}, got {terms}")
    return round_up(terms * unit / (1.0 - terms * unit), 4)
