"""What two workers bring over one, and what giving out units costs: each engine in a fresh process on one grid."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pandas as pd
from sweeps_child import fresh

from vaerdict.results import load

WORKERS = 2


def write_grid(path: Path, **grid: Any) -> Path:
    """Write a grid as a file; JSON is YAML, too."""
    path.write_text(json.dumps(grid))
    return path


def run(grid: Path, out: Path, engine: str, workers: int = WORKERS) -> list[dict[str, Any]]:
    """Do a grid with an engine; give a line per unit, and one for all.

    Raises:
        RuntimeError: not all units were done.
    """
    *lines, found = fresh("sweep", grid, out, engine, workers)
    if not found["made"] == found["units"] == len(lines):
        raise RuntimeError(f"expected all units of {grid} done by {engine}, got {found}")
    return [*lines, found]


def figures(told: list[dict[str, Any]]) -> dict[str, Any]:
    """Give the figures of a run, in seconds.

    `seconds` is the whole call of `sweep`, `starting` what passes before work on the first unit begins (the plan, the
    workers, their imports), `ending` what passes after the last outcome (all rows are loaded and checked), `between`
    the time from the first to the last outcome, `work` the sum of the units' own seconds, and `work_between` what of
    them lies between the first and the last outcome.
    """
    *lines, found = told
    first, last = lines[0], lines[-1]
    return {
        "units": found["units"],
        "seconds": found["ended"] - found["began"],
        "starting": first["time"] - first["seconds"] - found["began"],
        "between": last["time"] - first["time"],
        "ending": found["ended"] - last["time"],
        "work": sum(line["seconds"] for line in lines),
        "work_between": sum(min(line["seconds"], line["time"] - first["time"]) for line in lines),
        "import": found["import_seconds"],
    }


def efficiency(folder: Path, model: Path, units: int, engines: tuple[str, ...], ceiling: bool) -> dict[str, Any]:
    """Time a grid of attacks that keep one core busy; tell how often faster than one process each engine is.

    `speedup` compares whole calls, `speedup_between` the time from the first to the last outcome; with `ceiling`, also
    that of two processes that know nothing of each other (`apart`).
    """
    grid = write_grid(
        folder / "busy.yaml", models=str(model), data={"limit": units // 2}, questions={"r-relative": 0.5}, chunk=1,
        attack={"margin": False, "radii": [0.25, 0.5]},
    )  # fmt: skip
    found: dict[str, Any] = {}
    for engine in ("serial", *engines):
        found[engine] = figures(run(grid, folder / f"busy-{engine}", engine))
    serial, rows = found["serial"], _rows(folder / "busy-serial")
    for engine in engines:
        found[engine] |= {
            "speedup": serial["seconds"] / found[engine]["seconds"],
            "speedup_between": serial["between"] / found[engine]["between"],
            "same_rows": _rows(folder / f"busy-{engine}").equals(rows),
        }
    if ceiling:
        rate = _apart(grid, folder / "busy-apart")
        found["apart"] = {"speedup_between": rate * serial["between"] / (serial["units"] - 1)}
    return found


def _apart(grid: Path, out: Path) -> float:
    """Give the units per second of two serial sweeps of half a grid each, side by side: more the machine cannot do."""
    shards = [("sweep", grid, f"{out}-{part}", "serial", 1, f"{part}/2") for part in (1, 2)]
    with ThreadPoolExecutor(2) as pool:
        told = list(pool.map(lambda arguments: fresh(*arguments), shards))
    return sum((len(lines) - 2) / (lines[-2]["time"] - lines[0]["time"]) for lines in told)


def _rows(folder: Path) -> pd.DataFrame:
    """Give all rows in the order of their units, without what may differ: the time they took."""
    return load(folder / "results").drop(columns="time_s")


def overhead(folder: Path, model: Path, units: int, engines: tuple[str, ...]) -> dict[str, Any]:
    """Time many of the cheapest certificates; give the milliseconds of a worker per unit beyond the unit's own.

    `milliseconds` counts the whole call, `steady_milliseconds` what lies between the first and the last outcome. Beside
    `serial`, what a unit itself consists of is timed, too.
    """
    grid = write_grid(
        folder / "tiny.yaml", models=str(model), data={"limit": min(units, 250)}, chunk=1,
        questions={"r": [1.0 + turn for turn in range(-(-units // 250))]},
        certify={"methods": "isotropic", "local": False},
    )  # fmt: skip
    found = {}
    for engine in engines:
        facts, workers = figures(run(grid, folder / f"tiny-{engine}", engine)), 1 if engine == "serial" else WORKERS
        whole = facts["seconds"] * workers - facts["work"]
        steady = facts["between"] * workers - facts["work_between"]
        per_unit = {"milliseconds": whole, "steady_milliseconds": steady}
        found[engine] = facts | {name: 1000 * seconds / facts["units"] for name, seconds in per_unit.items()}
    if "serial" in engines:
        found["milliseconds_of_a_unit"] = fresh("parts", grid, folder / "tiny-parts", 100)[-1]
    return found
