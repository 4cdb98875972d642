"""Certificates side by side on MNIST: against Barrett's bound, against attacks, and against the clock.

Six VAEs (`certify_models.py`): Lipschitz ones whose layers have the budgets 5, 7 and 10 before and after the latents,
one of them with a standard deviation per image, and two plain ones. `r` is half of the median distance between the
reconstructions of different test images, and 0.3 and 1 of it beside. Attacks search with and without the range of the
pixels; certificates speak of every change, so the ones without are the measure of tightness. Needs an `mnist.npz`
(`--mnist FILE`). Two processes, one thread each.
"""

import multiprocessing
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from certify_models import BOUNDED, LIPSCHITZ, NAMES, PLAIN, Place, slices
from certify_speed import closed_form_speed, whole_portfolio
from certify_tables import (
    best_margins,
    describe,
    hold_against,
    print_barrett,
    print_methods,
    print_speed,
    print_tightness,
    share,
)
from certify_work import MAIN, against_barrett, barrett_on_plain, examine, propagated
from common import SHARED_DATA, Target, finish, make_parser

from vaerdict.attacks import MarginSearch
from vaerdict.options import CertifyOptions
from vaerdict.results import Row, frame

FULL_SEARCH = MarginSearch()


@dataclass(frozen=True)
class Effort:
    """How many images, and how many draws for those of plain VAEs that are attacked."""

    part: int = 15
    lipschitz: int = 30
    bounded: int = 15
    plain: int = 60
    closed: int = 1000
    besides: int = 500
    samples: int = 100_000
    propagated: int = 3
    boxed: tuple[str, ...] = PLAIN
    speed: int = 10_000
    portfolio: int = 10_000
    step: int = 1000
    search: MarginSearch = FULL_SEARCH


QUICK = Effort(
    part=3, lipschitz=3, bounded=3, plain=3, closed=50, besides=20, samples=10_000, propagated=1, boxed=("plain",),
    speed=256, portfolio=60, step=10, search=MarginSearch(levels=6, steps=5, restarts=1),
)  # fmt: skip


def plan(place: Place, scale: dict[str, float], effort: Effort) -> dict[tuple[str, int], Callable[[], list[Row]]]:
    """Give the parts of the certificates and attacks; the first of each model is attacked, plain ones come first."""
    parts = {}
    for name in (*PLAIN, *LIPSCHITZ, BOUNDED):
        plain = name in PLAIN
        count = effort.plain if plain else effort.bounded if name == BOUNDED else effort.lipschitz
        for part in slices(count, effort.part):
            first = part.start == 0
            options = CertifyOptions(samples=effort.samples) if first and plain else CertifyOptions()
            search = effort.search if first else None
            parts[name, part.start] = partial(examine, place, name, MAIN * scale[name], part, options, search)
    return parts


def least(values: Iterable[float | None]) -> float:
    """Give the least of the numbers that there are; 0, with which every target is missed, where there is none."""
    return min((value for value in values if value is not None), default=0.0)


def make_targets(found: dict[str, Any]) -> list[Target]:
    """Compare with what was asked for."""
    barrett, tight = found["against_barrett"], found["tightness"]
    pairs = [one for name in barrett for one in barrett[name].values()]
    published = least(one["median_ratio_published"] for one in pairs)
    given = least(one["least_ratio_barrett"] for one in pairs)
    positive = least(found["positive_on_plain"][name]["share"] for name in PLAIN)
    theirs = max(found["barrett_on_plain"][name]["positive"] for name in PLAIN)
    constrained = least(tight[name]["any pixel"]["ratio"]["median"] for name in LIPSCHITZ)
    plain = least(tight[name]["any pixel"]["ratio"]["median"] for name in PLAIN)
    beaten = sum(one["contradictions"] for name in tight for one in tight[name].values())
    speeds = [one["images_per_second"] for one in found["closed_form_speed"].values()]
    portfolio = found["portfolio"]
    seconds = portfolio["seconds"]
    growth = portfolio["growth_mebibytes"]
    return [
        Target(name="median margin / Barrett's as published, least of budgets and r where theirs is not 0",
               wanted=">= 2", measured=published, met=published >= 2),
        Target(name="margin / Barrett's with our constants, least of images", wanted=">= 1", measured=given,
               met=given >= 1 and not any(one["below_barrett"] for one in pairs)),
        Target(name="share of certified images, worse plain VAE", wanted=">= 0.9", measured=positive,
               met=positive >= 0.9),
        Target(name="share that Barrett's bound certifies there", wanted="0", measured=theirs, met=theirs == 0),
        Target(name="median certified / attacked, worst Lipschitz VAE", wanted=">= 0.6", measured=constrained,
               met=constrained >= 0.6),
        Target(name="median certified / attacked, worse plain VAE", wanted=">= 0.25", measured=plain,
               met=plain >= 0.25),
        Target(name="attacks below a certificate", wanted="0", measured=beaten, met=beaten == 0),
        Target(name="closed forms, images per second on one core, worse spread", wanted=">= 5000",
               measured=min(speeds), met=min(speeds) >= 5000),
        Target(name=f"{portfolio['images']} images without Monte Carlo, seconds on two cores", wanted="< 300",
               measured=seconds, met=seconds < 300),
        Target(name=f"growth of memory after the first {2 * portfolio['step']} images of a process, MiB",
               wanted="< 30", measured=growth, met=growth < 30),
    ]  # fmt: skip


def measure(place: Place, effort: Effort) -> dict[str, Any]:
    """Train, then certify and attack in two processes, then take the times on an otherwise idle machine."""
    training = {name: place.train(name) for name in NAMES}
    scale = {name: facts["typical"] for name, facts in training.items()}
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        rows = {key: pool.submit(work) for key, work in plan(place, scale, effort).items()}
        closed = {
            n: pool.submit(against_barrett, place, n, scale[n], effort.closed, effort.besides)
            for n in (*LIPSCHITZ, BOUNDED)
        }
        added = {n: pool.submit(propagated, place, n, MAIN * scale[n], effort.propagated) for n in effort.boxed}
        theirs = {n: pool.submit(barrett_on_plain, place, n, MAIN * scale[n], effort.closed) for n in PLAIN}
        own = {n: [row for (m, _), part in rows.items() if m == n for row in part.result()] for n in NAMES}
        found = {
            "training": training,
            "against_barrett": results(closed),
            "barrett_on_plain": results(theirs),
            "propagation": results(added),
        }
    found["methods"] = {
        label: describe(frame(chosen)) for name in NAMES for label, chosen in by_draws(name, own[name], effort)
    }
    found["tightness"] = {name: hold_against(frame(own[name])) for name in NAMES}
    found["positive_on_plain"] = {name: positive_share(own[name]) for name in PLAIN}
    speed = {name: (place.load(name), MAIN * scale[name]) for name in (LIPSCHITZ[0], BOUNDED)}
    found["closed_form_speed"] = {
        name: closed_form_speed(vae, place.images[: effort.speed], r) for name, (vae, r) in speed.items()
    }
    found["portfolio"] = whole_portfolio(place, "lipschitz5", MAIN * scale["lipschitz5"], effort.portfolio, effort.step)
    return found


def by_draws(name: str, rows: list[Row], effort: Effort) -> Iterator[tuple[str, list[Row]]]:
    """Part a plain VAE's rows: those of attacked images come from more draws."""
    if name not in PLAIN:
        yield name, rows
        return
    yield f"{name}, {effort.samples} draws", [row for row in rows if row.sample_id < effort.part]
    if others := [row for row in rows if row.sample_id >= effort.part]:
        yield f"{name}, {CertifyOptions().samples} draws", others


def positive_share(rows: list[Row]) -> dict[str, float]:
    """Give the share of images that any method certifies."""
    margins = best_margins(frame(rows))["margin"]
    return share(int((margins > 0).sum()), len(margins))


def results(futures: dict[str, Future[Any]]) -> dict[str, Any]:
    """Wait for all."""
    return {name: future.result() for name, future in futures.items()}


def main() -> None:
    """Measure, print, compare."""
    parser = make_parser(__doc__ or "")
    parser.add_argument("--models", type=Path, help="folder of the trained models; a temporary one by default")
    parser.add_argument("--mnist", type=Path, default=SHARED_DATA / "mnist.npz", help="the archive with MNIST's arrays")
    options = parser.parse_args()
    if not options.mnist.is_file():
        print(f"certify: skipped, there is no {options.mnist}")
        return
    effort = QUICK if options.quick else Effort()
    torch.set_num_threads(1)
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as temporary:
        place = Place(options.mnist.resolve(), (options.models or Path(temporary)).resolve(), options.quick)
        found = measure(place, effort)
    print_barrett(found["against_barrett"])
    print_methods(found["methods"])
    print_methods({f"{name}, {on} boxes": one[on] for name, one in found["propagation"].items() for on in one})
    print_tightness(found["tightness"])
    print_speed(found["closed_form_speed"], found["portfolio"])
    print(f"{time.perf_counter() - start:.0f} s in all")
    finish("certify", options, make_targets(found), seconds=time.perf_counter() - start, **found)


if __name__ == "__main__":
    main()
