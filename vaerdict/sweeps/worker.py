"""Whoever does units of work: makes their rows and writes them; a failure is rows, too."""

import errno
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from threadpoolctl import threadpool_limits

from vaerdict.options import require
from vaerdict.results import Row, canonical_json, code_version, write_part
from vaerdict.sweeps.interrupt import stop_if_interrupted
from vaerdict.sweeps.plan import Job, Line, units_of
from vaerdict.sweeps.subjects import Shelf
from vaerdict.sweeps.units import Unit

RESULTS, FAILED = "results", "results/failed"
"""Below a sweep's folder: parts of units that are done, and of those that failed."""
_NO_PLACE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS})
"""Errors that only writing has. Others may come from a model or its data: they are told in rows, if that succeeds."""


class CannotGoOn(OSError):
    """No unit can be finished, so all stop: the sweep's folder takes no more files."""


class CannotLoad(CannotGoOn):
    """A model or images that could be loaded when the sweep was planned cannot be loaded any more."""


@dataclass(frozen=True)
class Outcome:
    """What became of a unit; its rows are in its part."""

    job: Job
    status: Literal["done", "failed"]
    seconds: float
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a worker works: all that it is sent, as it loads the rest itself.

    Attributes:
        folder: of the sweep.
        lines: of the plan.
        device: of its models.
        thread_count: on the CPU.
    """

    folder: Path
    lines: tuple[Line, ...]
    device: str
    thread_count: int

    def open(self) -> "Worker":
        """Begin to work here, in this process."""
        torch.set_num_threads(self.thread_count)
        threadpool_limits(self.thread_count)
        return Worker(self.folder, self.lines, Shelf(self.device))


class Worker:
    """Does units of a plan's lines, and keeps the model of the last one at hand.

    Args:
        folder: of the sweep.
        lines: of the plan.
        shelf: loads models and images.
    """

    def __init__(self, folder: Path, lines: Sequence[Line], shelf: Shelf) -> None:
        self._folder, self._lines, self._shelf = folder, lines, shelf
        self._line: int | None = None
        code_version()  # of the code as it is loaded now, whatever is committed meanwhile
        self._units: dict[str, Unit] = {}

    def run(self, job: Job) -> Outcome:
        """Do a unit and write its part.

        Raises:
            CannotGoOn: the disk is full, or the folder cannot be written.
            CannotLoad: so that not even the rows of a failure can be made.
        """
        began = time.perf_counter()
        try:
            unit = self._unit(job)
            rows = unit.work()
            unit.export(self._folder, rows)
            write_part(self._folder / RESULTS, rows, job.key)
        except Exception as error:  # whatever a model or a method raises is told in rows; others go on
            stop_if_interrupted()  # it may be what is left of Ctrl-C, and no failure
            _stop_without_place(self._folder, error)
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            return self.fail(job, reason, time.perf_counter() - began, traceback.format_exc())
        return Outcome(job, "done", time.perf_counter() - began)

    def fail(self, job: Job, reason: str, seconds: float, trace: str = "") -> Outcome:
        """Write the rows of a unit that failed.

        Raises:
            CannotGoOn: the disk is full, or the folder cannot be written.
            CannotLoad: so that not even the rows of a failure can be made.
        """
        try:
            unit = self._unit(job)
        except Exception as error:
            why = " ".join(f"{type(error).__name__}: {error}".split())
            raise CannotLoad(f"expected the model and images of {job.group}, got {why}") from error
        rows = [replace(row, constants=canonical_json({"traceback": trace})) for row in unit.blame(reason)]
        self._write_failure(rows, job)
        return Outcome(job, "failed", seconds, reason)

    def _write_failure(self, rows: list[Row], job: Job) -> None:
        try:
            write_part(self._folder / FAILED, rows, job.key)
        except OSError as error:
            raise cannot_write(self._folder, error) from error

    def _unit(self, job: Job) -> Unit:
        if job.line != self._line:
            self._units, self._line = {}, None  # before the next model comes, which may fail
            self._units = {unit.key: unit for unit in units_of(self._lines[job.line], self._shelf, self._folder)}
            self._line = job.line
        what = "the models and images that were planned"
        require(job.key in self._units, what, f"others: they changed since (unit {job.key[:8]})")
        return self._units[job.key]


def _stop_without_place(folder: Path, error: Exception) -> None:
    if isinstance(error, OSError) and error.errno in _NO_PLACE:
        raise cannot_write(folder, error) from error


def cannot_write(folder: Path, error: OSError) -> CannotGoOn:
    """Say that a folder takes no more files, and why."""
    why = f"expected to write below {folder}, got: {error.strerror}"
    return CannotGoOn(f"{why}; finished parts are kept, the same command goes on from there")
