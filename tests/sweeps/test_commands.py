"""`vaerdict sweep` and `vaerdict status` as they are typed: what they say, what they write, how they end."""

import errno
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from tests.sweeps.conftest import SAMPLES
from vaerdict.arguments import parse
from vaerdict.cli import main
from vaerdict.options import SweepOptions
from vaerdict.results import Row, files, load, write_part
from vaerdict.sweeps import units

Said = pytest.CaptureFixture[str]


@pytest.fixture
def one(asked: dict[str, Any], tmp_path: Path) -> Path:
    """A grid's file with three units: attacks on one model."""
    del asked["certify"]
    (tmp_path / "one.yaml").write_text(yaml.safe_dump({**asked, "models": asked["models"][0]}))
    return tmp_path / "one.yaml"


def changed(path: Path, **entries: Any) -> str:
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), **entries}))
    return str(path)


def ends(code: int, *arguments: str) -> None:
    with pytest.raises(SystemExit) as stop:
        main(list(arguments))
    assert stop.value.code == code


def refused(capsys: Said, *arguments: str) -> str:
    ends(2, *arguments)
    said = capsys.readouterr()
    [line] = said.err.strip().splitlines()
    assert line.startswith("vaerdict: ")
    assert said.out == ""
    return line.removeprefix("vaerdict: ")


GROUP = "one, digits/test, r 1, p 0.5, seed 0"


def test_a_dry_run_says_all_and_writes_nothing(path: Path, tmp_path: Path, capsys: Said) -> None:
    main(["sweep", "--dry-run", changed(path, models=yaml.safe_load(path.read_text())["models"][0])])
    said = capsys.readouterr()
    head, certify, attack, total, about = said.out.splitlines()
    assert head.split() == ["units", "done", "failed", "missing"]
    assert certify.split("  ")[-1] == f"certify: {GROUP}, methods barrett+isotropic, local False"
    assert attack.split("  ")[-1].startswith(f"attack radius 0.5: {GROUP}, reconstruction mean")
    assert [line.split()[:4] for line in (certify, attack, total)] == [
        *[["3", "0", "0", "3"]] * 2,
        ["6", "0", "0", "6"],
    ]
    assert about.startswith("about ")
    assert about.endswith(" s with 1 worker, from one unit of each kind")
    assert said.err == ""
    assert [entry.name for entry in tmp_path.iterdir()] == ["grid.yaml"]


def test_a_dry_run_leaves_a_folder_as_it_is(one: Path, tmp_path: Path, capsys: Said) -> None:
    out = tmp_path / "out"
    main(["sweep", str(one), "--out", str(out), "--shard=1/2"])
    before = {entry: entry.read_bytes() for entry in out.rglob("*") if entry.is_file()}
    capsys.readouterr()
    main(["sweep", str(one), f"--out={out}", "--dry-run", "true", "--engine=local", "--workers=3"])
    *_, total, about = capsys.readouterr().out.splitlines()
    assert total.split() == ["3", "2", "0", "1", "all"]
    assert "with 3 workers" in about
    assert {entry: entry.read_bytes() for entry in out.rglob("*") if entry.is_file()} == before
    assert "differences in chunk: 2 -> 3" in refused(
        capsys, "sweep", changed(one, chunk=3), f"--out={out}", "--dry-run"
    )


def test_a_sweep_and_its_status(one: Path, tmp_path: Path, capsys: Said, broken: pytest.MonkeyPatch) -> None:
    out = f"--out={tmp_path / 'out'}"
    ends(1, "sweep", str(one), out)
    told = f"3 units: 2 done (2 now), 1 failed; `vaerdict status {tmp_path / 'out'}` says why, `--retry-failed` does"
    said = capsys.readouterr()
    assert said.out.startswith(told)
    assert said.err == ""
    main(["status", str(tmp_path / "out")])
    head, group, total, failed = capsys.readouterr().out.splitlines()
    assert head.split() == ["units", "done", "failed", "missing"]
    assert group.split()[:4] == total.split()[:4] == ["3", "2", "1", "0"]
    assert failed == "failed: 1 of attack radius 0.5: RuntimeError: the third image is too much"
    broken.undo()
    ends(1, "sweep", str(one), out)
    capsys.readouterr()
    main(["sweep", str(one), out, "--retry-failed"])
    assert capsys.readouterr().out == "3 units: 3 done (1 now), 0 failed\n"
    main(["status", str(tmp_path / "out")])
    assert [line.split()[:4] for line in capsys.readouterr().out.splitlines()[1:]] == [["3", "3", "0", "0"]] * 2


def test_lines_of_json_are_alone_on_stdout(one: Path, tmp_path: Path, capsys: Said, broken: pytest.MonkeyPatch) -> None:
    ends(1, "sweep", "--log-json", str(one), f"--out={tmp_path / 'out'}")
    said = capsys.readouterr()
    lines = [json.loads(line) for line in said.out.splitlines()]
    assert [line["status"] for line in lines] == ["done", "failed", "done"]
    assert [(line["done"], line["failed"], line["remaining"]) for line in lines] == [(1, 0, 2), (1, 1, 1), (2, 1, 0)]
    assert [line["reason"] for line in lines] == ["", "RuntimeError: the third image is too much", ""]
    assert {line["unit"] for line in lines} == {entry.stem for entry in (tmp_path / "out").rglob("*/?*.parquet")} - {
        "plan"
    }
    assert all(line["group"].startswith("attack radius 0.5: one") and line["seconds"] > 0 for line in lines)
    assert said.err.startswith("3 units: 2 done (2 now), 1 failed")
    broken.undo()
    main(["sweep", str(one), f"--out={tmp_path / 'out'}", "--force", "--log-json"])
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(line["done"], line["failed"], line["remaining"]) for line in lines] == [(1, 0, 2), (2, 0, 1), (3, 0, 0)]


def test_force_gives_equal_rows(one: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    main(["sweep", str(one), f"--out={out}"])
    first = load(out / "results").drop(columns=["time_s", "code"])
    times = {entry: entry.stat().st_mtime_ns for entry in (out / "results").glob("*.parquet")}
    main(["sweep", str(one), f"--out={out}"])
    assert {entry: entry.stat().st_mtime_ns for entry in (out / "results").glob("*.parquet")} == times
    main(["sweep", str(one), "--force", f"--out={out}"])
    assert all(entry.stat().st_mtime_ns > before for entry, before in times.items())
    pd.testing.assert_frame_equal(load(out / "results").drop(columns=["time_s", "code"]), first, check_exact=True)


def test_too_many_failures_stop_it(one: Path, tmp_path: Path, capsys: Said, broken: pytest.MonkeyPatch) -> None:
    broken.setattr(units, "attack", lambda *images, **ask: 1 / 0)
    ends(1, "sweep", str(one), f"--out={tmp_path / 'out'}", "--max-failures", "2")
    assert capsys.readouterr().out.startswith("3 units: 0 done (0 now), 2 failed, 1 missing; `vaerdict status ")
    main(["status", str(tmp_path / "out")])
    assert "failed: 2 of attack radius 0.5: ZeroDivisionError: division by zero" in capsys.readouterr().out


def test_another_grid_is_refused_unless_it_is_new(one: Path, tmp_path: Path, capsys: Said) -> None:
    out = tmp_path / "out"
    main(["sweep", str(one), f"--out={out}"])
    capsys.readouterr()
    kept = set((out / "configs").iterdir())
    sentence = refused(capsys, "sweep", changed(one, seeds=[0, 1]), f"--out={out}")
    assert (
        sentence == f"expected the grid of {out}, or `--new` to take another, got differences in seeds.1: nothing -> 1"
    )
    assert set((out / "configs").iterdir()) == kept
    main(["sweep", str(one), f"--out={out}", "--new"])
    assert capsys.readouterr().out == "6 units: 6 done (3 now), 0 failed\n"
    main(["sweep", changed(one, seeds=[2]), f"--out={out}", "--new=true"])
    assert len(list((out / "results").glob("*.parquet"))) == 9


def test_a_contradiction_ends_with_status_one(one: Path, tmp_path: Path, capsys: Said) -> None:
    out = tmp_path / "out"
    main(["sweep", str(one), f"--out={out}", "--shard=1/2"])
    row = load(out / "results").to_dict("records")[0]
    same = ("model", "model_sha256", "dataset", "sample_id", "sample_sha256", "r", "p", "reconstruction")
    about = {name: row[name] for name in same}
    rows = [
        Row(**about, method="pgd", kind="attack", strength="empirical", margin=1.0),
        Row(**about, method="isotropic", kind="certificate", strength="proved", margin=2.0),
    ]
    write_part(out / "results", rows, "forged")
    capsys.readouterr()
    ends(1, "sweep", str(one), f"--out={out}")
    said = capsys.readouterr()
    assert "isotropic (proved) certifies 2, pgd succeeds at 1" in said.err
    assert said.out == ""


def test_an_interrupt_ends_with_130_and_keeps_what_is_done(
    one: Path, tmp_path: Path, capsys: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = units.attack

    def stopped(*images: Any, **ask: Any) -> list[Row]:
        if SAMPLES[2] in ask["sample_ids"]:
            raise KeyboardInterrupt
        return real(*images, **ask)

    monkeypatch.setattr(units, "attack", stopped)
    ends(130, "sweep", str(one), f"--out={tmp_path / 'out'}")
    assert "interrupted; finished parts are kept, the same command goes on from there" in capsys.readouterr().err
    main(["status", str(tmp_path / "out")])
    assert capsys.readouterr().out.splitlines()[-1].split() == ["3", "1", "0", "2", "all"]


def test_a_full_disk_is_one_sentence(one: Path, tmp_path: Path, capsys: Said, monkeypatch: pytest.MonkeyPatch) -> None:
    out, synced = tmp_path / "out", []
    real = os.fsync

    def sync(descriptor: int) -> None:
        synced.append(descriptor)
        if len(synced) > 8:  # the configuration, four files of the ledger, a unit of three
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(descriptor)

    monkeypatch.setattr(files.os, "fsync", sync)
    sentence = refused(capsys, "sweep", str(one), f"--out={out}")
    why = "No space left on device; finished parts are kept, the same command goes on from there"
    assert sentence == f"expected to write below {out}, got: {why}"
    monkeypatch.undo()
    assert len(load(out / "results")) == 2
    main(["sweep", str(one), f"--out={out}"])
    assert capsys.readouterr().out == "3 units: 3 done (2 now), 0 failed\n"


def test_what_single_commands_did_is_skipped(one: Path, models: list[str], tmp_path: Path, capsys: Said) -> None:
    out = f"--out={tmp_path / 'out'}"
    about = [f"--model={models[0]}", "--limit=5", "--r-relative=0.5", out]
    main(["certify", *about, "--methods=barrett", "--local=false"])
    main(
        ["attack", *about, "--margin", "false", "--radii=0.5", "--gradients=2", "--reconstruction=mean", "--samples=1"]
    )
    certify = {"methods": "barrett", "local": False}
    changed(one, certify=certify, questions={"r-relative": 0.5}, chunk=100, batch=None)
    capsys.readouterr()
    main(["sweep", str(one), out])
    assert capsys.readouterr().out == "2 units: 2 done (0 now), 0 failed\n"


def test_a_kept_configuration_does_the_same_again(one: Path, tmp_path: Path, capsys: Said) -> None:
    main(["sweep", str(one), f"--out={tmp_path / 'out'}", "--force"])
    [kept] = (tmp_path / "out" / "configs").glob("sweep-????????.yaml")
    assert f"grid: {one}" in kept.read_text()
    main(["sweep", f"--config={kept}", f"--out={tmp_path / 'again'}"])
    assert capsys.readouterr().out.splitlines() == ["3 units: 3 done (3 now), 0 failed"] * 2


@pytest.mark.parametrize(
    ("typed", "chosen"),
    [
        (["--dry-run", "GRID"], {"dry_run": True}),
        (["GRID", "--dry-run"], {"dry_run": True}),
        (["--force", "--log-json", "GRID"], {"force": True, "log_json": True}),
        (["--new", "true", "GRID"], {"new": True}),
        (["--new", "True", "GRID", "--force", "no"], {"new": True}),
        (["--dry-run=false", "GRID"], {}),
        (["--retry-failed", "false", "GRID", "--shard", "2/3"], {"shard": "2/3"}),
        (["--engine", "local", "GRID", "--workers", "2"], {"engine": "local", "workers": 2}),
        (
            ["GRID", "--engine=ray", "--gpus=0.5", "--address", "auto"],
            {"engine": "ray", "gpus": 0.5, "address": "auto"},
        ),
    ],
    ids=" ".join,
)
def test_flags_need_no_value_and_never_eat_the_grid(typed: list[str], chosen: dict[str, Any]) -> None:
    _, _, [grid, options] = parse(["sweep", *typed])
    assert grid == "GRID"
    assert options == SweepOptions(**chosen)


def test_other_commands_flags_are_as_before(capsys: Said) -> None:
    common = ["attack", "--model=m", "--r=1", "--radii", "0.5"]
    for typed, margin in [(["--margin", "false"], False), (["--margin=false"], False), (["--margin"], True)]:
        *_, attack, _ = parse([*common, *typed])[2]
        assert attack.margin is margin
    *_, attack, run = parse([*common, "--indicators", "--out", "x"])[2]
    assert attack.indicators
    assert run.out == "x"
    assert refused(capsys, *common, "--margin", "maybe") == "expected `--margin` as true or false, got 'maybe'"


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (["sweep"], "expected `grid`"),
        (["sweep", "--dry-run"], "expected `grid`"),
        (["sweep", "GRID", "more"], "unrecognized arguments: more"),
        (
            ["sweep", "nowhere.yaml"],
            "expected a YAML file with `models`, `data`, `questions` and `certify` or `attack`,",
        ),
        (["sweep", "BAD"], "unknown entry in BAD 'model', known: models, data"),
        (["sweep", "MISSING"], "expected a model folder with config.json, found none at nowhere"),
        (["sweep", "GRID", "--shard"], "expected a value after `--shard`"),
        (["sweep", "GRID", "--shard=0/3"], "expected `shard` as i/N with 1 <= i <= N, such as 3/16, got 0/3"),
        (["sweep", "GRID", "--shard=4/3"], "expected `shard` as i/N with 1 <= i <= N, such as 3/16, got 4/3"),
        (["sweep", "GRID", "--shard=a/b"], "expected `shard` as i/N"),
        (["sweep", "GRID", "--workers=2"], "expected `workers` with another engine than serial, got serial"),
        (["sweep", "GRID", "--engine=local", "--workers=0"], "expected `workers` >= 1, got 0"),
        (["sweep", "GRID", "--engine=slurm"], "expected `--engine` as one of serial, local, ray, got 'slurm'"),
        (["sweep", "GRID", "--engine=local", "--gpus=1"], "expected `gpus` with the engine ray, got local"),
        (["sweep", "GRID", "--address=auto"], "expected `address` with the engine ray, got serial"),
        (["sweep", "GRID", "--engine=ray", "--gpus=-1"], "expected a finite `gpus` >= 0, got -1.0"),
        (["sweep", "GRID", "--max-failures=0"], "expected `max-failures` >= 1, got 0"),
        (["sweep", "GRID", "--dry-run=maybe"], "expected `--dry-run` as true or false, got 'maybe'"),
        (
            ["sweep", "GRID", "--out=GRID/deep"],
            "expected `--out` as a folder that can be written, got GRID/deep: Not a",
        ),
        (["status"], "expected `run`"),
        (["status", "nowhere"], "expected the folder of a sweep, with plan.arrow, got nowhere"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_usage_is_one_sentence(typed: list[str], said: str, one: Path, tmp_path: Path, capsys: Said) -> None:
    asked = yaml.safe_load(one.read_text())
    (tmp_path / "bad.yaml").write_text(yaml.safe_dump({**asked, "model": "m"}))
    (tmp_path / "missing.yaml").write_text(yaml.safe_dump({**asked, "models": "nowhere"}))
    known = {"GRID": str(one), "BAD": str(tmp_path / "bad.yaml"), "MISSING": str(tmp_path / "missing.yaml")}
    for word, meant in known.items():
        typed = [argument.replace(word, meant) for argument in typed]
        said = said.replace(word, meant)
    named = any(argument.startswith("--out") for argument in typed)
    out = [] if named or typed[0] == "status" or len(typed) < 2 else [f"--out={tmp_path / 'out'}"]
    assert refused(capsys, *typed, *out).startswith(said)
    assert not (tmp_path / "out").exists()


def test_help_is_quick_and_says_what_a_sweep_takes() -> None:
    start = time.perf_counter()
    command = [sys.executable, "-m", "vaerdict.cli", "sweep", "--help"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert time.perf_counter() - start < 3  # 0.4 s alone; the tests' machine is busy
    assert "YAML file of the grid" in said
    assert "--dry-run [{true,false}]" in said
    for name in ("--dry-run", "--retry-failed", "--max-failures", "--log-json", "--engine {serial,local,ray}"):
        assert name in said
