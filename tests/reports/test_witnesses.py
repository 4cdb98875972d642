from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.reports import runs
from vaerdict.reports import build_report
from vaerdict.reports.witnesses import check_witnesses
from vaerdict.results import frame, write_part

NAME = "lipschitz-3.npz"


def damage(run: Path, change: Callable[[dict[str, np.ndarray]], None]) -> None:
    path = run / "witnesses" / NAME
    with np.load(path) as held:
        arrays = dict(held)
    change(arrays)
    np.savez(path, **arrays)


def too_far(arrays: dict[str, np.ndarray]) -> None:
    arrays["adversarial"] = arrays["image"] + (1 + 1e-4) * (arrays["adversarial"] - arrays["image"])


def not_finite(arrays: dict[str, np.ndarray]) -> None:
    arrays["adversarial_reconstruction"][0, 0, 0] = np.nan


def other_shape(arrays: dict[str, np.ndarray]) -> None:
    arrays["reconstruction"] = arrays["reconstruction"][:, :4]


def absent(arrays: dict[str, np.ndarray]) -> None:
    del arrays["adversarial"]


@pytest.mark.parametrize("change", [too_far, not_finite, other_shape, absent])
def test_a_damaged_witness_is_named_and_nothing_is_written(
    tmp_path: Path, change: Callable[[dict[str, np.ndarray]], None]
) -> None:
    run = runs.write_run(tmp_path, runs.attacks("lipschitz")[:5])
    damage(run, change)
    with pytest.raises(ValueError, match=f"witness witnesses/{NAME}: expected"):
        build_report(run)
    assert not (run / "report").exists()


@pytest.mark.parametrize("content", [b"", b"not a zip file"])
def test_a_witness_that_is_no_archive_is_named(tmp_path: Path, content: bytes) -> None:
    run = runs.write_run(tmp_path, runs.attacks("lipschitz")[:5])
    (run / "witnesses" / NAME).write_bytes(content)
    with pytest.raises(ValueError, match=NAME):
        build_report(run)


def test_a_missing_witness_is_named(tmp_path: Path) -> None:
    run = runs.write_run(tmp_path, runs.attacks("lipschitz")[:5])
    (run / "witnesses" / NAME).unlink()
    with pytest.raises(ValueError, match=f"{NAME}: expected a readable file"):
        build_report(run)


def test_a_witness_outside_the_run_is_refused(tmp_path: Path) -> None:
    rows = [replace(row, witness="../secret.npz") for row in runs.attacks("lipschitz")[:1]]
    write_part(tmp_path / "run" / "results", rows, "x")
    with pytest.raises(ValueError, match="expected a path below the run's folder"):
        build_report(tmp_path / "run")


def test_an_unbroken_sample_s_witness_is_held_to_the_radius(tmp_path: Path) -> None:
    rows = runs.with_witnesses(tmp_path, runs.attacks("lipschitz", unbroken=1)[:1])
    (witness,) = check_witnesses(tmp_path, frame(rows)).values()
    assert witness.distance == pytest.approx(4.0, rel=1e-5)
    with pytest.raises(ValueError, match=r"expected a distance <= 3\.9,"):
        check_witnesses(tmp_path, frame([replace(rows[0], rho=3.9)]))


def test_the_distance_is_in_the_row_s_norm(tmp_path: Path) -> None:
    (row,) = runs.with_witnesses(tmp_path, runs.attacks("lipschitz")[:1])
    (witness,) = check_witnesses(tmp_path, frame([replace(row, norm="inf")])).values()
    assert witness.distance == pytest.approx(np.abs(witness.adversarial - witness.image).max(), rel=1e-6)


def test_cited_witnesses_are_copied(full_run: Path) -> None:
    copies = sorted(path.name for path in (full_run / "report" / "witnesses").glob("*.npz"))
    assert copies == sorted(path.name for path in (full_run / "witnesses").glob("*.npz"))
    assert (full_run / "report" / "witnesses" / NAME).read_bytes() == (full_run / "witnesses" / NAME).read_bytes()
