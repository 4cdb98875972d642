"""Our own attacks in `attacks.py`: which options a number of gradients buys, and the published presets at as many."""

import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from attacks_judge import Counted
from torch import Tensor

from vaerdict.attacks import (
    APGD,
    DDN,
    FMN,
    PGD,
    Bisection,
    MarginSearch,
    MaximumDamage,
    Objective,
    Optimiser,
    Singular,
    Suite,
    attack,
    attack_margin,
)
from vaerdict.attacks.margins.least import Narrower
from vaerdict.attacks.optimisers.sgd import SGD
from vaerdict.attacks.presets import Preset
from vaerdict.results import Row

DAMAGE = MaximumDamage()
Searches = tuple[MarginSearch, tuple[Narrower, ...]]

OURS: dict[str, Callable[[int], Optimiser | Suite]] = {
    "pgd": PGD.within,
    "pgd, 1 start": lambda budget: PGD(steps=budget, restarts=1),
    "apgd": lambda budget: APGD(steps=budget, restarts=1),
}
"""By name: from a number of gradients per image to the options, or the suite, that use as many."""
CHOSEN = "pgd"
"""Which of them is held to the targets."""

MARGINS: dict[str, Callable[[int], Searches]] = {
    "bisection": lambda budget: (bisection(budget), (Bisection(),)),
    "ddn": lambda budget: (MarginSearch(), (DDN(steps=budget, restarts=1),)),
    "fmn": lambda budget: (MarginSearch(), (FMN(steps=budget, restarts=1),)),
    "minimum of ddn and fmn": lambda budget: (
        MarginSearch(),
        (DDN(steps=budget // 2, restarts=1), FMN(steps=budget - budget // 2, restarts=1)),
    ),
}
"""By name: from a number of gradients per image to the margin searches that use as many."""
CHOSEN_MARGIN = "bisection"


def bisection(budget: int) -> MarginSearch:
    """Share the gradients: a fifth at the largest radius, the rest among levels of about as many each."""
    levels = 6 if budget < 50 else 10
    steps = max(1, budget // levels)
    start = PGD(steps=budget - steps * (levels - 1), restarts=1)
    return MarginSearch(start=start, levels=levels, steps=steps, restarts=0)


def preset_options(preset: Preset, vae: Counted, budget: int, radius: float) -> Optimiser:
    """Give a published optimiser with one start and as many gradients; its steps keep their share of the radius.

    An iteration of the singular-vector search costs three products with the Jacobian.
    """
    options: Any = preset.options(vae, max(1, budget // 3) if isinstance(preset.optimiser, Singular) else budget)
    options = replace(options, restarts=1)
    if isinstance(preset.radius, float) and isinstance(options, SGD) and options.direction == "steepest":
        return replace(options, learning_rate=options.learning_rate * radius / preset.radius)
    return options


def run_preset(vae: Counted, images: Tensor, radius: float, r: float, preset: Preset, budget: int) -> Tensor:
    """Attack by a published preset in the L2 ball; targets, where it has any, are the next images."""
    targets = None if preset.targets == "none" else images.roll(1, 0)
    objective = preset.objective(targets, 1.0)
    return run_ours(vae, images, radius, r, "2", preset_options(preset, vae, budget, radius), objective)


def run_ours(
    vae: Counted,
    images: Tensor,
    radius: float,
    r: float,
    norm: str,
    options: Optimiser | Suite,
    objective: Objective = DAMAGE,
) -> Tensor:
    """Attack at a radius and give the adversarial images."""
    with tempfile.TemporaryDirectory() as folder:
        rows = attack(
            vae, images, radius=radius, r=r, norm=norm, reconstruction="mean",  # type: ignore[arg-type]
            objective=objective, suite=options if isinstance(options, Suite) else Suite.of(options),
            witness_folder=Path(folder) / "witnesses",
        )  # fmt: skip
        return _witnesses(rows, Path(folder), images)


def run_margin(vae: Counted, images: Tensor, r: float, norm: str, searches: Searches) -> Tensor:
    """Search the margin and give the images at it; a clean image where nothing was found."""
    with tempfile.TemporaryDirectory() as folder:
        rows = attack_margin(
            vae, images, r=r, norm=norm, reconstruction="mean",  # type: ignore[arg-type]
            options=searches[0], searches=searches[1], witness_folder=Path(folder) / "witnesses",
        )  # fmt: skip
        return _witnesses(rows, Path(folder), images)


def _witnesses(rows: list[Row], folder: Path, images: Tensor) -> Tensor:
    found = images.clone()
    for i, row in enumerate(rows):
        if row.witness:
            found[i] = torch.from_numpy(np.load(folder / row.witness)["adversarial"])
    return found
