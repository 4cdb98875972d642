"""A run is written, checked, then changed in one place after the other."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tests.checker.runs import SHAPE, edit_json, images, small_vae, write_run, write_unit
from vaerdict.certify import certify
from vaerdict.certify.export import export_model
from vaerdict.checker import Report, check_run
from vaerdict.cli import main
from vaerdict.models import wrap
from vaerdict.options import CertifyOptions
from vaerdict.results import DamagedParts, Row, load, write_part
from vaerdict.vae import fingerprint


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Row]]:
    torch.manual_seed(0)
    run = tmp_path_factory.mktemp("written")
    return run, write_run(run, small_vae(), methods=("barrett", "isotropic", "shift"), attacked=True)


@pytest.fixture
def run(written: tuple[Path, list[Row]], tmp_path: Path) -> Path:
    return Path(shutil.copytree(written[0], tmp_path / "run"))


def failures(report: Report) -> list[str]:
    return [reason for one in report.failed for reason in one.notes.failures]


def test_a_run_passes_its_check(written: tuple[Path, list[Row]]) -> None:
    lines = str(check_run(written[0])).splitlines()
    # An attack's margin ends so close to the level that draws of one's own may leave it open, on some machines.
    left_open = [line for line in lines if "own draws leave open" in line]
    assert [line for line in lines if line not in left_open] == [
        f"10 checked, 0 failed ({9 + len(left_open)} in part)",
        "taken as stated in 9: the bounds on rounding",
        "taken as stated in 3: the Monte-Carlo counts",
        "taken as stated in 3: the divergence of the moved posterior from the draws",
    ]


@pytest.mark.parametrize(
    ("family", "spread"),
    [("plain", "bounded"), ("lipschitz_conv", "constant"), ("conv", "bounded")],
)
def test_every_family_passes(tmp_path: Path, family: str, spread: str) -> None:
    write_run(tmp_path, small_vae(family=family, spread=spread), r=1.5, methods=("barrett", "isotropic"))
    report = check_run(tmp_path)
    assert not report.failed, str(report)
    assert str(report).startswith(("6 checked, 0 failed (6 in part)", "6 checked, 0 failed (3 in part)"))


@pytest.mark.parametrize("spread", ["constant", "bounded"])
def test_every_method_passes(tmp_path: Path, spread: str) -> None:
    rows = write_run(tmp_path, small_vae(spread=spread), r=2.5)
    made = {row.method for row in rows if row.status == "ok" and row.kind == "certificate"}
    assert made >= {"reflection", "coupling", *(["seam"] if spread == "constant" else [])}
    report = check_run(tmp_path)
    assert not report.failed, str(report)
    assert all(one.covered for one in report.verdicts)


def test_the_command(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["check", str(run)])
    assert capsys.readouterr().out.startswith("10 checked, 0 failed")
    edit_json(run / "certificates" / "unit.json", lambda held: held["certificates"][0].update(margin="0x1.8p+1"))
    with pytest.raises(SystemExit) as stopped:
        main(["check", str(run)])
    assert stopped.value.code == 1
    out = capsys.readouterr().out
    assert out.startswith("10 checked, 1 failed")
    assert (
        "failed: barrett on sample 0 of random, r 2.5: the exported certificate and the results differ in margin" in out
    )


def test_a_wrong_folder_is_one_sentence(tmp_path: Path, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(run / "certificates")
    for folder, said in ((tmp_path / "nothing", "no .parquet file"), (run, "exported certificates")):
        with pytest.raises(SystemExit) as stopped:
            main(["check", str(folder)])
        assert stopped.value.code == 2
        error = capsys.readouterr().err
        assert said in error
        assert error.count("\n") == 1


def edited_rows(run: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Change the stored rows, the exported certificates staying as they are."""
    rows = load(run / "results")
    rows = rows[rows["unit_key"] == "unit"].replace({np.nan: None}).to_dict("records")
    write_part(run / "results", [Row(**change(row)) for row in rows], "unit")


@pytest.mark.parametrize("field", ["margin", "p", "r", "sample_sha256", "model_sha256", "method", "constants"])
def test_an_edited_row_is_caught(run: Path, field: str) -> None:
    def change(row: dict[str, Any]) -> dict[str, Any]:
        if row["sample_id"] != 1 or row["method"] != "isotropic":
            return row
        value = row[field]
        if field == "constants":
            held = json.loads(value)
            return row | {field: json.dumps({**held, "b": held["b"] * (1 - 2.0**-52)})}
        return row | {field: value * (1 - 2.0**-52) if isinstance(value, float) else f"{value[:-1]}0x"}

    edited_rows(run, change)
    assert any("differ in" in reason and field in reason for reason in failures(check_run(run)))


def test_rows_and_certificates_are_counted(run: Path) -> None:
    edit_json(run / "certificates" / "unit.json", lambda held: held["certificates"].pop())
    assert "8 exported certificates, 9 rows in the results" in failures(check_run(run))


def test_a_damaged_part_is_a_failure(run: Path) -> None:
    (run / "results" / "damaged.parquet").write_bytes(b"PAR1 and no more")
    with pytest.warns(DamagedParts, match=r"skipped 1 of \d+ files"):
        report = check_run(run)
    [failure] = report.failed
    assert failure.about == "file damaged.parquet"


def test_a_missing_export_is_a_failure(run: Path) -> None:
    (run / "certificates" / "unit.json").rename(run / "certificates" / "other.json")
    found = failures(check_run(run))
    assert any("cannot read the exported certificates unit.json" in reason for reason in found)
    assert "9 exported certificates, 0 rows in the results" in found


def model_home(run: Path) -> Path:
    (home,) = (path for path in (run / "certificates").iterdir() if path.is_dir())
    return home


def test_an_edited_weight_is_caught(run: Path) -> None:
    path = model_home(run) / "weights.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert all("the stored model has the fingerprint" in reason for reason in failures(check_run(run)))
    assert len(check_run(run).failed) == 10


def network_edits() -> dict[str, tuple[Callable[[Any], None], str]]:
    def shrink(network: Any) -> None:
        layer = network["maps"]["decoder"]["layers"][1]
        layer["constant"] = (float.fromhex(layer["constant"]) * (1 - 1e-6)).hex()

    def grow(network: Any) -> None:
        layer = network["maps"]["decoder"]["layers"][1]
        layer["text"] = "ReLU()"

    def drop(network: Any) -> None:
        del network["maps"]["mean"]["layers"][-3]

    def swap(network: Any) -> None:
        first, second = (network["maps"]["mean"]["layers"][i] for i in (1, 3))
        second["tensors"], first["tensors"] = first["tensors"], second["tensors"]

    def add(network: Any) -> None:
        layer = {"path": "", "text": "Scale(0.5)", "tensors": {}, "constant": (0.5).hex(), "evidence": ""}
        network["maps"]["decoder"]["layers"].append(layer)

    def rename(network: Any) -> None:
        network["repr"] = network["repr"].replace("std=0.1", "std=0.2")

    return {
        "a layer's constant": (shrink, "claimed constant"),
        "a layer's kind": (grow, "not those that the model prints"),
        "a layer left out": (drop, "not those that the model prints"),
        "another layer's weights": (swap, "with the weights of another"),
        "a layer too many": (add, "a layer that the model does not have"),
        "the print": (rename, "fingerprint"),
    }


@pytest.mark.parametrize("name", network_edits())
def test_an_edited_network_is_caught(run: Path, name: str) -> None:
    edit, said = network_edits()[name]
    edit_json(model_home(run) / "network.json", edit)
    assert any(said in reason for reason in failures(check_run(run))), str(check_run(run))


def change_constant(row: Row, name: str, factor: float) -> Row:
    held = json.loads(row.constants)
    value = held[name]
    changed = [one * factor for one in value] if isinstance(value, list) else value * factor
    return replace(row, constants=json.dumps({**held, name: changed}))


@pytest.mark.parametrize("factor", [1 - 1e-6, 1 + 1e-6])
@pytest.mark.parametrize(
    ("method", "name"), [("isotropic", "a"), ("isotropic", "b"), ("isotropic", "std"), ("barrett", "a")]
)
def test_a_false_constant_is_caught_even_where_both_files_agree(
    tmp_path: Path, written: tuple[Path, list[Row]], method: str, name: str, factor: float
) -> None:
    rows = [row for row in written[1] if row.method == method]
    changed = [change_constant(row, name, factor) for row in rows]
    shutil.copytree(model_home(written[0]), tmp_path / "certificates" / rows[0].model_sha256)
    write_unit(tmp_path, changed)
    assert len(check_run(tmp_path).failed) == len(rows)


@pytest.mark.parametrize("method", ["isotropic", "barrett", "shift"])
def test_a_margin_too_large_is_caught_even_where_both_files_agree(
    tmp_path: Path, written: tuple[Path, list[Row]], method: str
) -> None:
    rows = [row for row in written[1] if row.method == method]
    shutil.copytree(model_home(written[0]), tmp_path / "certificates" / rows[0].model_sha256)
    write_unit(tmp_path, [replace(row, margin=(row.margin or 0.0) * (1 + 1e-6)) for row in rows])
    assert len(check_run(tmp_path).failed) == len(rows)


def test_an_unknown_method_is_not_covered(tmp_path: Path, written: tuple[Path, list[Row]]) -> None:
    rows = [row for row in written[1] if row.method == "isotropic"]
    shutil.copytree(model_home(written[0]), tmp_path / "certificates" / rows[0].model_sha256)
    write_unit(tmp_path, [rows[0], replace(rows[1], method="crystal_ball")])
    lines = str(check_run(tmp_path)).splitlines()
    assert (lines[0], lines[-1]) == ("1 checked, 0 failed (1 in part)", "not covered: 1 by crystal_ball")


@pytest.mark.parametrize("changes", [{"margin": float("inf")}, {"margin": -1.0}, {"norm": "inf"}, {"p": 0.3}])
def test_senseless_claims_fail(tmp_path: Path, written: tuple[Path, list[Row]], changes: dict[str, Any]) -> None:
    row = next(row for row in written[1] if row.method == "isotropic")
    shutil.copytree(model_home(written[0]), tmp_path / "certificates" / row.model_sha256)
    write_unit(tmp_path, [replace(row, **changes)])
    assert len(check_run(tmp_path).failed) == 1


class OwnCode(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(16, 2)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return self.linear(values.flatten(1))


def test_a_model_with_code_of_its_own_is_checked_in_part(tmp_path: Path) -> None:
    decoder = nn.Sequential(nn.Linear(2, 16), nn.Unflatten(1, SHAPE), nn.AvgPool2d(1))
    vae = wrap(OwnCode(), decoder, input_shape=SHAPE, latent_shape=(2,), spread="constant", std=0.1, name="own").eval()
    export_model(tmp_path, vae)
    write_unit(tmp_path, certify(vae, images(), r=2.0, options=CertifyOptions(methods=("isotropic",), local=False)))
    report = check_run(tmp_path)
    assert not report.failed, str(report)
    assert str(report).splitlines()[0] == "3 checked, 0 failed (3 in part)"
    assert any("`b` (the order of its layers is not in the print)" in line for line in str(report).splitlines())
    assert any("decoder.2" in line for line in str(report).splitlines())
    assert fingerprint(vae) == model_home(tmp_path).name
