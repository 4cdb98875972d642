"""What a sweep's folder knows: its grid, the plan, and which units are done or failed."""

import json
import os
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from vaerdict.options import require
from vaerdict.results import environment, write_atomic
from vaerdict.sweeps.grid import Grid, as_json, differences
from vaerdict.sweeps.plan import Plan
from vaerdict.sweeps.worker import FAILED, RESULTS

_GRID, _PLAN, _BATCHES, _COMPARED = "grid.json", "plan.parquet", "batches.json", "compared.sha256"


@dataclass(frozen=True)
class Ledger:
    """The files of a sweep's folder besides its results.

    Args:
        folder: of the sweep.
    """

    folder: Path

    def check_grid(self, grid: Grid, new: bool) -> None:
        """Refuse a grid that is not the folder's, unless it is to be the `new` one.

        Raises:
            ValueError: the grids differ; the message says where.
        """
        path = self.folder / _GRID
        if path.is_file() and not new:
            found = differences(_read_json(path), as_json(grid))
            what = f"the grid of {self.folder}, or `--new` to take another"
            require(not found, what, f"differences in {'; '.join(found)}")

    def batches(self) -> dict[str, int]:
        """Give how many images are attacked at once, by model, as the folder's first plan has it."""
        path = self.folder / _BATCHES
        return _read_json(path) if path.is_file() else {}

    def write(self, grid: Grid, plan: Plan) -> None:
        """Keep what is asked, the units, and this machine's facts."""
        columns = {name: [getattr(job, name) for job in plan.jobs] for name in ("key", "samples", "group")}
        sink = pa.BufferOutputStream()
        pq.write_table(pa.table(columns), sink)
        write_atomic(self.folder / _PLAN, sink.getvalue().to_pybytes())
        write_atomic(self.folder / _BATCHES, json.dumps(plan.batches, indent=2).encode())
        write_atomic(self.folder / "environment.json", json.dumps(environment(), indent=2).encode())
        write_atomic(self.folder / _GRID, json.dumps(as_json(grid), indent=2).encode())

    def planned(self) -> pd.DataFrame:
        """Give the planned units: `key`, `samples`, `group`.

        Raises:
            ValueError: the folder is none of a sweep.
        """
        path = self.folder / _PLAN
        require(path.is_file(), f"the folder of a sweep, with {_PLAN}", self.folder)
        return pq.read_table(path).to_pandas()

    def done(self) -> set[str]:
        """Give the keys of finished units."""
        return _keys(self.folder / RESULTS)

    def failed(self) -> set[str]:
        """Give the keys of units that failed and were not done since."""
        return _keys(self.folder / FAILED) - self.done()

    def missing(self) -> set[str]:
        """Give the keys of planned units that are neither done nor failed."""
        return set(self.planned()["key"]) - self.done() - self.failed()

    def is_compared(self) -> bool:
        """Whether the parts that are there were held against each other already."""
        path = self.folder / _COMPARED
        return path.is_file() and path.read_text() == self._digest()

    def mark_compared(self) -> None:
        """Keep that no certificate among the parts that are there is larger than an attacked margin."""
        write_atomic(self.folder / _COMPARED, self._digest().encode())

    def forget_compared(self) -> None:
        """Ask for a new comparison: parts may be made again under their old names."""
        (self.folder / _COMPARED).unlink(missing_ok=True)

    def _digest(self) -> str:
        return sha256(" ".join(sorted(self.done())).encode()).hexdigest()

    def settle(self) -> None:
        """Forget failures of units that are done by now: a sweep was stopped between the two."""
        for key in _keys(self.folder / FAILED) & self.done():
            (self.folder / FAILED / f"{key}.parquet").unlink(missing_ok=True)


def _keys(folder: Path) -> set[str]:
    try:
        names = os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return set()
    return {name.removesuffix(".parquet") for name in names if name.endswith(".parquet") and name[0] != "."}


def _read_json(path: Path) -> dict[str, Any]:
    try:
        held: dict[str, Any] = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"cannot read {path}: {error}") from None
    return held


def table_status(jobs: pd.DataFrame, done: set[str], failed: set[str]) -> pd.DataFrame:
    """Count units by group: columns `group`, `units`, `done`, `failed`, `missing`.

    >>> table_status(pd.DataFrame({"key": ["a", "b"], "group": ["g", "g"]}), {"a"}, set()).loc[0].to_list()
    ['g', 2, 1, 0, 1]
    """
    is_done, is_failed = jobs["key"].isin(done), jobs["key"].isin(failed - done)
    counted = jobs.assign(units=1, done=is_done, failed=is_failed, missing=~(is_done | is_failed))
    numbers = ["units", "done", "failed", "missing"]
    return counted.groupby("group", sort=False)[numbers].sum().astype(int).reset_index()
