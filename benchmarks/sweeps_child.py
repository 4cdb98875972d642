"""One measurement of `sweeps.py` in a process of its own: none profits from another's imports, caches or memory.

Run as `python sweeps_child.py TASK ARGUMENTS...`; the last line that it prints holds the figures as JSON.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from statistics import median
from typing import Any

CORE = "1"
"""Threads of every numerical library, as of the grids' workers."""


def fresh(task: str, *arguments: object) -> list[dict[str, Any]]:
    """Run a task in a new process and give the JSON that it prints, line by line; the last holds the figures.

    Raises:
        RuntimeError: the process failed; the message holds the end of what it said.
    """
    command = [sys.executable, str(Path(__file__).resolve()), task, *map(str, arguments)]
    limits = {name: CORE for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **limits}, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command[1:])} failed:\n{done.stderr[-3000:]}")
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def run_sweep(grid: str, out: str, engine: str, workers: str, shard: str = "1/1") -> dict[str, Any]:
    """Do a grid's units, or a share of them; a line of JSON per unit comes from the sweep itself."""
    from vaerdict.options import SweepOptions
    from vaerdict.sweeps import read_grid, sweep

    count = None if engine == "serial" else int(workers)
    options = SweepOptions(out=out, engine=engine, workers=count, shard=shard, log_json=True)
    began = time.time()
    summary = sweep(read_grid(Path(grid)), options)
    return {"began": began, "ended": time.time(), "units": summary.units, "made": summary.made, "done": summary.done}


def time_parts_of_units(grid: str, out: str, units: str) -> dict[str, Any]:
    """Time what a unit consists of in this process: its rows, their export and their part, in milliseconds."""
    from vaerdict.results import write_part
    from vaerdict.sweeps import read_grid
    from vaerdict.sweeps.plan import make_plan, units_of
    from vaerdict.sweeps.subjects import Shelf, threads

    given, shelf, folder = read_grid(Path(grid)), Shelf("cpu"), Path(out)
    spans: dict[str, list[float]] = {"rows": [], "export": [], "part": []}
    with threads(given.threads):
        for unit in units_of(make_plan(given, shelf).lines[0], shelf, folder)[: int(units)]:
            moments = [time.perf_counter()]
            rows = unit.work()
            moments.append(time.perf_counter())
            unit.export(folder, rows)
            moments.append(time.perf_counter())
            write_part(folder / "results", rows, unit.key)
            moments.append(time.perf_counter())
            for number, name in enumerate(spans):
                spans[name].append(1000 * (moments[number + 1] - moments[number]))
    return {name: median(values) for name, values in spans.items()}


def time_load(folder: str) -> dict[str, Any]:
    """Load a folder of parts, then check the rows as the end of every sweep does."""
    from vaerdict.results import check_contradictions, load

    before, began = peak_bytes(), time.perf_counter()
    table = load(Path(folder))
    seconds, peak = time.perf_counter() - began, peak_bytes()
    held, began = int(table.memory_usage(deep=True).sum()), time.perf_counter()
    check_contradictions(table)
    return {
        "rows": len(table),
        "seconds": seconds,
        "peak_bytes": peak,
        "peak_bytes_before": before,
        "table_bytes": held,
        "check_seconds": time.perf_counter() - began,
        "check_peak_bytes": peak_bytes(),
    }


def time_report(run: str) -> dict[str, Any]:
    """Build the report of a run's folder."""
    from vaerdict.reports import build_report

    began = time.perf_counter()
    build_report(Path(run))
    return {"seconds": time.perf_counter() - began, "peak_bytes": peak_bytes()}


def peak_bytes() -> int:
    """Give the largest resident memory of this process so far; unlike `getrusage`, without its parent's."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


TASKS: dict[str, Callable[..., dict[str, Any]]] = {
    "sweep": run_sweep,
    "parts": time_parts_of_units,
    "load": time_load,
    "report": time_report,
}


def main() -> None:
    """Do one task and print its figures, with the seconds that the imports took."""
    began = time.perf_counter()
    import_module({"report": "vaerdict.reports", "load": "vaerdict.results"}.get(sys.argv[1], "vaerdict.sweeps"))
    seconds = time.perf_counter() - began
    found = TASKS[sys.argv[1]](*sys.argv[2:])
    print(json.dumps({**found, "import_seconds": seconds}))


if __name__ == "__main__":
    main()
