"""Proof by trial that a loss is per sample: no image's loss may know the image's neighbours or its place."""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from vaerdict.attacks.batch import Batch, Meter
from vaerdict.attacks.objectives.protocol import Objective
from vaerdict.attacks.objectives.weighted import WeightedSum
from vaerdict.attacks.question import Question
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
    noise = _trial_noise(vae, image, draws)
    with borrowed(vae) as lent, torch.enable_grad():
        pair = torch.cat([image, dark]).detach().requires_grad_()
        first = loss(Meter(lent), pair, noise[:2])
        _check_losses(what, first, 2)
        alone = _is_alone(what, first, pair, 0)
        second = loss(Meter(lent), torch.cat([bright, image]).detach(), noise[[2, 0]])
    _check_apart(what, first, second, (0, 1), alone)


def check_objective(objective: Objective, vae: Any, images: Float[Tensor, "batch ..."], question: Question) -> None:
    """Refuse an objective that does not fit the images; one whose class is not of this package is tried besides.

    It is tried on the first image beside the second, both moved, and once more with another second image, clean and
    moved: the first one's loss must stay, and neither loss may have a gradient in the other image.

    Args:
        objective: any, also a sum in which there are such classes.
        vae: the model, a torch module; it comes back as it was lent.
        images: those of the attack; of one alone, only its loss's shape is looked at.
        question: of the attack.

    Raises:
        ValueError: it does not fit, its losses are not one number per image, cannot be differentiated, or mix images.
    """
    objective.check(vae, images)
    for own in _foreign(objective):
        _check_own(own, vae, images[:2].detach(), question)


def _foreign(objective: Any) -> list[Objective]:
    """Give what is not of this package: the objective, or parts of it, as of a sum or behind a citation."""
    if type(objective).__module__.partition(".")[0] != __name__.partition(".")[0]:
        return [objective]
    inner = getattr(objective, "objective", None)
    parts = [term for _, term in objective.terms] if isinstance(objective, WeightedSum) else [inner]
    return [own for part in parts if part is not None for own in _foreign(part)]


def _check_own(objective: Objective, vae: Any, images: Float[Tensor, "few ..."], question: Question) -> None:
    what, count = f"losses of {objective.name!r}", len(images)
    part = objective.part(slice(0, count))
    noise = _trial_noise(vae, images, objective.draws(question))
    low, high = vae.input_range
    ends = torch.where(images > (low + high) / 2, torch.full_like(images, low), torch.full_like(images, high))
    with borrowed(vae) as lent, torch.enable_grad():

        def losses(clean: Tensor, attacked: Tensor, noise: Tensor) -> Tensor:
            return part.loss(Batch.of(Meter(lent), clean, question, 0, tuple(range(count))))(attacked, noise)

        # Off the clean images, where many a loss is zero and has no slope.
        moved = images.lerp(ends, 0.1).requires_grad_()
        first = losses(images, moved, noise[:count])
        _check_losses(what, first, count)
        alone = all([_is_alone(what, first, moved, place) for place in range(count)])
        others = torch.cat([images[:1], ends[1:]])
        further = torch.cat([moved[:1], images[1:].lerp(ends[1:], 0.5)]).detach()
        second = losses(others, further, noise[[0, 2][:count]])
    _check_apart(what, first, second, (0, 0), alone)


def _trial_noise(vae: Any, image: Tensor, draws: int) -> Tensor:
    return normal_noise(0, (0, 1, 2), "attack/trial", (draws, vae.latent)).to(image)


def _is_alone(what: str, losses: Tensor, images: Tensor, place: int) -> bool:
    (gradient,) = torch.autograd.grad(losses[place], images, retain_graph=True, allow_unused=True)
    require(gradient is not None, f"{what} that can be differentiated in the images", "no gradient")
    # Zero times a slope without bounds is NaN, not dependence: that is left to the values.
    slopes = gradient.nan_to_num().flatten(1).any(1).tolist()
    return not any(slopes[:place] + slopes[place + 1 :])


def _check_apart(what: str, first: Tensor, second: Tensor, places: tuple[int, int], alone: bool) -> None:
    """Refuse losses of which one image's, in its place of either, changed with its neighbour."""
    value, again = (losses.detach()[place] for losses, place in zip((first, second), places, strict=True))
    rounding = torch.finfo(value.dtype).eps
    close = torch.isclose(again, value, rtol=rounding**0.5, atol=rounding * _largest(first, second), equal_nan=True)
    require(alone and bool(close), f"{what} in which no image depends on another", _seen(value, again, alone))


def _check_losses(what: str, losses: Any, count: int) -> None:
    require(isinstance(losses, Tensor), f"{what} of one tensor", type(losses).__name__)
    plural = "image" if count == 1 else "images"
    require(tuple(losses.shape) == (count,), f"{what} of shape ({count},) for {count} {plural}", tuple(losses.shape))
    require(losses.is_floating_point(), f"{what} in floating point", losses.dtype)
    require(losses.requires_grad, f"{what} that can be differentiated in the images", "no gradient")


def _largest(*losses: Tensor) -> float:
    values = torch.cat([loss.detach() for loss in losses])
    return float(values[values.isfinite()].abs().amax()) if values.isfinite().any() else 0.0


def _seen(value: Tensor, again: Tensor, alone: bool) -> str:
    between = f"{float(value):g} and {float(again):g} for the same image beside two others"
    return between if alone else "a gradient in another image"
