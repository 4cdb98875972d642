"""Proof by trial that a loss is per sample: no image's loss may know the image's neighbours or its place."""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from vaerdict.attacks.batch import Meter
from vaerdict.options import require
from vaerdict.seeds import normal_noise
from vaerdict.vae import borrowed


def check_independent(
    what: str,
    loss: Callable[[Any, Tensor, Tensor], Tensor],
    vae: Any,
    image: Float[Tensor, "1 ..."],
    draws: int,
) -> None:
    """Refuse a loss that is not one number per image, cannot be differentiated, or mixes images.

    The image is tried first beside a dark one, then after a bright one, on the same noise. Its loss must stay, and must
    not have a gradient in its neighbour.

    Args:
        what: how messages call the loss.
        loss: from a model, images `[B, ...]` and noise `[B, draws, latent]` to losses `[B]`.
        vae: the model, a torch module; it comes back as it was lent.
        image: one image of the attack.
        draws: latent draws per image.

    Raises:
        ValueError: it is none.
    """
    low, high = vae.input_range
    dark, bright = torch.full_like(image, low), torch.full_like(image, high)
    noise = normal_noise(0, (0, 1, 2), "attack/trial", (draws, vae.latent)).to(image)
    with borrowed(vae) as lent, torch.enable_grad():
        pair = torch.cat([image, dark]).detach().requires_grad_()
        first = loss(Meter(lent), pair, noise[:2])
        _check_losses(what, first)
        (gradient,) = torch.autograd.grad(first[0], pair, allow_unused=True)
        require(gradient is not None, f"{what} that can be differentiated in the images", "no gradient")
        second = loss(Meter(lent), torch.cat([bright, image]).detach(), noise[[2, 0]])
    # Zero times a slope without bounds is NaN, not dependence: that is left to the values.
    alone = not gradient[1].nan_to_num().any()
    value, again = first[0].detach(), second[1].detach()
    rounding = torch.finfo(value.dtype).eps
    close = torch.isclose(again, value, rtol=rounding**0.5, atol=rounding * _largest(first, second), equal_nan=True)
    require(alone and bool(close), f"{what} in which no image depends on another", _seen(value, again, alone))


def _check_losses(what: str, losses: Any) -> None:
    require(isinstance(losses, Tensor), f"{what} of one tensor", type(losses).__name__)
    require(tuple(losses.shape) == (2,), f"{what} of shape (2,) for 2 images", tuple(losses.shape))
    require(losses.is_floating_point(), f"{what} in floating point", losses.dtype)
    require(losses.requires_grad, f"{what} that can be differentiated in the images", "no gradient")


def _largest(*losses: Tensor) -> float:
    values = torch.cat([loss.detach() for loss in losses])
    return float(values[values.isfinite()].abs().amax()) if values.isfinite().any() else 0.0


def _seen(value: Tensor, again: Tensor, alone: bool) -> str:
    between = f"{float(value):g} and {float(again):g} for the same image beside two others"
    return between if alone else "a gradient in another image"
