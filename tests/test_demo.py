"""The demo, small, from training to the report; and the examples of the documentation."""

import subprocess
import sys
from pathlib import Path

import pytest

from vaerdict.demo import run_demo
from vaerdict.options import DemoOptions
from vaerdict.results import load, sandwich

ROOT = Path(__file__).parents[1]


def test_the_demo_gives_a_sandwich_for_both_models(tmp_path: Path) -> None:
    report, summary = run_demo(DemoOptions(out=str(tmp_path), images=3, epochs=8))
    assert report.is_file()
    assert "lipschitz" in summary
    assert "plain" in summary
    pairs = sandwich(load(tmp_path / "results"))
    assert len(pairs) == 12
    assert (pairs.loc[pairs["strength"] == "statistical", "certified"] > 0).all()
    assert (pairs.loc[pairs["model"] == "lipschitz", "certified"] > 0).all()
    assert (pairs["certified"] <= pairs["attacked"]).all()
    assert (pairs["attacked"] < 8).all()


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.py")), ids=lambda path: path.name)
def test_examples_run(path: Path) -> None:
    said = subprocess.run([sys.executable, path], capture_output=True, text=True, check=True).stdout
    lines = [line.split() for line in said.splitlines() if "statistical" in line]
    assert len(lines) == 5
    assert all(0 < float(line[3]) <= float(line[5]) for line in lines)  # certified and attacked


def test_the_readme_shows_the_example() -> None:
    shown = (ROOT / "README.md").read_text().partition("```python\n")[2].partition("```")[0]
    example = (ROOT / "examples" / "own_model.py").read_text()
    assert [line for line in shown.splitlines() if line and line not in example.splitlines()] == []
