"""From the pixels of a paper to those of a model: lengths, steps and weights keep their meaning."""

from collections.abc import Callable
from dataclasses import replace

from vaerdict.attacks.optimisers.adam import Adam
from vaerdict.attacks.optimisers.common import Optimiser
from vaerdict.attacks.optimisers.lbfgs import LBFGS
from vaerdict.attacks.optimisers.sgd import SGD
from vaerdict.attacks.optimisers.transfer import Transfer
from vaerdict.options import require

STEPS = ("steps", "evaluations", "iterations")
"""What optimisers call the number of their gradients."""


def scale_between(paper: tuple[float, float], model: tuple[float, float]) -> float:
    """Give how long a paper's pixel unit is in a model's: the ratio of the widths of their ranges.

    >>> scale_between((-1.0, 1.0), (0.0, 1.0))
    0.5
    """
    return (model[1] - model[0]) / (paper[1] - paper[0])


def in_pixels(optimiser: Optimiser, scale: float, power: int) -> Optimiser:
    """Give an optimiser that walks in the model's pixels as the given one walks in the paper's, and those inside it.

    With a loss that scales as `scale^power`, a raw gradient scales as `scale^(power-1)`, so its factor must as
    `scale^(2-power)`; the weight of `|delta|^2` beside such a loss scales as `scale^(power-2)`.

    Args:
        optimiser: in the paper's pixel units.
        scale: the paper's pixel unit in the model's.
        power: 0 for a loss in nats or latent units, 2 for one in squared pixels.

    >>> in_pixels(SGD(learning_rate=0.02, direction="steepest"), 0.5, 0).learning_rate
    0.01
    """
    optimiser = _inside(optimiser, lambda inner: in_pixels(inner, scale, power))
    if isinstance(optimiser, LBFGS):
        slope = optimiser.pgtol * scale ** (power - 1)
        return replace(optimiser, penalty=optimiser.penalty * scale ** (power - 2), pgtol=slope)
    if isinstance(optimiser, Adam | SGD):
        raw = isinstance(optimiser, SGD) and optimiser.direction == "raw"
        rate = optimiser.learning_rate * (scale ** (2 - power) if raw else scale)
        return replace(optimiser, penalty=optimiser.penalty * scale ** (power - 2), learning_rate=rate)
    # Others measure their steps in radii.
    free = not any(hasattr(optimiser, name) for name in ("learning_rate", "penalty"))
    require(free, "an optimiser whose units are known", type(optimiser).__name__)
    return optimiser


def with_steps(optimiser: Optimiser, steps: int | None) -> Optimiser:
    """Give the optimiser with another number of gradients per restart, whatever it calls them; None changes nothing.

    Raises:
        ValueError: it counts no gradients, but queries or draws, or leaves the steps to another library.

    >>> with_steps(LBFGS(), 30).evaluations
    30
    """
    if steps is None:
        return optimiser
    if isinstance(optimiser, Transfer):
        return optimiser.using(with_steps(optimiser.options, steps))
    found = [name for name in STEPS if hasattr(optimiser, name)]
    require(len(found) == 1, f"an optimiser that counts its gradients in one of {STEPS} for `steps`", optimiser.name)
    return replace(optimiser, **{found[0]: steps})  # type: ignore[type-var]  # optimisers are dataclasses


def split_penalty(optimiser: Optimiser) -> tuple[Optimiser, float]:
    """Give the optimiser without its penalty, and the penalty's weight, which then belongs into the objective.

    Raises:
        ValueError: the optimiser whose end is the start has a penalty of its own, which an objective cannot have.

    >>> adam, weight = split_penalty(Adam(penalty=2.0))
    >>> adam.penalty, weight
    (0.0, 2.0)
    """
    if isinstance(optimiser, Transfer):
        inner, weight = split_penalty(optimiser.options)
        return optimiser.using(inner), weight
    first, weight = getattr(optimiser, "first", None), getattr(optimiser, "penalty", 0.0)
    if first is not None:
        first, before = split_penalty(first)
        require(before in (0, weight), f"`first` without a penalty, or with the same one, {weight}", before)
        optimiser = replace(optimiser, first=first)  # type: ignore[type-var]
    return (replace(optimiser, penalty=0.0) if weight else optimiser), weight  # type: ignore[type-var]


def _inside(optimiser: Optimiser, change: Callable[[Optimiser], Optimiser]) -> Optimiser:
    """Change the optimiser whose end is the start, or that which searches on a surrogate, where there is one."""
    if isinstance(optimiser, Transfer):
        return optimiser.using(change(optimiser.options))
    first = getattr(optimiser, "first", None)
    return optimiser if first is None else replace(optimiser, first=change(first))  # type: ignore[type-var]
