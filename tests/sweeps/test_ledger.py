"""A sweep's folder knows its grid, its plan, and what became of each unit."""

import json
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from vaerdict.results import write_part
from vaerdict.sweeps import Grid
from vaerdict.sweeps.ledger import Ledger, table_status
from vaerdict.sweeps.plan import Measured, Plan, make_plan
from vaerdict.sweeps.subjects import Shelf
from vaerdict.sweeps.worker import FAILED, RESULTS


@pytest.fixture
def plan(attacks: Grid) -> Plan:
    return make_plan(attacks, Shelf("cpu"), Measured({"other": 4}))


@pytest.fixture
def ledger(attacks: Grid, plan: Plan, tmp_path: Path) -> Ledger:
    held = Ledger(tmp_path / "sweep")
    held.write(attacks, plan)
    return held


def test_what_is_written_is_read(ledger: Ledger, plan: Plan) -> None:
    assert {path.name for path in ledger.folder.iterdir()} == {
        "grid.json", "plan.arrow", "environment.json"
    }  # fmt: skip
    planned = ledger.planned()
    assert list(planned.columns) == ["key", "samples", "group"]
    assert list(planned["key"]) == [job.key for job in plan.jobs]
    assert "packages" in json.loads((ledger.folder / "environment.json").read_text())


def test_of_what_is_measured_at_once_the_first_counts(tmp_path: Path) -> None:
    ledger, first, second = Ledger(tmp_path), Measured({"m": 8}, {"d": 1.5}), Measured({"m": 4, "n": 2}, {"d": 1.6})
    assert ledger.keep(first) == first
    assert ledger.keep(second) == Measured({"m": 8, "n": 2}, {"d": 1.5})
    assert ledger.measured() == Measured({"m": 8, "n": 2}, {"d": 1.5})
    assert [path.name for path in tmp_path.iterdir()] == ["measured.json"]


def test_a_folder_that_is_not_there_is_empty(tmp_path: Path) -> None:
    nothing = Ledger(tmp_path / "none")
    assert (nothing.done(), nothing.failed(), nothing.measured()) == (set(), set(), Measured())
    nothing.settle()
    assert not (tmp_path / "none").exists()


def test_the_same_grid_goes_on(ledger: Ledger, attacks: Grid) -> None:
    ledger.check_grid(attacks, new=False)
    Ledger(ledger.folder / "none").check_grid(replace(attacks, seeds=(9,)), new=False)


def test_another_grid_is_refused_with_its_differences(ledger: Ledger, attacks: Grid) -> None:
    other = replace(attacks, seeds=(0, 1), chunk=4)
    with pytest.raises(ValueError, match=r"^expected the grid of .*$") as error:
        ledger.check_grid(other, new=False)
    assert str(error.value) == (
        f"expected the grid of {ledger.folder}, or `--new` to take another, "
        "got differences in chunk: 2 -> 4; seeds.1: nothing -> 1"
    )
    ledger.check_grid(other, new=True)


def test_a_damaged_grid_is_named(ledger: Ledger, attacks: Grid) -> None:
    (ledger.folder / "grid.json").write_text('{"models": [')
    with pytest.raises(ValueError, match=r"cannot read .*grid\.json: Expecting value"):
        ledger.check_grid(attacks, new=False)


def test_what_is_done_has_not_failed(ledger: Ledger) -> None:
    for folder, keys in {RESULTS: "ab", FAILED: "bc"}.items():
        for key in keys:
            write_part(ledger.folder / folder, [], key)
    (ledger.folder / RESULTS / ".d.parquet.0123abcd.draft").write_text("")
    (ledger.folder / RESULTS / ".e.parquet").write_text("")
    (ledger.folder / RESULTS / "notes.txt").write_text("")
    assert ledger.done() == {"a", "b"}
    assert ledger.failed() == {"c"}
    ledger.settle()
    assert [path.name for path in (ledger.folder / FAILED).iterdir()] == ["c.parquet"]
    assert ledger.done() == {"a", "b"}
    assert ledger.failed() == {"c"}


def test_the_folder_of_no_sweep_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"expected the folder of a sweep, with plan.arrow, got "):
        Ledger(tmp_path).planned()


def test_the_status_counts_by_group_in_the_plans_order() -> None:
    jobs = pd.DataFrame({"key": list("abcde"), "group": list("zzyyz")})
    table = table_status(jobs, done={"a", "c", "x"}, failed={"b", "c", "y"})
    assert table.to_dict("records") == [
        {"group": "z", "units": 3, "done": 1, "failed": 1, "missing": 1},
        {"group": "y", "units": 2, "done": 1, "failed": 0, "missing": 1},
    ]
    assert table_status(jobs[:0], set(), set()).empty
