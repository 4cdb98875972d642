"""A sweep does what is missing, counts it, and ends the same whatever happened on the way."""

import errno
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from tests.sweeps.conftest import SAMPLES
from vaerdict.options import AttackOptions, SweepOptions
from vaerdict.results import Contradiction, Row, files, load, write_part
from vaerdict.sweeps import Grid, run, sweep, units
from vaerdict.sweeps.ledger import Ledger
from vaerdict.sweeps.run import devices, estimate
from vaerdict.sweeps.worker import FAILED, RESULTS, CannotGoOn, Outcome, Worker

CHANGES = ("time_s", "code")


def options(folder: Path, **chosen: Any) -> SweepOptions:
    return SweepOptions(out=str(folder), **chosen)


def rows(folder: Path) -> pd.DataFrame:
    return load(folder / RESULTS).drop(columns=[*CHANGES])


def counts(summary: Any) -> tuple[int, int, int, int, int]:
    return summary.units, summary.done, summary.failed, summary.missing, summary.made


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The first sample of each attacked chunk, as attacks are made."""
    made, real = [], units.attack
    monkeypatch.setattr(
        units, "attack", lambda *images, **ask: made.append(ask["sample_ids"][0]) or real(*images, **ask)
    )
    return made


def test_what_is_done_is_not_done_again_unless_forced(attacks: Grid, tmp_path: Path, calls: list[int]) -> None:
    assert counts(sweep(attacks, options(tmp_path))) == (3, 3, 0, 0, 3)
    first = rows(tmp_path)
    assert sorted(first["sample_id"]) == sorted(SAMPLES)
    assert counts(sweep(attacks, options(tmp_path))) == (3, 3, 0, 0, 0)
    assert calls == [SAMPLES[0], SAMPLES[2], SAMPLES[4]]
    assert counts(sweep(attacks, options(tmp_path, force=True))) == (3, 3, 0, 0, 3)
    assert len(calls) == 6
    pd.testing.assert_frame_equal(rows(tmp_path), first, check_exact=True)


def test_a_stopped_sweep_goes_on_to_the_same_bits(
    attacks: Grid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = units.attack

    def stopped(*images: Any, **ask: Any) -> list[Row]:
        if SAMPLES[2] in ask["sample_ids"]:
            raise KeyboardInterrupt
        return real(*images, **ask)

    monkeypatch.setattr(units, "attack", stopped)
    with pytest.raises(KeyboardInterrupt):
        sweep(attacks, options(tmp_path / "a"))
    ledger = Ledger(tmp_path / "a")
    assert (len(ledger.planned()), len(ledger.done()), len(ledger.failed())) == (3, 1, 0)
    monkeypatch.undo()
    assert counts(sweep(attacks, options(tmp_path / "a"))) == (3, 3, 0, 0, 2)
    sweep(attacks, options(tmp_path / "b"))
    pd.testing.assert_frame_equal(rows(tmp_path / "a"), rows(tmp_path / "b"), check_exact=True)


def test_failures_are_left_until_they_are_to_be_repeated(
    attacks: Grid, tmp_path: Path, broken: pytest.MonkeyPatch
) -> None:
    assert counts(sweep(attacks, options(tmp_path))) == (3, 2, 1, 0, 2)
    assert counts(sweep(attacks, options(tmp_path))) == (3, 2, 1, 0, 0)
    assert counts(sweep(attacks, options(tmp_path, retry_failed=True))) == (3, 2, 1, 0, 0)
    broken.undo()
    assert counts(sweep(attacks, options(tmp_path, retry_failed=True))) == (3, 3, 0, 0, 1)
    assert Ledger(tmp_path).failed() == set()
    sweep(attacks, options(tmp_path / "other"))
    pd.testing.assert_frame_equal(rows(tmp_path), rows(tmp_path / "other"), check_exact=True)


def test_so_many_failures_stop_a_sweep(attacks: Grid, tmp_path: Path, broken: pytest.MonkeyPatch) -> None:
    many = replace(attacks, chunk=1)
    assert counts(sweep(many, options(tmp_path, max_failures=1))) == (5, 2, 1, 2, 2)
    broken.setattr(units, "attack", lambda *images, **ask: 1 / 0)
    # Failures of earlier calls do not count.
    assert counts(sweep(many, options(tmp_path, max_failures=2))) == (5, 2, 3, 0, 0)


def test_shards_share_the_units_and_make_the_whole(attacks: Grid, tmp_path: Path) -> None:
    many = replace(attacks, chunk=1)
    parts = [counts(sweep(many, options(tmp_path / "shards", shard=f"{i}/3"))) for i in (3, 1, 2)]
    assert [part[0] for part in parts] == [1, 2, 2]
    assert [part[-1] for part in parts] == [1, 2, 2]
    assert counts(sweep(many, options(tmp_path / "shards"))) == (5, 5, 0, 0, 0)
    sweep(many, options(tmp_path / "whole"))
    pd.testing.assert_frame_equal(rows(tmp_path / "shards"), rows(tmp_path / "whole"), check_exact=True)


def test_another_grid_needs_to_be_called_new_and_keeps_the_parts(attacks: Grid, tmp_path: Path) -> None:
    sweep(attacks, options(tmp_path))
    old = Ledger(tmp_path).done()
    wider = replace(attacks, attack=(replace(attacks.attack[0], radii=(0.5, 1.0)),))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(ValueError, match=r"got differences in attack\.0\.radii\.1: nothing -> 1\.0"):
        sweep(wider, options(tmp_path))
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    assert counts(sweep(wider, options(tmp_path, new=True))) == (6, 6, 0, 0, 3)
    assert counts(sweep(wider, options(tmp_path))) == (6, 6, 0, 0, 0)
    elsewhere = replace(attacks, seeds=(1,))
    assert counts(sweep(elsewhere, options(tmp_path, new=True))) == (3, 3, 0, 0, 3)
    assert Ledger(tmp_path).done() > old
    assert len(Ledger(tmp_path).done()) == 9


def test_a_grid_that_cannot_be_planned_writes_nothing(attacks: Grid, tmp_path: Path) -> None:
    latent = replace(attacks, attack=(AttackOptions(objective="latent"),), data=(replace(attacks.data[0], limit=1),))
    with pytest.raises(ValueError, match="expected images of 2 labels or more"):
        sweep(latent, options(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("after", [0, 3, 6])
def test_a_full_disk_leaves_what_is_finished(
    after: int, attacks: Grid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four files of the ledger, then three of each unit."""
    written: list[int] = []

    def sync(descriptor: int) -> None:
        written.append(descriptor)
        if len(written) > after:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files.os, "fsync", sync)
    with pytest.raises(CannotGoOn, match="No space left on device; finished parts are kept, the same command goes"):
        sweep(attacks, options(tmp_path))
    monkeypatch.undo()
    assert not list(tmp_path.rglob(".*"))
    assert counts(sweep(attacks, options(tmp_path))) == (3, 3, 0, 0, 3)
    assert len(rows(tmp_path)) == 5


def test_a_folder_below_a_file_is_refused(attacks: Grid, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CannotGoOn, match="Not a directory"):
        sweep(attacks, options(tmp_path / "file" / "deep"))


def test_a_contradiction_is_told_at_the_end(grid: Grid, tmp_path: Path) -> None:
    certificates = replace(grid, models=grid.models[:1], attack=(), chunk=3)
    assert counts(sweep(certificates, options(tmp_path, shard="1/2"))) == (1, 1, 0, 0, 1)
    table = load(tmp_path / RESULTS)
    [row, *_] = table[table["method"] == "isotropic"].to_dict("records")
    assert row["margin"] > 0
    same = ("model", "model_sha256", "dataset", "sample_id", "sample_sha256", "r", "p", "reconstruction")
    better = {"method": "pgd", "kind": "attack", "strength": "empirical", "margin": row["margin"] / 2}
    write_part(tmp_path / RESULTS, [Row(**{name: row[name] for name in same}, **better)], "forged")
    for _ in range(2):  # the second time nothing is left to be done
        with pytest.raises(Contradiction, match=r"isotropic \(proved\) certifies .*, pgd succeeds at "):
            sweep(certificates, options(tmp_path))
        assert len(Ledger(tmp_path).done()) == 3


def test_a_unit_that_is_forced_and_fails_keeps_its_part(
    attacks: Grid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was done stays done: its name is its content."""
    sweep(attacks, options(tmp_path))
    before = load(tmp_path / RESULTS)

    def fail(*facts: object, **more: object) -> None:
        raise RuntimeError("out of order")

    with monkeypatch.context() as patch:
        patch.setattr(units, "attack", fail)
        assert counts(sweep(attacks, options(tmp_path, force=True))) == (3, 0, 3, 0, 0)
    assert load(tmp_path / RESULTS).equals(before)
    assert counts(sweep(attacks, options(tmp_path))) == (3, 3, 0, 0, 0)


def test_all_results_of_a_folder_are_read_without_a_warning(attacks: Grid, tmp_path: Path) -> None:
    sweep(attacks, options(tmp_path))
    assert load(tmp_path).equals(load(tmp_path / RESULTS))  # warnings are errors here


def test_parts_are_compared_once_and_again_when_they_change(
    grid: Grid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared: list[int] = []
    monkeypatch.setattr(run, "check_contradictions", lambda table: compared.append(len(table)))
    certificates = replace(grid, models=grid.models[:1], attack=(), chunk=3)
    sweep(certificates, options(tmp_path, shard="1/2"))
    assert compared == []
    sweep(certificates, options(tmp_path, shard="2/2"))
    sweep(certificates, options(tmp_path))
    assert len(compared) == 1
    sweep(certificates, options(tmp_path, force=True))
    assert len(compared) == 2


def test_an_estimate_writes_nothing_and_counts_what_is_missing(attacks: Grid, tmp_path: Path, calls: list[int]) -> None:
    many = replace(attacks, chunk=1)
    found = estimate(many, options(tmp_path / "out"))
    table = found.table
    assert not (tmp_path / "out").exists()
    assert table[["units", "done", "failed", "missing"]].to_numpy().tolist() == [[5, 0, 0, 5]]
    assert len(calls) == 1
    assert found.seconds > 0
    assert found.failures == {}
    sweep(many, options(tmp_path / "out", shard="1/2"))
    less = estimate(many, options(tmp_path / "out"))
    table = less.table
    assert table[["units", "done", "failed", "missing"]].to_numpy().tolist() == [[5, 3, 0, 2]]
    sweep(many, options(tmp_path / "out"))
    before = len(calls)
    none = estimate(many, options(tmp_path / "out"))
    assert none.table["done"].tolist() == [5]
    assert none.seconds == 0
    assert less.seconds > 0
    assert len(calls) == before


def test_an_estimate_goes_by_samples(attacks: Grid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The probe is the first unit of its group; the last one is half as large."""
    monkeypatch.setattr(Worker, "run", lambda self, job: Outcome(job, "done", 10.0))
    assert estimate(attacks, options(tmp_path)).seconds == pytest.approx(25.0)


def test_an_estimate_tells_which_units_would_fail(
    attacks: Grid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Worker, "run", lambda self, job: Outcome(job, "failed", 1.0, "RuntimeError: broken"))
    assert list(estimate(attacks, options(tmp_path)).failures.values()) == ["RuntimeError: broken"]


def test_failures_of_units_that_are_done_are_forgotten(attacks: Grid, tmp_path: Path) -> None:
    """A process was killed after the part was written and before the failure was taken away."""
    sweep(attacks, options(tmp_path))
    key = min(Ledger(tmp_path).done())
    write_part(tmp_path / FAILED, [], key)
    assert counts(sweep(attacks, options(tmp_path))) == (3, 3, 0, 0, 0)
    assert not list((tmp_path / FAILED).iterdir())


def test_workers_get_devices_in_turn(attacks: Grid, monkeypatch: pytest.MonkeyPatch) -> None:
    assert devices(attacks, 3) == ["cpu"] * 3
    assert devices(attacks, None) == ["cpu"] * (os.cpu_count() or 1)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    gpus = replace(attacks, device="cuda")
    assert devices(gpus, None) == ["cuda:0", "cuda:1"]
    assert devices(gpus, 5) == ["cuda:0", "cuda:1", "cuda:0", "cuda:1", "cuda:0"]
