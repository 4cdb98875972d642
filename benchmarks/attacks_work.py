"""The runs of `attacks.py` on one model: every attack at every radius and budget, every margin search, one judge."""

import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from attacks_art import ask_art, trials
from attacks_judge import Counted, Judged, judge_damage, judge_margin
from attacks_margins import MARGIN_PEERS
from attacks_models import Case
from attacks_ours import CHOSEN, MARGINS, OURS, run_margin, run_ours, run_preset
from attacks_peers import PEERS
from torch import Tensor

from vaerdict.attacks.presets import presets

Cell = dict[str, Tensor]
"""What each attack reached, per image, by the attack's name."""
Place = tuple[str, float, int]
"""A norm, a radius and a number of gradients."""


@dataclass(frozen=True, kw_only=True)
class Effort:
    """How many images, which radii and budgets; presets attack the first `preset_images` only, since some are slow."""

    images: int = 64
    preset_images: int = 16
    radii: tuple[tuple[str, float], ...] = (
        *(("2", radius) for radius in (0.5, 1.0, 2.0, 4.0)),
        *(("inf", radius) for radius in (0.05, 0.1)),
    )
    budgets: tuple[int, ...] = (20, 50, 100)
    ladder: tuple[int, ...] = (5, 10, 15, 20, 25, 30, 40, 50, 70, 100)
    art: bool = True


@dataclass(frozen=True)
class Ledger:
    """What the runs on one model cost, and how many of their results the judge refused."""

    vae: Counted
    costs: dict[str, list[dict[str, float]]] = field(default_factory=lambda: defaultdict(list))

    def run(self, name: str, budget: int, images: Tensor, attack: Callable[[], Tensor]) -> Tensor:
        """Run an attack from a seed, and note its gradients and evaluations per image, as shares of the budget."""
        self.vae.take(len(images))
        start = time.process_time()
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)
            found = attack().detach()
        seconds = time.process_time() - start
        cost = {kind: value / budget for kind, value in self.vae.take(len(images)).items()}
        if "ours" in name and cost["gradients"] > 1:
            raise RuntimeError(f"expected at most {budget} gradients of {name}, got {cost['gradients'] * budget:g}")
        self.costs[name].append({**cost, "milliseconds": 1e3 * seconds / budget})
        return found

    def judged(self, name: str, judgement: Judged) -> Tensor:
        """Note how many results were refused and give the values."""
        self.costs[name][-1]["refused"] = judgement.refused
        return judgement.values

    def summary(self) -> dict[str, dict[str, float]]:
        """Give the means of each attack's costs, and all its refused results."""
        return {name: _summary(costs) for name, costs in self.costs.items()}


def _summary(costs: list[dict[str, float]]) -> dict[str, float]:
    means = {kind: sum(cost.get(kind, 0.0) for cost in costs) / len(costs) for kind in costs[0] if kind != "refused"}
    named = {"gradients": "gradients_of_budget", "forwards": "forwards_of_budget", "milliseconds": "ms_per_gradient"}
    return {
        **{named[kind]: round(value, 3) for kind, value in means.items()},
        "most_gradients_of_budget": round(max(cost["gradients"] for cost in costs), 3),
        "refused": sum(int(cost.get("refused", 0)) for cost in costs),
    }


def run_damages(case: Case, effort: Effort, ledger: Ledger) -> dict[Place, Cell]:
    """Run our attacks and the peers in this process at every radius and budget."""
    vae, images = ledger.vae, case.images
    cells: dict[Place, Cell] = {}
    for norm, radius in effort.radii:
        for budget in effort.budgets:
            attacks = {
                **{f"ours: {name}": partial(run_ours, vae, images, radius, case.r, norm, make(budget))
                   for name, make in OURS.items()},
                **{name: partial(peer, vae, images, radius, budget, norm) for name, peer in PEERS.items()},
            }  # fmt: skip
            cell = {}
            for name, attack in attacks.items():
                found = ledger.run(name, budget, images, attack)
                cell[name] = ledger.judged(name, judge_damage(case.vae, images, found, radius, norm))
            cells[norm, radius, budget] = cell
    return cells


def run_art(case: Case, effort: Effort, ledger: Ledger, folder: Path) -> tuple[dict[Place, Cell], str]:
    """Run ART's Auto-PGD in its environment: of its last and best iterates the better one counts, per image."""
    runs = [
        run
        for norm in sorted({norm for norm, _ in effort.radii})
        for run in trials([radius for other, radius in effort.radii if other == norm], norm, effort.budgets)
    ]
    found, reason = ask_art(folder, ledger.vae, case.images, runs)
    cells: dict[Place, Cell] = defaultdict(dict)
    for run, facts in found.items():
        judgements = [judge_damage(case.vae, case.images, each, run.radius, run.norm) for each in facts.pop("images")]
        ledger.costs[run.name].append(
            {kind: facts[kind] / run.budget for kind in ("gradients", "forwards")}
            | {"milliseconds": 1e3 * facts["seconds"] / run.budget, "refused": sum(each.refused for each in judgements)}
        )
        cells[run.norm, run.radius, run.budget][run.name] = torch.stack([each.values for each in judgements]).amax(0)
    return cells, reason


def run_presets(case: Case, effort: Effort, ledger: Ledger) -> dict[Place, Cell]:
    """Run the published presets in the L2 balls, on the first images."""
    vae, images = ledger.vae, case.images[: effort.preset_images]
    cells: dict[Place, Cell] = {}
    for norm, radius in effort.radii:
        for budget in effort.budgets if norm == "2" else ():
            cell = cells[norm, radius, budget] = {}
            for name, preset in presets().items():
                attack = partial(run_preset, vae, images, radius, case.r, preset, budget)
                found = ledger.run(f"preset: {name}", budget, images, attack)
                judgement = judge_damage(case.vae, images, found, radius, norm)
                cell[f"preset: {name}"] = ledger.judged(f"preset: {name}", judgement)
    return cells


def run_ladder(case: Case, effort: Effort, ledger: Ledger) -> dict[tuple[str, float], dict[int, float]]:
    """Give the median damage of our chosen attack at more budgets."""
    vae, images = ledger.vae, case.images
    medians: dict[tuple[str, float], dict[int, float]] = {}
    for norm, radius in effort.radii:
        rungs = medians[norm, radius] = {}
        for budget in effort.ladder if norm == "2" else ():
            found = run_ours(vae, images, radius, case.r, norm, OURS[CHOSEN](budget))
            rungs[budget] = float(judge_damage(case.vae, images, found, radius, norm).values.median())
    return medians


def run_margins(case: Case, effort: Effort, ledger: Ledger) -> dict[int, Cell]:
    """Run our margin searches and the others (L2) at every budget."""
    vae, images, r = ledger.vae, case.images, case.r
    cells: dict[int, Cell] = {}
    for budget in effort.budgets:
        searches = {
            **{f"ours: {name}": partial(run_margin, vae, images, r, "2", make(budget))
               for name, make in MARGINS.items()},
            **{name: partial(peer, vae, images, r, budget) for name, peer in MARGIN_PEERS.items()},
        }  # fmt: skip
        cell = cells[budget] = {}
        for name, search in searches.items():
            found = ledger.run(f"margin, {name}", budget, images, search)
            cell[name] = ledger.judged(f"margin, {name}", judge_margin(case.vae, images, found, r, "2"))
    return cells
