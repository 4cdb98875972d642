"""What a sweep tells while it runs: a bar for people, lines of JSON for programs."""

import io
import json
import time
from typing import Any

import pytest

from vaerdict.sweeps import progress as module
from vaerdict.sweeps.plan import Job
from vaerdict.sweeps.progress import Progress
from vaerdict.sweeps.worker import Outcome

JOB = Job("k" * 64, 0, 2, "attack: one")


def told(log_json: bool = True, **before: int) -> Progress:
    return Progress("sweep", **{"units": 10, "done": 3, "failed": 1, **before}, log_json=log_json)


def test_units_are_counted_by_what_became_of_them() -> None:
    progress = told()
    assert (progress.done, progress.failed, progress.remaining) == (3, 1, 6)
    for status in ("done", "failed", "done"):
        progress.tell(Outcome(JOB, status, 0.5))
    assert (progress.done, progress.failed, progress.remaining) == (5, 2, 3)
    progress.close()


def test_lines_of_json_say_all(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    progress = told()
    for status, reason in (("done", ""), ("failed", "ValueError: no\n\x00 'é\"")):
        now[0] += 2.0
        progress.tell(Outcome(JOB, status, 1.25, reason))  # type: ignore[arg-type]
    progress.close()
    said = capsys.readouterr()
    first, second = (json.loads(line) for line in said.out.splitlines())
    assert said.err == ""
    assert abs(first.pop("time") - time.time()) < 60
    assert first == {
        "unit": JOB.key, "group": "attack: one", "status": "done", "reason": "", "seconds": 1.25, "done": 4,
        "failed": 1, "remaining": 5, "units_per_second": 0.5, "seconds_left": 10.0,
    }  # fmt: skip
    assert (second["status"], second["reason"]) == ("failed", "ValueError: no\n\x00 'é\"")
    assert (second["done"], second["failed"], second["remaining"], second["seconds_left"]) == (4, 2, 4, 8.0)


def test_no_time_at_all_is_no_division_by_zero(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module.time, "monotonic", lambda: 1.0)
    told().tell(Outcome(JOB, "done", 0.0))
    assert json.loads(capsys.readouterr().out)["seconds_left"] == 0.0


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_bar_has_counts_rate_and_end(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    screen, real = Terminal(), module.tqdm

    def bar(**facts: Any) -> Any:
        return real(**{**facts, "file": screen, "mininterval": 0, "ncols": 120})

    monkeypatch.setattr(module, "tqdm", bar)
    progress = told(log_json=False)
    for status in ("done", "failed"):
        progress.tell(Outcome(JOB, status, 0.1))  # type: ignore[arg-type]
    progress.close()
    last = screen.getvalue().split("\r")[-1]
    assert "sweep:  60%" in last
    assert "6/10" in last
    assert "done=4, failed=2, left=4" in last
    assert "unit" in last
    assert capsys.readouterr().out == ""


def test_where_nobody_watches_there_is_no_bar(capsys: pytest.CaptureFixture[str]) -> None:
    progress = told(log_json=False)
    progress.tell(Outcome(JOB, "done", 0.1))
    progress.close()
    said = capsys.readouterr()
    assert (said.out, said.err) == ("", "")
