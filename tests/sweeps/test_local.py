"""Processes on this machine: whoever dies is replaced, failures are rows, and Ctrl-C leaves a sweep that goes on."""

import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.sweeps import small
from vaerdict.cli import main
from vaerdict.results import load

ENGINES = {"serial": (), "local": ("--engine", "local", "--workers", "2")}


@pytest.fixture
def troubled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> small.Troubled:
    name = f"troubled_{abs(hash(request.node.nodeid))}"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, name, None)  # whatever is there at the end goes
    del sys.modules[name]
    made = small.Troubled(tmp_path, name)
    made.write()
    return made


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    def run(*arguments: str) -> tuple[int, str]:
        try:
            main(["sweep", "grid.yaml", *arguments])
        except SystemExit as end:
            status = int(end.code or 0)
        else:
            status = 0
        captured = capsys.readouterr()
        return status, captured.out

    return run


def test_only_the_unit_of_a_process_that_died_is_repeated(troubled: small.Troubled, command) -> None:
    assert command("--out", "whole")[0] == 0
    usual = troubled.seen()
    assert len(set(usual.values())) == 1
    troubled.trouble("die once", 3, 5)
    assert command("--out", "out", *ENGINES["local"]) == (0, "8 units: 8 done (8 now), 0 failed\n")
    assert troubled.seen() == usual + small.Counter([3, 5])
    small.assert_same(Path("out"), Path("whole"))


@pytest.mark.parametrize(("engine", "kinds"), [("serial", ["fail"]), ("local", ["fail", "die"])], ids=[*ENGINES])
def test_failures_are_rows_and_are_done_again_when_asked(
    troubled: small.Troubled, command, engine: str, kinds: list[str]
) -> None:
    assert command("--out", "whole")[0] == 0
    usual = troubled.seen()
    reasons = {"fail": "RuntimeError: no image 2, please", "die": "3 workers died with it"}
    asked = {number: kind for number, kind in zip((2, 5), kinds, strict=False)}
    for number, kind in asked.items():
        troubled.trouble(kind, number)
    options = ("--out", "out", *ENGINES[engine])
    count = len(asked)
    status, text = command(*options)
    assert status == 1
    assert text.startswith(f"8 units: {8 - count} done ({8 - count} now), {count} failed; ")
    assert "`--retry-failed`" in text
    failed = load(Path("out/results/failed"))
    assert dict(zip(failed["sample_id"], failed["reason"], strict=True)) == {n: reasons[k] for n, k in asked.items()}
    assert set(failed["status"]) == {"error"}
    assert all(("Traceback" in json.loads(told)["traceback"]) == (asked[number] == "fail")
               for number, told in zip(failed["sample_id"], failed["constants"], strict=True))  # fmt: skip
    expected = dict.fromkeys(usual, usual[1])
    seen = troubled.seen()
    assert seen == {**expected, **{number: {"fail": 1, "die": 3}[kind] for number, kind in asked.items()}}

    troubled.calm()
    status, text = command(*options)
    assert (status, text.split(";")[0]) == (1, f"8 units: {8 - count} done (0 now), {count} failed")
    assert not troubled.seen()
    assert command(*options, "--retry-failed", "true") == (0, f"8 units: 8 done ({count} now), 0 failed\n")
    assert troubled.seen() == {number: usual[number] for number in asked}
    small.assert_same(Path("out"), Path("whole"))


@pytest.mark.parametrize("engine", ENGINES)
def test_a_sweep_stops_after_as_many_failures_as_it_may_have(troubled: small.Troubled, command, engine: str) -> None:
    troubled.trouble("fail", *range(1, 8))
    status, text = command("--out", "out", "--max-failures", "2", *ENGINES[engine])
    assert status == 1
    assert "2 failed, " in text
    assert 2 <= len(load(Path("out/results/failed"))) <= 2 + 2 * len(ENGINES[engine])
    troubled.calm()
    assert command("--out", "out", "--retry-failed", "true", *ENGINES[engine])[0] == 0


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[small.Server]:
    with small.server(tmp_path_factory.mktemp("s")) as lent:
        yield lent


@pytest.mark.parametrize(
    ("engine", "units", "moment"), [("serial", 0, 0.1), ("serial", 3, 0.01), ("local", 0, 0.5), ("local", 3, 0.01)]
)
def test_after_ctrl_c_a_sweep_goes_on(
    server: small.Server, tmp_path: Path, engine: str, units: int, moment: float
) -> None:
    grid = small.write_grid(tmp_path / "grid.yaml", models=small.write_models(tmp_path), seeds=[0, 1])
    out = tmp_path / "out"
    run = server.start("sweep", grid, "--out", out, *ENGINES[engine])
    small.until(lambda: (out / "configs").exists() and len(small.parts(out)) >= units, 60, run)
    time.sleep(moment)
    assert run.poll() is None
    run.interrupt()
    assert run.wait(5) == 130
    small.until(lambda: not run.members(), 5, "nobody's processes to end")
    *bar, said = run.output.splitlines()
    assert said == "vaerdict: interrupted; finished parts are kept, the same command goes on from there"
    assert bar == []
    assert len(small.parts(out)) >= units
    if units:
        assert load(out / "results")["status"].eq("ok").all()  # a truncated part would be a warning


def test_processes_end_at_once_with_the_command(troubled: small.Troubled, tmp_path: Path) -> None:
    """Another sweep may do their units by the time they would be done with them."""
    troubled.trouble("sleep", 1)
    (tmp_path / "s").mkdir()
    with small.server(tmp_path / "s") as server:
        run = server.start("sweep", "grid.yaml", "--out", "out", *ENGINES["local"], cwd=tmp_path)
        small.until(lambda: troubled.seen()[1] > 0, 60, run)
        run.kill(whole_group=False)
        run.wait(10)
        small.until(lambda: not run.members(), 10, "an end of all processes")
