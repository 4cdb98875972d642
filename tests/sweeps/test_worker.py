"""A worker writes what it did or why it failed; where nothing can be written it stops with a sentence."""

import errno
import json
import os
import signal
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.sweeps.conftest import SAMPLES
from vaerdict.results import SCHEMA, Row, files, load
from vaerdict.sweeps import Grid
from vaerdict.sweeps import worker as workers
from vaerdict.sweeps.interrupt import remembered
from vaerdict.sweeps.ledger import Ledger
from vaerdict.sweeps.plan import make_plan
from vaerdict.sweeps.subjects import Shelf
from vaerdict.sweeps.worker import FAILED, RESULTS, CannotGoOn, CannotLoad, Worker


@pytest.fixture
def plan(attacks: Grid) -> Any:
    return make_plan(attacks, Shelf("cpu"))


def of(plan: Any, folder: Path) -> Worker:
    return Worker(folder, plan.lines, Shelf("cpu"))


def full(code: int, calls: list[int], after: int = 0) -> Any:
    """Let so many files be written, then fail as a disk does."""

    def sync(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) > after:
            raise OSError(code, os.strerror(code))

    return sync


def test_a_unit_is_done_and_told(plan: Any, tmp_path: Path) -> None:
    job = plan.jobs[0]
    outcome = of(plan, tmp_path).run(job)
    assert (outcome.job, outcome.status, outcome.reason) == (job, "done", "")
    assert outcome.seconds > 0
    assert [path.name for path in (tmp_path / RESULTS).iterdir()] == [f"{job.key}.parquet"]
    table = load(tmp_path / RESULTS)
    assert list(table["sample_id"]) == list(SAMPLES[:2])
    assert set(table["unit_key"]) == {job.key}
    assert (tmp_path / table["witness"][0]).is_file()


@pytest.mark.usefixtures("broken")
def test_a_failure_is_rows_with_reason_and_traceback(plan: Any, tmp_path: Path) -> None:
    worker, job = of(plan, tmp_path), plan.jobs[1]
    outcome = worker.run(job)
    reason = "RuntimeError: the third image is too much"
    assert (outcome.status, outcome.reason) == ("failed", reason)
    assert worker.run(plan.jobs[0]).status == worker.run(plan.jobs[2]).status == "done"
    table = load(tmp_path / FAILED)
    assert list(table.columns) == SCHEMA.names
    assert list(table["sample_id"]) == list(SAMPLES[2:4])
    assert set(table["status"]) == {"error"}
    assert set(table["reason"]) == {reason}
    assert set(table["unit_key"]) == {job.key}
    assert table["margin"].isna().all()
    traces = [json.loads(constants)["traceback"] for constants in table["constants"]]
    assert all(trace.startswith("Traceback (most recent call last)") for trace in traces)
    assert all("the third image\n  is too much" in trace for trace in traces)
    assert sorted(load(tmp_path / RESULTS)["sample_id"]) == sorted(SAMPLES)  # what failed is among the results


def test_a_later_success_counts_and_the_failure_is_forgotten(
    plan: Any, tmp_path: Path, broken: pytest.MonkeyPatch
) -> None:
    worker, job = of(plan, tmp_path), plan.jobs[1]
    worker.run(job)
    assert Ledger(tmp_path).failed() == {job.key}
    broken.undo()
    assert worker.run(job).status == "done"
    assert Ledger(tmp_path).failed() == set()
    Ledger(tmp_path).settle()
    assert list((tmp_path / FAILED).iterdir()) == []
    assert set(load(tmp_path / RESULTS)["status"]) == {"ok"}


@pytest.mark.usefixtures("broken")
def test_a_failure_says_what_was_asked(attacks: Grid, tmp_path: Path) -> None:
    asked = replace(attacks.attack[0], norm="inf")
    plan = make_plan(replace(attacks, attack=(asked,)), Shelf("cpu"))
    of(plan, tmp_path).run(plan.jobs[1])
    table = load(tmp_path / FAILED)
    for name, value in {"norm": "inf", "reconstruction": "mean", "rho": 0.5, "fixed_radius": True, "p": 0.5}.items():
        assert set(table[name]) == {value}, name


def test_ctrl_c_that_comes_back_as_another_error_is_no_failure(
    plan: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As from a library that calls Python from C."""

    def converted(*images: Any, **ask: Any) -> list[Row]:
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            raise SystemError("returned a result with an exception set") from None
        return []

    monkeypatch.setattr("vaerdict.sweeps.units.attack", converted)
    with pytest.raises(KeyboardInterrupt), remembered():
        of(plan, tmp_path).run(plan.jobs[0])
    assert not (tmp_path / FAILED).exists()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_ctrl_c_that_is_swallowed_stops_in_the_end() -> None:
    with pytest.raises(KeyboardInterrupt), remembered(), suppress(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit])
def test_who_stops_a_worker_is_no_failure(
    stop: type[BaseException], plan: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*images: Any, **ask: Any) -> list[Row]:
        raise stop

    monkeypatch.setattr("vaerdict.sweeps.units.attack", stopped)
    with pytest.raises(stop):
        of(plan, tmp_path).run(plan.jobs[0])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EIO])
def test_a_full_disk_stops_the_worker_with_a_sentence(
    code: int, plan: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is being written: the witnesses inside the work, the part, or the failure."""
    worker = of(plan, tmp_path)
    worker.run(plan.jobs[0])
    monkeypatch.setattr(files.os, "fsync", full(code, []))
    expected = f"expected to write below {tmp_path}, got: {os.strerror(code)}; finished parts are kept, the same"
    with pytest.raises(CannotGoOn, match=expected):
        worker.run(plan.jobs[1])
    monkeypatch.undo()
    assert len(load(tmp_path / RESULTS)) == 2
    assert not list(tmp_path.rglob(".*"))
    assert worker.run(plan.jobs[1]).status == "done"


@pytest.mark.parametrize("after", range(3))
def test_a_disk_that_is_full_at_any_file_leaves_no_half_part(
    after: int, plan: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two witnesses, then the part."""
    calls: list[int] = []
    monkeypatch.setattr(files.os, "fsync", full(errno.ENOSPC, calls, after))
    with pytest.raises(CannotGoOn, match="No space left on device"):
        of(plan, tmp_path).run(plan.jobs[0])
    assert len(calls) == after + 1
    assert not list(tmp_path.rglob("*.parquet"))
    assert not list(tmp_path.rglob(".*"))


def test_a_folder_that_is_a_file_is_told_too(plan: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CannotGoOn, match="file, got: Not a directory; finished parts are kept"):
        of(plan, tmp_path / "file").run(plan.jobs[0])


def test_a_model_that_cannot_be_read_any_more_is_no_matter_of_the_disk(
    plan: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error of reading is the unit's own."""

    def unreadable(*images: Any, **ask: Any) -> list[Row]:
        raise PermissionError(errno.EACCES, "Permission denied", "weights")

    monkeypatch.setattr("vaerdict.sweeps.units.attack", unreadable)
    outcome = of(plan, tmp_path).run(plan.jobs[0])
    assert outcome.reason == "PermissionError: [Errno 13] Permission denied: 'weights'"


def test_the_units_of_a_line_are_made_once(plan: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []
    real = workers.units_of
    monkeypatch.setattr(workers, "units_of", lambda *facts: made.append(facts) or real(*facts))
    worker = of(plan, tmp_path)
    for job in plan.jobs:
        worker.run(job)
    assert len(made) == 1


def test_models_that_changed_since_the_plan_stop_it(plan: Any, tmp_path: Path) -> None:
    """Whose failure it would be cannot be said: the planned unit is no more."""
    other = replace(plan.jobs[0], key="0" * 64)
    with pytest.raises(
        CannotLoad, match=r"models and images that were planned, got others: they changed since .unit 000000"
    ):
        of(plan, tmp_path).run(other)
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_does_not_load_leaves_the_one_before_usable(
    grid: Grid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = make_plan(grid, Shelf("cpu"))
    worker = of(both, tmp_path)
    assert worker.run(both.jobs[0]).status == "done"

    def missing(source: Any) -> None:
        raise FileNotFoundError("it is gone")

    with monkeypatch.context() as patch:
        patch.setattr("vaerdict.sweeps.subjects.load_model", missing)
        with pytest.raises(CannotLoad, match=r"expected the model and images of .*, got FileNotFoundError: it is gone"):
            worker.run(both.jobs[-1])
    assert worker.run(both.jobs[1]).status == "done"
