"""What a sweep's folder knows: its grid, the plan, and which units are done or failed."""

import json
import os
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any
from uuid import uuid4

import pandas as pd
import pyarrow as pa
from pyarrow import feather

from vaerdict.options import require
from vaerdict.results import environment, write_atomic
from vaerdict.sweeps.grid import Grid, as_json, differences
from vaerdict.sweeps.plan import Measured, Plan
from vaerdict.sweeps.worker import FAILED, RESULTS

_GRID, _PLAN, _MEASURED, _COMPARED = "grid.json", "plan.arrow", "measured.json", "compared.sha256"


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

    def measured(self) -> Measured:
        """Give what the folder's plans measured."""
        path = self.folder / _MEASURED
        return Measured(**_read_json(path)) if path.is_file() else Measured()

    def keep(self, measured: Measured) -> Measured:
        """Keep what a plan measured, and give what the folder holds then: of several shards at once, the first's."""
        path, draft = self.folder / _MEASURED, self.folder / f".{_MEASURED}.{uuid4().hex}"
        write_atomic(draft, json.dumps(asdict(measured), indent=2).encode())
        try:
            path.hardlink_to(draft)
        except OSError:  # it is there, or the file system has no links
            held = measured | self.measured()
            if held != self.measured():
                write_atomic(path, json.dumps(asdict(held), indent=2).encode())
        finally:
            draft.unlink()
        return self.measured()

    def write(self, grid: Grid, plan: Plan) -> None:
        """Keep what is asked, the units, and this machine's facts."""
        columns = {name: [getattr(job, name) for job in plan.jobs] for name in ("key", "samples", "group")}
        sink = pa.BufferOutputStream()
        feather.write_feather(pa.table(columns), sink)
        write_atomic(self.folder / _PLAN, sink.getvalue().to_pybytes())
        write_atomic(self.folder / "environment.json", json.dumps(environment(), indent=2).encode())
        write_atomic(self.folder / _GRID, json.dumps(as_json(grid), indent=2).encode())

    def planned(self) -> pd.DataFrame:
        """Give the planned units: `key`, `samples`, `group`.

        Raises:
            ValueError: the folder is none of a sweep.
        """
        path = self.folder / _PLAN
        require(path.is_file(), f"the folder of a sweep, with {_PLAN}", self.folder)
        return feather.read_feather(path)

    def done(self) -> set[str]:
        """Give the keys of finished units."""
        return _keys(self.folder / RESULTS)

    def failed(self) -> set[str]:
        """Give the keys of units that failed and were not done since."""
        return _keys(self.folder / FAILED) - self.done()

    def missing(self) -> set[str]:
        """Give the keys of planned units that are neither done nor failed."""
        return set(self.planned()["key"]) - self.done() - self.failed()

    def digest(self) -> str:
        """Give a name for the parts that are there."""
        return sha256(" ".join(sorted(self.done())).encode()).hexdigest()

    def is_compared(self, digest: str) -> bool:
        """Whether these parts were held against each other already."""
        path = self.folder / _COMPARED
        return path.is_file() and path.read_text() == digest

    def mark_compared(self, digest: str) -> None:
        """Keep that no certificate among these parts is larger than an attacked margin."""
        write_atomic(self.folder / _COMPARED, digest.encode())

    def forget_compared(self) -> None:
        """Ask for a new comparison: parts may be made again under their old names."""
        (self.folder / _COMPARED).unlink(missing_ok=True)

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

    >>> print(*table_status(pd.DataFrame({"key": ["a", "b"], "group": ["g", "g"]}), {"a"}, set()).loc[0])
    g 2 1 0 1
    """
    is_done, is_failed = jobs["key"].isin(done), jobs["key"].isin(failed - done)
    counted = jobs.assign(units=1, done=is_done, failed=is_failed, missing=~(is_done | is_failed))
    numbers = ["units", "done", "failed", "missing"]
    return counted.groupby("group", sort=False)[numbers].sum().astype(int).reset_index()
