import hashlib
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.reports import runs
from vaerdict.reports import build_report
from vaerdict.results import Contradiction, Row


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_everything_is_there(full_report: Path) -> None:
    names = {name for name in contents(full_report) if not name.startswith("witnesses/")}
    tables = ("margins", "margins-numerical", "margins-statistical", "methods", "attacks", "estimates", "unsupported")
    assert names == {
        "report.html", "numbers.tex", "checklist.md", "provenance.json",
        *(f"tables/{name}.{kind}" for name in tables for kind in ("csv", "tex")),
        *(f"figures/{name}.{kind}" for name in ("sandwich", "tightness", "pictures") for kind in ("pdf", "png")),
    }  # fmt: skip


def test_stale_files_of_an_older_report_go_and_foreign_files_stay(tmp_path: Path) -> None:
    both = runs.certificates("lipschitz")[:4] + runs.attacks("lipschitz")[:4]
    out = build_report(runs.write_run(tmp_path / "one", both), tmp_path / "out").parent
    (out / "tables" / "mine.tex").write_text("typed by the author")
    assert (out / "figures" / "tightness.pdf").exists()
    build_report(runs.write_run(tmp_path / "two", both[:4]), out)
    assert {path.name for path in (out / "figures").iterdir()} == {"sandwich.pdf", "sandwich.png"}
    assert {path.name for path in (out / "tables").glob("*.csv")} == {"margins.csv", "methods.csv"}
    assert (out / "tables" / "mine.tex").exists()
    assert not list((out / "witnesses").glob("*"))


def test_a_contradiction_stops_the_report(tmp_path: Path) -> None:
    rows = [replace(row, margin=9.0) for row in runs.certificates("lipschitz")[:2]] + runs.attacks("lipschitz")[:2]
    with pytest.raises(Contradiction, match="2 certificates are contradicted"):
        build_report(runs.write_run(tmp_path, rows))
    assert not (tmp_path / "report").exists()


def test_a_run_without_results_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="expected results below"):
        build_report(tmp_path)


def test_the_run_s_own_folder_is_no_place_for_the_report(full_run: Path) -> None:
    with pytest.raises(ValueError, match="expected a folder of its own"):
        build_report(full_run, full_run)


@pytest.mark.parametrize(
    ("rows", "said", "figures"),
    [
        (runs.unsupported("plain_vae", "shift", "no constant")[:3], "holds no certified margin", set()),
        (runs.certificates("lipschitz")[:3], "No attack searched for the margin.", {"sandwich"}),
        (
            runs.certificates("lipschitz")[:3] + runs.fixed("lipschitz", "pgd-damage", 0.5)[:3],
            "No attack searched for the margin.",
            {"sandwich"},
        ),
        (runs.attacks("lipschitz")[:3], "No certificate was obtained.", {"sandwich", "pictures"}),
        (runs.attacks("lipschitz", unbroken=3)[:3], "broke fewer than half of the 3 images", {"sandwich"}),
        (runs.estimates("lipschitz")[:3], "holds no certified margin", set()),
        (
            [replace(row, margin=0.0) for row in runs.certificates("lipschitz")[:3]] + runs.attacks("lipschitz")[:3],
            "the sandwich is open",
            {"sandwich", "tightness", "pictures"},
        ),
    ],
    ids=["unsupported", "certificates", "fixed", "attacks", "unbroken", "estimates", "zeros"],
)
def test_half_a_run_makes_a_report_that_says_so(tmp_path: Path, rows: list[Row], said: str, figures: set[str]) -> None:
    page = build_report(runs.write_run(tmp_path, rows))
    assert said in " ".join(page.read_text().split())
    assert {path.stem for path in (page.parent / "figures").glob("*.pdf")} == figures


def test_provenance_traces_parts_weights_and_files(full_run: Path, full_report: Path) -> None:
    facts = json.loads((full_report / "provenance.json").read_text())
    assert facts["models"] == runs.SHA
    parts = {path.relative_to(full_run).as_posix(): path for path in (full_run / "results").glob("*.parquet")}
    assert facts["parts"] == {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in parts.items()}
    written = contents(full_report)
    assert set(facts["files"]) == set(written) - {"provenance.json"}
    assert all(hashlib.sha256(written[name]).hexdigest() == digest for name, digest in facts["files"].items())


def test_the_environment_that_the_run_recorded_is_used(tmp_path: Path) -> None:
    run = runs.write_run(tmp_path, runs.certificates("lipschitz")[:2])
    (run / "environment.json").write_text(
        json.dumps({"platform": "another machine", "cores": 96, "processor": "CPU @ 2.20GHz"})
    )
    build_report(run)
    facts = json.loads((run / "report" / "provenance.json").read_text())
    assert facts["environment"]["platform"] == "another machine"
    assert facts["environment_of"] == "the run"
    assert "CPU @ 2.20GHz, 96 cores, another machine;" in (run / "report" / "checklist.md").read_text()


def test_overlapping_units_count_images_once(tmp_path: Path) -> None:
    rows = [replace(row, seed=seed) for row in runs.certificates("lipschitz")[:5] for seed in (0, 1)]
    report = build_report(runs.write_run(tmp_path, rows)).parent
    assert ",100.0,5,0,0,0.0300" in (report / "tables" / "methods.csv").read_text()


def test_the_checklist_says_what_brackets_mean(full_report: Path) -> None:
    text = (full_report / "checklist.md").read_text()
    assert "not a confidence interval" in text
    assert "0.999" in text
    assert "lipschitz: 1, plain_vae: 1" in text


def test_another_process_gives_the_same_bytes_without_torch(full_run: Path, full_report: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from vaerdict.reports import build_report, summary; "
        f"build_report(Path({str(full_run)!r}), Path({str(tmp_path / 'out')!r})); "
        "found = [name for name in sys.modules if name.split('.')[0] == 'torch' or name.startswith("
        "('vaerdict.certify', 'vaerdict.attacks', 'vaerdict.models', 'matplotlib.pyplot'))]; "
        "print(found); sys.exit(bool(found))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert contents(tmp_path / "out") == contents(full_report)
