"""From the pixels of a paper to those of a model: lengths, steps and weights keep their meaning."""

from dataclasses import replace

from vaerdict.attacks.optimisers.adam import Adam
from vaerdict.attacks.optimisers.common import Optimiser
from vaerdict.attacks.optimisers.lbfgs import LBFGS
from vaerdict.attacks.optimisers.sgd import SGD
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
    """Give an optimiser that walks in the model's pixels as the given one walks in the paper's.

    With a loss that scales as `scale^power`, a raw gradient scales as `scale^(power-1)`, so its factor must as
    `scale^(2-power)`; the weight of `|delta|^2` beside such a loss scales as `scale^(power-2)`.

    Args:
        optimiser: in the paper's pixel units.
        scale: the paper's pixel unit in the model's.
        power: 0 for a loss in nats or latent units, 2 for one in squared pixels.

    >>> in_pixels(SGD(learning_rate=0.02, direction="steepest"), 0.5, 0).learning_rate
    0.01
    """
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

    >>> with_steps(LBFGS(), 30).evaluations
    30
    """
    if steps is None:
        return optimiser
    (name,) = [name for name in STEPS if hasattr(optimiser, name)]
    return replace(optimiser, **{name: steps})  # type: ignore[type-var]  # optimisers are dataclasses
