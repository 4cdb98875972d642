"""The report says which code made its rows, which files it left out, and what failed."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from tests.reports import runs
from vaerdict.reports import build_report, table_unsupported
from vaerdict.reports.provenance import checklist, provenance
from vaerdict.results import DamagedParts, Row, frame, load


def line(text: str, name: str) -> str:
    (found,) = (one for one in text.splitlines() if one.startswith(f"- **{name}**"))
    return found


def test_the_code_of_the_rows_is_told(tmp_path: Path) -> None:
    rows = runs.certificates("lipschitz")[:3]
    facts = provenance(tmp_path, frame([replace(row, code="0.1.0 4b01986") for row in rows]))
    assert facts["code"] == {"0.1.0 4b01986": 3}
    assert line(checklist(facts), "Code") == "- **Code**: 0.1.0 4b01986."


def test_rows_of_different_code_are_told_apart_and_counted(tmp_path: Path) -> None:
    codes = ["0.1.0 bbbbbbb", "0.1.0 aaaaaaa+changes", "0.1.0 bbbbbbb", ""]
    rows = [replace(row, code=code) for row, code in zip(runs.certificates("lipschitz"), codes, strict=False)]
    facts = provenance(tmp_path, frame(rows))
    assert line(checklist(facts), "Code") == (
        "- **Code**: several versions, rows were made by different code: 0.1.0 aaaaaaa+changes (1 rows), "
        "0.1.0 bbbbbbb (2 rows), not recorded (1 rows)."
    )
    assert provenance(tmp_path, frame(rows[:2]).assign(code=None))["code"] == {"not recorded": 2}


def test_skipped_files_are_counted_and_named(tmp_path: Path) -> None:
    run = runs.write_run(tmp_path, runs.certificates("lipschitz")[:3] + runs.estimates("lipschitz")[:3])
    (run / "results" / "damaged.parquet").write_bytes(b"half a part")
    with pytest.warns(DamagedParts, match="skipped 1 of 3 files"):
        report = build_report(run).parent
    facts = json.loads((report / "provenance.json").read_text())
    assert sorted(facts["parts"]) == ["results/lipschitz-barrett.parquet", "results/lipschitz-first_order.parquet"]
    assert list(facts["skipped"]) == ["results/damaged.parquet"]
    assert facts["skipped"]["results/damaged.parquet"].startswith("cannot be read: ")
    said = line((report / "checklist.md").read_text(), "Files")
    assert said == "- **Files**: 2 parts read, 1 files skipped that are no parts (`provenance.json` says why)."


def test_where_all_files_are_parts_none_is_skipped(tmp_path: Path) -> None:
    run = runs.write_run(tmp_path, runs.certificates("lipschitz")[:3])
    facts = provenance(run, load(run / "results"))
    assert facts["skipped"] == {}
    assert line(checklist(facts), "Files") == "- **Files**: 1 parts read, none skipped."


def failed(row: Row) -> Row:
    """A row that failed, with numbers that must never be shown."""
    error = {"status": "error", "reason": "RuntimeError: out of memory"}
    return replace(row, **error, margin=77.7, damage=77.7 if row.fixed_radius else None)


def test_what_failed_is_counted_by_method_and_shown_nowhere_as_a_number(tmp_path: Path) -> None:
    good = runs.certificates("lipschitz")[:9] + runs.attacks("lipschitz")[:9]
    bad = [failed(row) for row in runs.certificates("lipschitz", "isotropic")[:5] + runs.attacks("lipschitz")[9:12]]
    bad += [failed(row) for row in runs.fixed("lipschitz", "pgd-damage", 0.5)[:2] + runs.estimates("lipschitz")[:4]]
    table = table_unsupported(frame(good + bad)).set_index("method")
    assert table["samples"].to_dict() == {"bisection-damage": 3, "first_order": 4, "isotropic": 5, "pgd-damage": 2}
    assert set(table["reason"]) == {"RuntimeError: out of memory"}
    assert set(table["status"]) == {"error"}

    with_failures = build_report(runs.write_run(tmp_path / "with", good + bad)).parent
    without = build_report(runs.write_run(tmp_path / "without", good)).parent
    shown = {path.relative_to(with_failures) for path in with_failures.rglob("*.csv")}
    assert {path.name for path in shown} == {"margins.csv", "methods.csv", "unsupported.csv"}
    assert (with_failures / "tables/margins.csv").read_text() == (without / "tables/margins.csv").read_text()
    assert (with_failures / "numbers.tex").read_text() == (without / "numbers.tex").read_text()
    for path in with_failures.rglob("*"):
        if path.suffix in (".csv", ".tex", ".html", ".md"):
            drawn = re.compile("<svg.*?</svg>", re.DOTALL)  # coordinates may have any digits
            assert "77.7" not in drawn.sub("", path.read_text()), path
