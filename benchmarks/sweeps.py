"""What a sweep costs besides its units: engines, giving out, going on, loading, reporting; all in fresh processes.

All files lie in memory where the machine allows it, so that no disk is timed. Two small VAEs on the embedded digits are
trained first. A GPU's part is left out where there is none.
"""

import argparse
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from common import Target, finish, make_parser
from sweeps_engines import efficiency, overhead
from sweeps_files import grow, make_parts, resume, template
from sweeps_gpu import on_gpu

from vaerdict.data import load_images
from vaerdict.models import train
from vaerdict.options import ModelOptions, TrainingOptions

MEMORY = Path("/dev/shm")
NEEDED = 2**31
SPEEDUP, RESUME_S, PER_ROW = 1.8, 10.0, 1.3
OVERHEAD_MS = {"local": 20.0, "ray": 50.0}
SIZES: dict[str, dict[str, Any]] = {
    "full": {
        "busy": 480,
        "tiny": 1000,
        "resume": (10_000, 100_000),
        "load": (100, 1000, 10_000),
        "report": (100, 300, 1000),
        "engines": ("local", "ray"),
    },
    "quick": {
        "busy": 12,
        "tiny": 60,
        "resume": (10_000,),
        "load": (10, 100),
        "report": (40,),
        "engines": ("local",),
    },
}


def make_models(folder: Path) -> dict[str, Path]:
    """Train a constrained and a plain VAE for some seconds."""
    for family in ("lipschitz", "plain"):
        train(
            folder / family, load_images("digits", split="train"), load_images("digits"), name=family,
            model=ModelOptions(family=family, latent=8, hidden=(128, 128), a=2.0, b=1.0, std=0.1),
            training=TrainingOptions(epochs=6, batch_size=64, learning_rate=3e-3),
        )  # fmt: skip
    return {family: folder / family for family in ("lipschitz", "plain")}


def measure(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Take all figures."""
    sizes = SIZES["quick" if options.quick else "full"]
    engines, whole = sizes["engines"], not options.quick
    models = make_models(folder / "models")
    rows = template(folder, list(models.values()))
    parts = make_parts(folder / "parts", rows, max(*sizes["load"], *sizes["report"]))
    found: dict[str, Any] = {
        "part_bytes": sum(path.stat().st_size for path in parts) / len(parts),
        "load": grow(folder, "load", parts, sizes["load"]),
        "report": grow(folder, "report", parts, sizes["report"]),
        "resume": [resume(folder, models["lipschitz"], units) for units in sizes["resume"]],
        "efficiency": efficiency(folder, models["plain"], sizes["busy"], engines, ceiling=whole),
        "overhead": overhead(folder, models["lipschitz"], sizes["tiny"], ("serial",) * whole + engines),
        "gpu": {"skipped": "no GPU"},
    }
    if torch.cuda.is_available():
        found["gpu"] = on_gpu(folder, models["lipschitz"], 50 if options.quick else 250)
    return found


def targets_of(found: dict[str, Any], whole: bool) -> list[Target]:
    """Hold the figures against what was asked for; on a small grid only what the start of engines does not touch."""
    targets = []
    for engine, wanted in OVERHEAD_MS.items():
        if engine in found["efficiency"]:
            facts, cost = found["efficiency"][engine], found["overhead"][engine]
            once, going = f"{engine} with 2 workers / serial", f"{engine}, ms of a worker per unit besides the unit"
            if whole:
                targets.append(_at_least(once, facts["speedup"], SPEEDUP))
                targets.append(_below(f"{going}, start included", cost["milliseconds"], wanted))
            targets.append(_at_least(f"{once}, first to last outcome", facts["speedup_between"], SPEEDUP))
            targets.append(_below(going, cost["steady_milliseconds"], wanted))
            targets.append(_at_least(f"same rows of {engine} and serial", float(facts["same_rows"]), 1.0))
    last = found["resume"][-1]
    targets.append(_below(f"s to skip {last['units']} units", last["seconds"], RESUME_S))
    for task in ("load", "report"):
        if len(found[task]) > 1:
            last = found[task][-1]
            growth = f"{task} of {last['rows']} rows: time per row / that of {found[task][-2]['rows']}"
            targets.append(_below(growth, last["per_row_to_before"], PER_ROW))
    if "skipped" not in found["gpu"]:
        targets.append(_below("margins, GPU against CPU", found["gpu"]["difference_of_margins"], 1e-4))
        targets.append(_below("damages, GPU against CPU", found["gpu"]["difference_of_damages"], 1e-2))
    return targets


def _at_least(name: str, measured: float, wanted: float) -> Target:
    return Target(name=name, wanted=f">= {wanted:g}", measured=measured, met=measured >= wanted)


def _below(name: str, measured: float, wanted: float) -> Target:
    return Target(name=name, wanted=f"<= {wanted:g}", measured=measured, met=measured <= wanted)


def show(found: dict[str, Any]) -> None:
    """Print the figures."""
    for name in ("efficiency", "overhead"):
        for engine, facts in found[name].items():
            print(f"{name}, {engine}: " + ", ".join(f"{key} {_short(value)}" for key, value in facts.items()))
    for name in ("resume", "load", "report"):
        for facts in found[name]:
            print(f"{name}: " + ", ".join(f"{key} {_short(value)}" for key, value in facts.items()))
    print(f"GPU: {found['gpu']}")


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def main() -> None:
    """Measure, compare."""
    options = make_parser(__doc__ or "").parse_args()
    torch.set_num_threads(1)
    roomy = MEMORY.is_dir() and os.statvfs(MEMORY).f_bavail * os.statvfs(MEMORY).f_frsize > NEEDED
    began = time.perf_counter()
    with tempfile.TemporaryDirectory(dir=MEMORY if roomy else None) as folder:
        found = measure(Path(folder), options)
    show(found)
    finish(
        "sweeps",
        options,
        targets_of(found, not options.quick),
        files_in_memory=roomy,
        seconds=time.perf_counter() - began,
        **found,
    )


if __name__ == "__main__":
    main()
