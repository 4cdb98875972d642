"""Trials of a map on two images: it must give the same each time, and no image may know its neighbour."""

import math
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vaerdict.options import require

SAME = 1e-6
"""How much a value may change from time to time, as a share of the largest: a millionth, not the noise of a draw."""
ALONE = 1e-3
"""How much values may change on average, of their size, where an image comes alone: sums are ordered anew."""
LOOKS = 2
"""How often a map is held against its first answer."""


def two_images(
    shape: tuple[int, ...], input_range: tuple[float, float], like: Tensor | None = None
) -> Float[Tensor, "2 ..."]:
    """Give a darker and a brighter image within the range, with the type and device of `like`.

    >>> two_images((1, 2), (0.0, 1.5))
    tensor([[[0.0000, 0.5000]],
    <BLANKLINE>
            [[1.0000, 1.5000]]])
    """
    low, high = (end if math.isfinite(end) else math.copysign(1.0, end) for end in input_range)
    ramp = torch.linspace(low, high, 2 * torch.Size(shape).numel()).reshape(2, *shape)
    return ramp if like is None else ramp.to(like)


def tried(what: str, function: Callable[[Tensor], Any], values: Float[Tensor, "batch ..."]) -> Any:
    """Apply a map that gives a tensor or several, each with one row per row of the values.

    Args:
        what: the map is, with its article, for messages.
        function: from rows to a tensor or a tuple of them.
        values: rows that differ.

    Raises:
        ValueError: it gives other values the next time, or where a row comes alone.

    >>> tried("a map", lambda rows: rows - rows.mean(0), torch.eye(2))
    Traceback (most recent call last):
    ValueError: expected a map that takes each image by itself, got other values for an image alone
    """
    outputs = function(values.clone())
    together = _parts(outputs)
    for part in together:
        rows = part.dim() > 0 and len(part) == len(values)
        require(rows, f"{what} with one row per image", f"shape {tuple(part.shape)} of {len(values)} images")
    for _ in range(LOOKS):
        pairs = zip(together, _parts(function(values.clone())), strict=True)
        require(all(_same(*pair) for pair in pairs), f"{what} that is deterministic", "something else the next time")
    alone = zip(*(_parts(function(row.clone())) for row in values.split(1)), strict=True)
    near = all(_near(part, torch.cat(rows)) for part, rows in zip(together, alone, strict=True))
    require(near, f"{what} that takes each image by itself", "other values for an image alone")
    return outputs


def require_full_precision(*modules: nn.Module) -> None:
    """Refuse weights in which small gradients vanish.

    Raises:
        ValueError: a module has floating-point weights that are neither float32 nor float64.

    >>> require_full_precision(nn.Linear(1, 1).half())
    Traceback (most recent call last):
    ValueError: expected weights in float32 or float64 (small gradients vanish in half precision; use .float()), \
got torch.float16
    """
    for dtype in (weight.dtype for module in modules for weight in module.parameters()):
        full = not dtype.is_floating_point or dtype in (torch.float32, torch.float64)
        require(full, "weights in float32 or float64 (small gradients vanish in half precision; use .float())", dtype)


def _parts(outputs: Any) -> tuple[Tensor, ...]:
    return (outputs,) if isinstance(outputs, Tensor) else tuple(outputs)


def _same(one: Tensor, two: Tensor) -> bool:
    return one.shape == two.shape and bool((_gap(one, two) <= SAME * _sizes(one).amax()).all())


def _near(one: Tensor, two: Tensor) -> bool:
    return one.shape == two.shape and bool(_gap(one, two).mean() <= ALONE * _sizes(one).mean())


def _gap(one: Tensor, two: Tensor) -> Tensor:
    """Give the distances; those of infinities and of what is no number are zero where both agree."""
    equal = (one == two) | (one.isnan() & two.isnan())
    return torch.where(equal, 0.0, (one - two).abs())


def _sizes(values: Tensor) -> Tensor:
    return torch.where(values.isfinite(), values.abs(), 0.0)
