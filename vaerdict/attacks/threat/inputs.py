"""Images and masks as users give them, made fit for a ball."""

import warnings

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from vaerdict.options import require

TOLERANCE = 1e-6
"""Pixels this far outside the box, relative to its largest absolute value, come from rounding."""


def settle(images: Float[Tensor, "batch ..."], box: tuple[float, float]) -> Float[Tensor, "batch ..."]:
    """Give the images with pixels that rounding put outside the box brought back, and a warning where there are any.

    Pixels farther out, and those that are not finite, are left for `check_images` to refuse.

    Raises:
        ValueError: the images are no tensor.

    >>> settle(torch.tensor([[0.25, 1.0]]), (0.0, 1.0))
    tensor([[0.2500, 1.0000]])
    """
    require(isinstance(images, Tensor), "`images` as a torch tensor", type(images).__name__)
    low, high = box
    least, most = (float(value) for value in images.detach().aminmax()) if images.numel() else box
    slack = TOLERANCE * max(abs(low), abs(high))
    if (low <= least and most <= high) or not (low - slack <= least and most <= high + slack):
        return images
    warnings.warn(f"expected pixels in [{low:g}, {high:g}], got [{least!r}, {most!r}]: clamped", stacklevel=2)
    return images.clamp(low, high)


def check_mask(mask: Tensor | None, images: Float[Tensor, "batch ..."]) -> Bool[Tensor, "masks ..."] | None:
    """Give the mask as it was given, one per image or one for all, on the images' device.

    Raises:
        ValueError: the mask is no tensor, not boolean, not of the images' shape, or marks no pixel of an image.

    >>> check_mask(torch.tensor([[True, False]]), torch.zeros(3, 2))
    tensor([[ True, False]])
    """
    if mask is None:
        return None
    require(isinstance(mask, Tensor), "`mask` as a torch tensor", type(mask).__name__)
    require(mask.dtype == torch.bool, "a boolean `mask`", mask.dtype)
    shapes = (tuple(images.shape), (1, *images.shape[1:]))
    require(tuple(mask.shape) in shapes, f"`mask` of shape {shapes[0]} or {shapes[1]}", tuple(mask.shape))
    empty = (~mask.flatten(1).any(1)).nonzero().flatten().tolist()
    require(not empty, "a `mask` with pixels to attack", f"none for image {empty[0]}" if empty else "")
    return mask.detach().to(images.device)
