"""From the runs of `attacks.py` to its numbers, lines and targets."""

import math
from typing import Any

import torch
from attacks_ours import CHOSEN, CHOSEN_MARGIN
from attacks_work import Cell, Place
from common import Target

OURS, OURS_MARGIN = f"ours: {CHOSEN}", f"ours: {CHOSEN_MARGIN}"
TIMED = "pgd"
"""Which of the timed optimisers is held to the targets."""
SHARES = (0.995, 0.999, 1.0)
"""Of the best peer's damage, that ours is to reach."""
NEAR = 1.0
"""The one of them that is held to the target; the best of many peers' medians is a little above what any of them can do
again."""


def place_name(place: tuple[Any, ...]) -> str:
    """Give a place's key in the results.

    >>> place_name(("2", 0.5, 20))
    'L2, 0.5, 20'
    """
    norm, radius, *budget = place
    return ", ".join([f"L{norm}", f"{radius:g}", *map(str, budget)])


def medians(cell: Cell) -> dict[str, float]:
    """Give the median of each attack over the images."""
    return {name: round(float(values.median()), 5) for name, values in cell.items()}


def compare(cell: Cell, mine: Cell) -> dict[str, Any]:
    """Give our median damage over that of the best other attack on the same images, and which that is."""
    others = {name: values for name, values in cell.items() if not name.startswith("ours")}
    best = max(others, key=lambda name: float(others[name].median()))
    images = len(others[best])
    return {
        "ours": float(mine[OURS][:images].median()),
        "best": best,
        "its": float(others[best].median()),
        "ratio": float(mine[OURS][:images].median() / others[best].median()),
        "images_where_ours_is_worse": int((mine[OURS][:images] < 0.995 * others[best]).sum()),
    }


def reached(rungs: dict[int, float], enough: float) -> float:
    """Give the fewest of our gradients with which the damage is `enough`; infinite where all are too few.

    >>> reached({10: 0.9, 20: 1.0}, 1.0)
    20
    """
    return next((budget for budget, damage in sorted(rungs.items()) if damage >= enough), math.inf)


def compare_margins(cell: Cell) -> dict[str, dict[str, float]]:
    """Give each search's median margin, its failures, and its ratio to the smallest margin of all per image."""
    best = torch.stack(list(cell.values())).amin(0)
    return {
        name: {
            "median": float(values.median()),
            "failures": int(values.isinf().sum()),
            "median_ratio": float((values / best).median()),
            "ratio_90": float((values / best).sort().values[int(0.9 * (len(values) - 1))]),
        }
        for name, values in cell.items()
    }


def summarise(
    cells: dict[Place, Cell], published: dict[Place, Cell], ladder: dict[tuple[str, float], dict[int, float]],
    margins: dict[int, Cell],
) -> dict[str, Any]:  # fmt: skip
    """Give one model's results."""
    most = max(budget for _, _, budget in cells)
    to_best = {place: compare(cell, cells[place]) for place, cell in cells.items()}
    reach = {
        place_name(ball): {
            "gradients": {f"{share:g}": reached(rungs, share * to_best[*ball, most]["its"]) for share in SHARES},
            "medians": rungs,
        }
        for ball, rungs in ladder.items()
        if rungs
    }
    return {
        "medians": {place_name(place): medians(cell) for place, cell in cells.items()},
        "against_peers": {place_name(place): facts for place, facts in to_best.items()},
        "presets": {place_name(place): medians(cell) for place, cell in published.items()},
        "against_presets": {place_name(place): compare(cell, cells[place]) for place, cell in published.items()},
        "reach": reach,
        "margins": {str(budget): compare_margins(cell) for budget, cell in margins.items()},
    }


def show(name: str, found: dict[str, Any]) -> None:
    """Print one model's comparisons."""
    for kind in ("peers", "presets"):
        for place, facts in found[f"against_{kind}"].items():
            print(
                f"{name:<10} {place:<14} ours {facts['ours']:8.4f}  best of {kind} {facts['its']:8.4f} "
                f"({facts['best']}), ratio {facts['ratio']:.4f}, worse on {facts['images_where_ours_is_worse']}"
            )
    for ball, facts in found["reach"].items():
        print(
            f"{name:<10} {ball:<14} gradients of ours to reach shares of the best peer's damage: {facts['gradients']}"
        )
    for budget, searches in found["margins"].items():
        for search, facts in searches.items():
            print(
                f"{name:<10} margin, {budget:>3} {search:<32} median {facts['median']:8.4f}, ratio to the best "
                f"{facts['median_ratio']:.4f}, nine tenths {facts['ratio_90']:.4f}, {facts['failures']} failed"
            )


def make_targets(models: dict[str, dict[str, Any]], overhead: dict[str, Any]) -> list[Target]:
    """Compare with what was asked for; the L2 balls count, the others are reported beside."""
    peers, published = (
        min(facts["ratio"] for found in models.values() for place, facts in found[kind].items() if place[:2] == "L2")
        for kind in ("against_peers", "against_presets")
    )
    gradients = max(facts["gradients"][f"{NEAR:g}"] for found in models.values() for facts in found["reach"].values())
    margin = max(s[OURS_MARGIN]["median_ratio"] for found in models.values() for s in found["margins"].values())
    operations = max(facts[TIMED]["operations_beyond_bare"] for facts in overhead.values())
    waits = max(facts[TIMED]["synchronisations"] for facts in overhead.values())
    small = overhead["small"][TIMED]["ratio_to_foolbox"]
    large = max(facts[TIMED]["ratio_to_bare"] for name, facts in overhead.items() if name != "small")
    return [
        Target(name="median damage / best peer's, least of models, radii and budgets", wanted=">= 0.995",
               measured=peers, met=peers >= 0.995),
        Target(name="median damage / best published preset's, least", wanted=">= 0.995", measured=published,
               met=published >= 0.995),
        Target(name=f"gradients to reach {NEAR:g} of the best peer's damage after 100, most", wanted="<= 25",
               measured=gradients, met=gradients <= 25),
        Target(name="median margin / best of all searches, most of models and budgets", wanted="<= 1.01",
               measured=margin, met=margin <= 1.01),
        Target(name="operations per step beyond forward and backward, most", wanted="<= 30", measured=operations,
               met=operations <= 30),
        Target(name="host synchronisations per step, most", wanted="0", measured=waits, met=waits == 0),
        Target(name="time per step / bare forward and backward of over 5 ms, most", wanted="<= 1.05", measured=large,
               met=large <= 1.05),
        Target(name="time per step / foolbox's on a small network", wanted="<= 0.6", measured=small, met=small <= 0.6),
    ]  # fmt: skip
