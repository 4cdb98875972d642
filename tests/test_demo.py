"""The demo, small, from training to the report; and the examples of the documentation."""

import re
import subprocess
import sys
from pathlib import Path

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
    assert len(pairs) == 18
    assert (pairs.loc[pairs["strength"] == "statistical", "certified"] > 0).all()
    assert (pairs.loc[pairs["model"] == "lipschitz", "certified"] > 0).all()
    assert set(pairs["strength"]) == {"proved", "numerical", "statistical"}
    assert (pairs["certified"] <= pairs["attacked"]).all()
    assert (pairs["attacked"] < 8).all()


def run_example(name: str) -> str:
    return subprocess.run([sys.executable, ROOT / "examples" / name], capture_output=True, text=True, check=True).stdout


def test_every_example_is_tested() -> None:
    assert {path.name for path in (ROOT / "examples").glob("*.py")} == {"own_model.py", "lipschitz_constants.py"}


def test_the_example_of_constants_shows_them_in_order() -> None:
    said = run_example("lipschitz_constants.py")
    tighter, lower = (float(re.search(rf"{name} +([0-9.e-]+)", said)[1]) for name in ("tighter", "at least"))  # type: ignore[index]
    product = float(re.search(r"product ([0-9.e-]+)", said)[1])  # type: ignore[index]
    assert 0 < lower <= tighter <= product


def test_the_example_with_an_own_model_runs() -> None:
    said = run_example("own_model.py")
    lines = [line.split() for line in said.splitlines() if "statistical" in line]
    assert len(lines) == 5
    assert all(0 < float(line[3]) <= float(line[5]) for line in lines)  # certified and attacked


def test_the_readme_shows_the_example() -> None:
    shown = (ROOT / "README.md").read_text().partition("```python\n")[2].partition("```")[0]
    example = (ROOT / "examples" / "own_model.py").read_text()
    assert [line for line in shown.splitlines() if line and line not in example.splitlines()] == []
