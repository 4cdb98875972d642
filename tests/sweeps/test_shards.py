"""Shards of a grid are its units, each once; done apart and copied together they are one sweep."""

import random
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from tests.sweeps import small
from vaerdict.options import SweepOptions
from vaerdict.sweeps import Grid, read_grid, sweep
from vaerdict.sweeps.run import Work, look, run_engine

LOCAL = {"engine": "local", "workers": 2}


@pytest.fixture
def grid(tmp_path: Path) -> Grid:
    models = small.write_models(tmp_path, 1)
    data, certify = {"limit": 4}, {"methods": ["isotropic"], "local": False}
    path = small.write_grid(
        tmp_path / "grid.yaml", models=models, data=data, chunk=2, certify=certify, attack=None, seeds=[0, 1, 2]
    )
    return read_grid(path)


def keys(work: Work) -> list[str]:
    return [job.key for job in work.jobs]


@pytest.mark.parametrize("count", range(1, 6))
def test_shards_are_disjoint_and_complete(grid: Grid, tmp_path: Path, count: int) -> None:
    whole = keys(look(grid, SweepOptions(out=str(tmp_path / "out"))))
    options = [SweepOptions(out=str(tmp_path / "out"), shard=f"{number}/{count}") for number in range(1, count + 1)]
    shards = [keys(look(grid, option)) for option in options]
    assert len(whole) == len(set(whole)) == 6
    assert sorted(key for shard in shards for key in shard) == sorted(whole)
    assert max(map(len, shards)) - min(map(len, shards)) <= 1


def test_more_shards_than_units_leave_some_without_work(grid: Grid, tmp_path: Path) -> None:
    summary = sweep(grid, SweepOptions(out=str(tmp_path / "out"), shard="7/7"))
    assert (summary.units, summary.made, summary.missing) == (0, 0, 0)


def test_shards_in_two_folders_merged_are_one_sweep(grid: Grid, tmp_path: Path) -> None:
    whole, merged = tmp_path / "whole", tmp_path / "merged"
    assert sweep(grid, SweepOptions(out=str(whole))).done == 6
    for shard in ("1/2", "2/2"):
        out = tmp_path / shard.replace("/", "of")
        assert sweep(grid, SweepOptions(out=str(out), shard=shard)).done == 3
        shutil.copytree(out, merged, dirs_exist_ok=True)
    small.assert_same(merged, whole)
    again = sweep(grid, SweepOptions(out=str(merged)))
    assert (again.done, again.made) == (6, 0)


def test_engines_and_orders_change_neither_plan_nor_rows(grid: Grid, tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    sweep(grid, SweepOptions(out=str(whole)))
    options = [
        SweepOptions(out=str(tmp_path / "backwards")),
        SweepOptions(out=str(tmp_path / "mixed")),
        SweepOptions(out=str(tmp_path / "local"), **LOCAL),
    ]
    plan = look(grid, options[0]).plan
    for option, order in zip(options, (lambda jobs: jobs[::-1], shuffled, list), strict=True):
        work = look(grid, option)
        assert work.plan == plan
        work = replace(work, waiting=order(list(work.waiting)))
        outcomes = list(run_engine(grid, option, work))
        assert {outcome.status for outcome in outcomes} == {"done"}
        small.assert_same(Path(option.out), whole)


def shuffled(jobs: list) -> list:
    return random.Random(0).sample(jobs, len(jobs))
