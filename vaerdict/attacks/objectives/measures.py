"""Distances between reconstructions other than L2, one value per pair of images."""

import functools
import importlib
from collections.abc import Callable
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vaerdict.attacks.objectives.structure import MultiScale
from vaerdict.options import require

Measure = Literal["l2", "linf", "ms-ssim", "lpips"]
Distance = Callable[[Tensor, Tensor], Tensor]
"""From two batches of images `[B, ...]` to distances `[B]`."""


def check_measure(measure: Measure, shape: tuple[int, ...]) -> None:
    """Refuse a measure that images of this shape do not have, or whose package is missing.

    Raises:
        ValueError: images without two sides of at least 3 pixels, or for "lpips" without 1 or 3 channels.
        ImportError: "lpips" without the package.
    """
    if measure in ("ms-ssim", "lpips"):
        fits = len(shape) == 3 and min(shape[1:]) >= 3
        require(fits, f"images (C, H, W) of at least 3 by 3 pixels for {measure!r}", shape)
    if measure == "lpips":
        require(shape[0] in (1, 3), "1 or 3 channels for 'lpips'", shape[0])
        import_lpips()


def distance(measure: Measure, like: Float[Tensor, "batch ..."], pixel_range: tuple[float, float]) -> Distance:
    """Give the distance for images such as `like`, with all that it needs made once, on their device.

    >>> between = distance("linf", torch.zeros(1, 2), (0.0, 1.0))
    >>> between(torch.zeros(1, 2), torch.tensor([[0.2, -0.5]]))
    tensor([0.5000])
    """
    if measure == "ms-ssim":
        similarity = MultiScale.of(like, pixel_range)
        return lambda one, other: 1 - similarity(one, other)
    if measure == "lpips":
        return _lpips(like, pixel_range)
    require(measure == "linf", "`measure` in ('linf', 'ms-ssim', 'lpips')", repr(measure))
    return distance_linf


def distance_linf(one: Float[Tensor, "batch ..."], other: Float[Tensor, "batch ..."]) -> Float[Tensor, " batch"]:
    """Give the largest change of a pixel; pixels that tie share its gradient.

    >>> distance_linf(torch.zeros(1, 2), torch.tensor([[0.2, -0.5]]))
    tensor([0.5000])
    """
    return (one - other).flatten(1).abs().amax(1)


def import_lpips() -> Any:
    """Import the package `lpips` (Zhang et al., CVPR 2018).

    Raises:
        ImportError: it is not installed.
    """
    try:
        return importlib.import_module("lpips")
    except ImportError as error:
        raise ImportError(f"expected the package lpips (pip install lpips), got {error}") from None


def _lpips(like: Tensor, pixel_range: tuple[float, float]) -> Distance:
    """Scale pixels to the network's [-1, 1], and show it grey images as three equal channels."""
    network = _network(like.device, like.dtype)
    low, high = pixel_range

    def scaled(images: Tensor) -> Tensor:
        scaled = (images - low) * (2 / (high - low)) - 1
        return scaled.expand(-1, 3, -1, -1)

    return lambda one, other: network(scaled(one), scaled(other)).flatten()


@functools.cache
def _network(device: torch.device, dtype: torch.dtype) -> nn.Module:
    # The fork keeps the caller's random numbers as they are: a network starts with random weights.
    with torch.random.fork_rng(devices=[]):
        network = import_lpips().LPIPS(net="alex", verbose=False)
    return network.to(device, dtype).eval().requires_grad_(False)
