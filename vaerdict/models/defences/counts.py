"""Options that count something."""

from numbers import Integral

from vaerdict.options import require


def require_count(name: str, count: float, least: int = 1) -> None:
    """Refuse what is no whole number or too small.

    Raises:
        ValueError: it is so.

    >>> require_count("steps", 1.5)
    Traceback (most recent call last):
    ValueError: expected a whole number of `steps`, got 1.5
    """
    require(isinstance(count, Integral), f"a whole number of `{name}`", count)
    require(count >= least, f"`{name}` >= {least}", count)
