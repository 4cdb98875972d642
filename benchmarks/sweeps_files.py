"""Many workers' files without the workers: the time to see that all is done, to load all rows and to report them.

Ten parts of 100 rows from each of 1,000 workers lie in one folder under the names of their units, as sweeps leave them.
The rows are those of a small sweep on two models, with other samples, margins and times; they take no witnesses along.
"""

import hashlib
import math
import os
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from sweeps_child import fresh
from sweeps_engines import write_grid

from vaerdict.options import SweepOptions
from vaerdict.results import SCHEMA, load
from vaerdict.sweeps import read_grid, sweep
from vaerdict.sweeps.ledger import Ledger
from vaerdict.sweeps.plan import make_plan
from vaerdict.sweeps.subjects import Shelf

ROWS_PER_PART = 100
_PARTS_AT_ONCE = 1000
_LINKS = 10_000
"""Names per file: some file systems take 65,000 at most."""


def resume(folder: Path, model: Path, units: int) -> dict[str, Any]:
    """Time the second call of a sweep all of whose units are done."""
    grid = write_grid(
        folder / f"done-{units}.yaml", models=str(model), data={"limit": 250}, chunk=1,
        questions={"r": [0.5, 1.0, 1.5, 2.0]}, seeds=list(range(math.ceil(units / 10_000))),
        certify={}, attack={"margin": False, "radii": [0.1 * i for i in range(1, 10)]},
    )  # fmt: skip
    out, began = folder / f"done-{units}", time.perf_counter()
    plan = make_plan(read_grid(grid), Shelf("cpu"))
    seconds = time.perf_counter() - began
    _pretend_done(out / "results", [job.key for job in plan.jobs])
    ledger = Ledger(out)  # as the sweep that did them leaves its folder
    ledger.write(read_grid(grid), plan)
    ledger.mark_compared(ledger.digest())
    again = fresh("sweep", grid, out, "serial", 1)[-1]
    if again["made"] or again["done"] != len(plan.jobs):
        raise RuntimeError(f"expected {len(plan.jobs)} units to be skipped, got {again}")
    return {
        "units": again["units"],
        "lines": len(plan.lines),
        "seconds": again["ended"] - again["began"],
        "plan_seconds": seconds,
        "import_seconds": again["import_seconds"],
    }


def _pretend_done(results: Path, keys: list[str]) -> None:
    """Put a part for each unit: an empty one under many names, since nobody reads it."""
    results.mkdir(parents=True)
    for start in range(0, len(keys), _LINKS):
        source, *names = (results / f"{key}.parquet" for key in keys[start : start + _LINKS])
        pq.write_table(SCHEMA.empty_table(), source)
        for name in names:
            os.link(source, name)


def template(folder: Path, models: list[Path]) -> pd.DataFrame:
    """Give the rows of a small sweep: all certificates and two attacks on each of two images, at two distances."""
    grid = write_grid(
        folder / "template.yaml", models=list(map(str, models)), data={"limit": 2},
        questions={"r-relative": [0.5, 1.0]},
        certify={"local": False}, attack={"radii": [0.5], "gradients": 20, "samples": 2000},
    )  # fmt: skip
    sweep(read_grid(grid), SweepOptions(out=str(folder / "template"), log_json=True))
    return load(folder / "template" / "results").assign(witness=None)


def make_parts(folder: Path, rows: pd.DataFrame, parts: int) -> list[Path]:
    """Write parts of 100 rows, each about other samples than all others, and give them."""
    folder.mkdir(parents=True)
    paths = []
    for start in range(0, parts, _PARTS_AT_ONCE):
        count = min(_PARTS_AT_ONCE, parts - start)
        keys = [_name(f"unit {start + number}") for number in range(count)]
        table = pa.Table.from_pandas(_invented(rows, keys, start), schema=SCHEMA, preserve_index=False)
        for number, key in enumerate(keys):
            part = table.slice(number * ROWS_PER_PART, ROWS_PER_PART)
            pq.write_table(part, folder / f"{key}.parquet", write_page_checksum=True)
            paths.append(folder / f"{key}.parquet")
    return paths


def _name(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _invented(rows: pd.DataFrame, keys: list[str], start: int) -> pd.DataFrame:
    """Repeat rows under new samples; all margins of a sample change by one factor, so that attacks beat no proof."""
    wanted = len(keys) * ROWS_PER_PART
    repeats = -(-wanted // len(rows))
    table = pd.concat([rows] * repeats, ignore_index=True).iloc[:wanted].copy()
    turn, random = np.arange(wanted) // len(rows) + start * repeats, np.random.default_rng(start)
    samples = pd.factorize(rows["sample_id"])[0][np.arange(wanted) % len(rows)]
    new = turn * (samples.max() + 1) + samples
    factor = 1 + (new * 0.6180339887498949) % 1
    return table.assign(
        sample_id=new,
        sample_sha256=[_name(f"sample {number}") for number in new],
        margin=table["margin"] * factor,
        rho=table["rho"].where(table["fixed_radius"], table["rho"] * factor),
        time_s=table["time_s"] * random.uniform(0.5, 2.0, wanted),
        constants=[
            f'{held[:-1]}{"," * (held != "{}")}"of":{number}}}'
            for held, number in zip(table["constants"], new, strict=True)
        ],
        unit_key=np.repeat(keys, ROWS_PER_PART),
    )


def grow(folder: Path, task: str, parts: list[Path], sizes: tuple[int, ...]) -> list[dict[str, Any]]:
    """Time a task on more and more parts, with the growth of its time from each size to the next."""
    found: list[dict[str, Any]] = []
    for size in sizes:
        run = folder / f"{task}-{size}"
        _link(run / "results", parts[:size])
        facts = {
            "parts": size,
            "rows": size * ROWS_PER_PART,
            **fresh(task, run / "results" if task == "load" else run)[-1],
        }
        facts["microseconds_per_row"] = 1e6 * facts["seconds"] / facts["rows"]
        if found:
            before = found[-1]
            facts["exponent"] = math.log(facts["seconds"] / before["seconds"]) / math.log(size / before["parts"])
            facts["per_row_to_before"] = facts["microseconds_per_row"] / before["microseconds_per_row"]
        found.append(facts)
        shutil.rmtree(run)
    return found


def _link(results: Path, parts: list[Path]) -> None:
    results.mkdir(parents=True)
    for path in parts:
        os.link(path, results / path.name)
