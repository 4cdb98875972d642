"""Certificates against attacks, at scale: no input change within a certified radius may do what was ruled out.

Many small random VAEs, of families that include the ones in which certificates are exact. Every method certifies every
image; gradient attacks then start inside the largest certified radius of each strength, without any clipping of pixels,
and a judge counts on fresh draws. A certificate is beaten when the upper confidence bound of `P(|Delta| <= r)` at a
change of at most the certified size is at most `p`. Both sides are right with confidence 1 - 1e-9 each time.

A control makes the constants of decoder and mean 10 % too small: there the attacks must win.
"""

import math
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import asdict, replace
from statistics import median
from typing import Any

import torch
from common import Target, finish, make_parser
from never_beaten_attacks import Effort
from never_beaten_cases import Case, draw_case
from never_beaten_duels import Outcome, play

SHRUNK = 0.9
QUICK_CASES = 8


def _finite(ratio: float) -> float | None:
    """Give None for no success at all, which JSON can hold."""
    return ratio if ratio < math.inf else None


def summarise(outcomes: list[Outcome], key: Any) -> dict[str, dict[str, float | None]]:
    """Give, per value of `key(case, certificate)`, how many certificates there were and how close attacks came."""
    groups: dict[str, list[float]] = defaultdict(list)
    for outcome in outcomes:
        for one, ratio in outcome.ratios:
            groups[str(key(outcome.case, one))].append(ratio)
    return {
        name: {
            "certificates": len(ratios),
            "beaten": sum(ratio <= 1 for ratio in ratios),
            "least attacked / certified": _finite(min(ratios)),
            "median attacked / certified": _finite(median(ratios)),
        }
        for name, ratios in sorted(groups.items())
    }


KEYS = {
    "methods": lambda case, one: one.method,
    "families": lambda case, one: case.family,
    "spreads": lambda case, one: "two levels" if case.family == "hierarchical" else case.spread,
    "norms": lambda case, one: case.norm,
    "reconstructions": lambda case, one: case.reconstruction,
    "levels": lambda case, one: case.p,
    "strengths": lambda case, one: one.strength,
}


def play_all(cases: int, effort: Effort, quick: bool) -> Iterator[Outcome]:
    """Play the cases of the seeds 0, 1, 2, ... and say how it goes."""
    began = time.perf_counter()
    for seed in range(cases):
        outcome = play(draw_case(seed), effort)
        if seed % 20 == 0 or quick or outcome.beaten:
            counts = f"certificates {len(outcome.certificates)} beaten {outcome.beaten}"
            print(f"{time.perf_counter() - began:.0f} s {outcome.case} {counts}", flush=True)
        yield outcome


def main() -> None:
    """Play, count, and hold the counts against the targets."""
    torch.set_num_threads(1)
    parser = make_parser(__doc__ or "")
    parser.add_argument("--cases", type=int, default=330, help="models, of seeds 0, 1, 2, ...")
    options = parser.parse_args()
    effort = Effort(images=16, steps=20, verdicts=(1000, 20_000), judged=(10**9, 8)) if options.quick else Effort()
    began = time.perf_counter()
    outcomes = list(play_all(QUICK_CASES if options.quick else options.cases, effort, options.quick))
    seconds = time.perf_counter() - began
    few = replace(effort, images=16)
    control = [
        play(Case(seed=seed, family="isotropic", spread="constant", reconstruction=kind, local=False), few, SHRUNK)
        for seed in range(2 if options.quick else 10)
        for kind in ("sampled", "anchored", "mean")
    ]
    beaten = [
        {**asdict(outcome.case), **one._asdict(), "r": outcome.r, "attacked": size}
        for outcome in outcomes
        for one, size in outcome.beaten
    ]
    certificates, steps = (
        sum(counts) for counts in zip(*((len(o.certificates), o.steps) for o in outcomes), strict=True)
    )
    caught = Counter(one.method for outcome in control for one, _ in outcome.beaten)
    enough = (1, 1) if options.quick else (10**5, 10**7)
    targets = [
        Target(name="certificates", wanted=f">= {enough[0]:g}", measured=certificates, met=certificates >= enough[0]),
        Target(name="attack steps", wanted=f">= {enough[1]:g}", measured=steps, met=steps >= enough[1]),
        Target(name="beaten", wanted="0", measured=len(beaten), met=not beaten),
        Target(name="false ones caught in the control", wanted=">= 1", measured=caught.total(), met=bool(caught)),
    ]
    groups = {name: summarise(outcomes, key) for name, key in KEYS.items()}
    for name, facts in groups["methods"].items():
        print(f"{name:<14}", *(f"{key} {value and round(value, 4)}  " for key, value in facts.items()))
    finish(
        "never_beaten", options, targets, **groups, models=len(outcomes), images=effort.images * len(outcomes),
        seeds=f"0 to {len(outcomes) - 1}", effort=asdict(effort), beaten=beaten,
        seconds={"all": seconds, "certify": sum(o.seconds[0] for o in outcomes)},
        control={
            "share of the true constants": SHRUNK,
            "certificates": sum(len(outcome.certificates) for outcome in control),
            "beaten": dict(caught),
        },
    )  # fmt: skip


if __name__ == "__main__":
    main()
