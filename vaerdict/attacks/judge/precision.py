"""Float32 that is float32: autocast and the short products of accelerators, switched off for as long as one judges."""

from collections.abc import Iterator
from contextlib import contextmanager
from operator import attrgetter
from typing import Any

import torch

_FULL = ("ieee", "none")
"""What torch calls the full precision; "none" holds where nothing else was said."""
_PRODUCTS = {
    "cpu": ("mkldnn.matmul", "mkldnn.conv", "mkldnn.rnn"),
    "cuda": ("cuda.matmul", "cudnn.conv", "cudnn.rnn"),
}
"""Where torch, from 2.9, keeps the precision of each kind of product."""


@contextmanager
def exact_arithmetic(device: torch.device) -> Iterator[bool]:
    """Switch off autocast on the device, and TF32 and bfloat16 products everywhere; then restore what was set.

    Yields:
        Whether what the device computed before may have been less exact, so that it has to be computed again.

    >>> with exact_arithmetic(torch.device("cpu")) as coarse:
    ...     coarse, torch.get_float32_matmul_precision()
    (False, 'highest')
    """
    before, switches = _shared(), [(kind, kind.fp32_precision) for name in _PRODUCTS for kind in _kinds(name)]
    coarse = torch.is_autocast_enabled(device.type) or _short(device.type)
    try:
        # Both ways of saying it: torch refuses to read the older switches where the newer ones disagree.
        _set_shared("highest", False)
        for kind, _ in switches:
            kind.fp32_precision = "ieee"
        with torch.autocast(device.type, enabled=False):
            yield coarse
    finally:
        if before is not None:
            _set_shared(*before)
        for kind, value in switches:
            kind.fp32_precision = value


def _kinds(device: str) -> list[Any]:
    known = hasattr(torch.backends.cudnn, "conv")
    return [attrgetter(name)(torch.backends) for name in _PRODUCTS.get(device, ())] if known else []


def _short(device: str) -> bool:
    kinds = _kinds(device)
    if kinds:
        return any(kind.fp32_precision not in _FULL for kind in kinds)
    convolutions = device == "cuda" and torch.backends.cudnn.allow_tf32
    return convolutions or torch.get_float32_matmul_precision() != "highest"


def _shared() -> tuple[str, bool] | None:
    """Give the switches that all releases know; None where torch refuses, as both kinds were used before."""
    try:
        return torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    except RuntimeError:
        return None


def _set_shared(matmul: str, convolutions: bool) -> None:
    torch.set_float32_matmul_precision(matmul)
    torch.backends.cudnn.allow_tf32 = convolutions
