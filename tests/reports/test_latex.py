import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from tests.reports import runs
from vaerdict.reports import build_report

DOCUMENT = r"""\documentclass{article}
\setlength{\textwidth}{487pt}
\usepackage{booktabs}
\input{numbers.tex}
\begin{document}
Half of the images: \vaerdictLipschitzNumericalCertifiedMedian{} to \vaerdictLipschitzAttackedMedian.

\small
%s
\end{document}
"""


def compiled(report: Path, paper: Path) -> subprocess.CompletedProcess[str]:
    """Compile every table of a report, in a copy of it, at the width of two columns."""
    tables = sorted((report / "tables").glob("*.tex"))
    body = "\n\n".join(rf"\noindent\input{{tables/{path.stem}.tex}}" for path in tables)
    shutil.copytree(report, paper, ignore=shutil.ignore_patterns("witnesses"))
    (paper / "main.tex").write_text(DOCUMENT % body)
    return subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "main.tex"],
        cwd=paper, capture_output=True, text=True, errors="replace", timeout=120, check=False,
    )  # fmt: skip


@pytest.mark.skipif(not shutil.which("pdflatex"), reason="needs pdflatex (texlive-latex-base)")
def test_every_table_and_macro_compiles_and_fits(full_report: Path, tmp_path: Path) -> None:
    done = compiled(full_report, tmp_path / "paper")
    assert done.returncode == 0, done.stdout[-2000:]
    assert "Overfull" not in done.stdout
    assert len(list((full_report / "tables").glob("*.tex"))) == 7
    if shutil.which("pdftotext"):
        text = subprocess.run(["pdftotext", "main.pdf", "-"], cwd=tmp_path / "paper", capture_output=True, text=True)
        macros = (full_report / "numbers.tex").read_text()
        median = re.search(r"LipschitzNumericalCertifiedMedian\}\{([\d.]+)\}", macros)
        assert median
        assert f"Half of the images: {median[1]} to" in text.stdout


@pytest.mark.skipif(not shutil.which("pdflatex"), reason="needs pdflatex (texlive-latex-base)")
def test_three_strengths_two_norms_and_large_costs_fit(tmp_path: Path) -> None:
    rows = runs.full_rows()
    rows += [row for name in runs.SHA for row in runs.certificates(name, "isotropic-float64", 0.7, "proved")]
    rows += [replace(row, norm="inf") for row in runs.attacks("plain_vae")]
    rows = [replace(row, n_forward=20300) if row.kind == "attack" else row for row in rows]
    report = build_report(runs.write_run(tmp_path, rows)).parent
    log = compiled(report, tmp_path / "paper").stdout
    assert "Overfull" not in log
    assert "& 20300 &" in (report / "tables" / "attacks.tex").read_text()


def test_tables_are_bare_booktabs(tmp_path: Path) -> None:
    report = build_report(runs.write_run(tmp_path, runs.certificates("plain_vae")[:3])).parent
    lines = (report / "tables" / "margins.tex").read_text().splitlines()
    assert re.match(r"% .*fits 487 pt.* at \\small$", lines[0])
    assert lines[1].startswith(r"\begin{tabular}")
    assert lines[-1] == r"\end{tabular}"
    assert {r"\toprule", r"\midrule", r"\bottomrule"} <= set(lines)
    assert any(line.startswith(r"plain\_vae & ") for line in lines)
