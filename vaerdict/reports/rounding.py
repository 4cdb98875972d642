"""Numbers as they are written: lower bounds rounded down, upper bounds up, at the digits shown.

A float is read as the shortest decimal that names it, so that 0.3 is written 0.300 whichever way it is rounded.
"""

import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Literal

Direction = Literal["down", "up", "nearest"]
_ROUND: dict[Direction, Callable[[Fraction], int]] = {"down": math.floor, "up": math.ceil, "nearest": round}
INFINITE = "inf"


def round_down(value: float | Fraction, digits: int = 3) -> str:
    """Write a number >= 0 with so many significant digits, never larger than it is.

    Raises:
        ValueError: the number is negative or not a number.

    >>> round_down(0.12999), round_down(0.3), round_down(0.0000129999)
    ('0.129', '0.300', '1.29e-5')
    """
    return _written(value, digits, "down")


def round_up(value: float | Fraction, digits: int = 3) -> str:
    """Write a number >= 0 with so many significant digits, never smaller than it is.

    Raises:
        ValueError: the number is negative or not a number.

    >>> round_up(0.12001), round_up(0.9999), round_up(float("inf"))
    ('0.121', '1.00', 'inf')
    """
    return _written(value, digits, "up")


def rounded(value: float | Fraction, direction: Direction, digits: int = 3) -> str:
    """Write a number >= 0 with so many significant digits, rounded as its meaning asks.

    Raises:
        ValueError: the number is negative or not a number.

    >>> rounded(0.12345, "nearest"), rounded(0.12345, "up")
    ('0.123', '0.124')
    """
    return _written(value, digits, direction)


def quantile(values: Sequence[float], share: Fraction) -> float | Fraction:
    """Give the quantile by linear interpolation, as numpy does, but exactly and with infinite values allowed.

    Raises:
        ValueError: there is no value.

    >>> quantile([1.0, float("inf")], Fraction(0)), quantile([1.0, float("inf")], Fraction(1, 2))
    (Fraction(1, 1), inf)
    """
    if not len(values):
        raise ValueError("expected at least one value, got none")
    ordered = sorted(float(value) for value in values)
    place = share * (len(ordered) - 1)
    below = math.floor(place)
    upper = ordered[min(below + (place > below), len(ordered) - 1)]
    if math.isinf(upper):
        return upper
    lower = _exact(ordered[below])
    return lower + (_exact(upper) - lower) * (place - below)


def percent(count: int, total: int) -> str:
    """Write a share in per cent with one decimal, rounded down.

    >>> percent(2, 3), percent(3, 3), percent(0, 0)
    ('66.6', '100.0', '')
    """
    if not total:
        return ""
    tenths = 1000 * count // total
    return f"{tenths // 10}.{tenths % 10}"


def _exact(value: float | Fraction) -> Fraction:
    return value if isinstance(value, Fraction) else Fraction(repr(float(value)))


def _written(value: float | Fraction, digits: int, direction: Direction) -> str:
    if not value >= 0:
        raise ValueError(f"expected a number >= 0, got {value}")
    if isinstance(value, float) and math.isinf(value):
        return INFINITE
    exact = _exact(value)
    if not exact:
        return "0"
    exponent = _exponent(exact)
    whole = _ROUND[direction](exact * Fraction(10) ** (digits - 1 - exponent))
    if whole == 10**digits:
        whole, exponent = whole // 10, exponent + 1
    return _layout(whole, exponent, digits)


def _exponent(value: Fraction) -> int:
    guess = len(str(value.numerator)) - len(str(value.denominator))
    return guess if Fraction(10) ** guess <= value else guess - 1


def _layout(whole: int, exponent: int, digits: int) -> str:
    text = str(whole)
    if exponent < -3 or exponent > 6:
        return f"{text[0]}.{text[1:]}e{exponent}" if digits > 1 else f"{text}e{exponent}"
    if exponent < 0:
        return "0." + "0" * (-exponent - 1) + text
    if exponent >= digits - 1:
        return text + "0" * (exponent - digits + 1)
    return f"{text[: exponent + 1]}.{text[exponent + 1 :]}"
