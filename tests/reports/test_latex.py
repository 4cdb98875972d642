import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.reports import runs
from vaerdict.reports import build_report

DOCUMENT = r"""\documentclass{article}
\usepackage{booktabs}
\input{numbers.tex}
\begin{document}
Half of the images: \vaerdictLipschitzNumericalCertifiedMedian{} to \vaerdictLipschitzAttackedMedian.
%s
\end{document}
"""


@pytest.mark.skipif(not shutil.which("pdflatex"), reason="needs pdflatex (texlive-latex-base)")
def test_every_table_and_macro_compiles(full_report: Path, tmp_path: Path) -> None:
    tables = sorted((full_report / "tables").glob("*.tex"))
    body = "\n\n".join(rf"\noindent\input{{tables/{path.stem}.tex}}" for path in tables)
    shutil.copytree(full_report, tmp_path / "paper", ignore=shutil.ignore_patterns("witnesses"))
    (tmp_path / "paper" / "main.tex").write_text(DOCUMENT % body)
    done = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "main.tex"],
        cwd=tmp_path / "paper", capture_output=True, text=True, errors="replace", timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:]
    assert len(tables) == 7
    if shutil.which("pdftotext"):
        text = subprocess.run(["pdftotext", "main.pdf", "-"], cwd=tmp_path / "paper", capture_output=True, text=True)
        macros = (full_report / "numbers.tex").read_text()
        median = re.search(r"LipschitzNumericalCertifiedMedian\}\{([\d.]+)\}", macros)
        assert median
        assert f"Half of the images: {median[1]} to" in text.stdout


def test_tables_are_bare_booktabs(tmp_path: Path) -> None:
    report = build_report(runs.write_run(tmp_path, runs.certificates("plain_vae")[:3])).parent
    lines = (report / "tables" / "margins.tex").read_text().splitlines()
    assert lines[0].startswith(r"\begin{tabular}")
    assert lines[-1] == r"\end{tabular}"
    assert {r"\toprule", r"\midrule", r"\bottomrule"} <= set(lines)
    assert any(line.startswith(r"plain\_vae & ") for line in lines)
