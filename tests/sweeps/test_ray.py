"""Ray's workers: whoever dies is replaced, failures are rows, and nothing is printed but what the sweep says."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.sweeps import small
from vaerdict.cli import main
from vaerdict.results import load

RAY = ("--engine", "ray", "--workers", "2", "--gpus", "0")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[small.Server]:
    with small.server(tmp_path_factory.mktemp("s")) as lent:
        yield lent


def test_who_dies_is_replaced_failures_are_rows_and_a_sweep_goes_on_after_ctrl_c(
    server: small.Server, tmp_path: Path
) -> None:
    troubled = small.Troubled(tmp_path, "troubled")
    troubled.write()
    assert server.run("sweep", "grid.yaml", "--out", "whole", cwd=tmp_path)[0] == 0
    usual = troubled.seen()
    out, asked = tmp_path / "out", ("sweep", "grid.yaml", "--out", "out", *RAY)

    troubled.trouble("die once", 1)
    troubled.trouble("fail", 4)
    status, output = server.run(*asked, cwd=tmp_path)
    said = output.splitlines()[-1]  # Ray tells of the death before
    assert (status, said.split(";")[0]) == (1, "8 units: 7 done (7 now), 1 failed")
    assert troubled.seen() == {**usual, 1: usual[1] + 1, 4: 1}
    failed = load(out / "results" / "failed")
    assert list(failed["sample_id"]) == [4]
    assert list(failed["reason"]) == ["RuntimeError: no image 4, please"]

    run = server.start(*asked, "--force", "true", cwd=tmp_path)
    small.until(run.workers, 60, run)
    run.interrupt()
    assert run.wait(5) == 130
    assert run.output == "vaerdict: interrupted; finished parts are kept, the same command goes on from there\n"
    small.until(lambda: not run.members(), 10, "Ray's processes to end")

    troubled.calm()
    command = ("sweep", "grid.yaml", "--out", "out", "--retry-failed", "true")
    assert server.run(*command, cwd=tmp_path) == (0, "8 units: 8 done (1 now), 0 failed\n")
    small.assert_same(out, tmp_path / "whole")


def test_without_ray_a_sentence_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    grid = small.write_grid(tmp_path / "grid.yaml", models=small.write_models(tmp_path, 1))
    with pytest.raises(SystemExit) as end:
        main(["sweep", str(grid), "--out", str(tmp_path / "out"), *RAY])
    assert end.value.code == 2
    assert "expected ray, by `pip install 'vaerdict[ray]'`, got none" in capsys.readouterr().err
