"""Runs forged in both files at once: rows, certificates and the list of layers agree, and are false."""

import json
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.checker.runs import SHAPE, edit_json, images, scaling_vae, small_vae, write_run, write_unit
from vaerdict.certify import certify, margin_isotropic
from vaerdict.certify.export import export_model
from vaerdict.checker import Report, check_run
from vaerdict.checker.model import CONSTANT
from vaerdict.models import GaussianVAE, wrap
from vaerdict.options import CertifyOptions, Norm
from vaerdict.results import Row


@cache
def certified(*methods: str) -> tuple[GaussianVAE, list[Row]]:
    vae = scaling_vae()
    return vae, certify(vae, images(), r=2.5, options=CertifyOptions(samples=200, local=False, methods=methods))


def honest(run: Path, *methods: str) -> list[Row]:
    vae, rows = certified(*methods)
    export_model(run, vae)
    write_unit(run, rows)
    return rows


def failures(report: Report) -> list[str]:
    return [reason for one in report.failed for reason in one.notes.failures]


def model_home(run: Path) -> Path:
    (home,) = (path for path in (run / "certificates").iterdir() if path.is_dir())
    return home


def forge(run: Path, rows: list[Row], margin: float, **constants: Any) -> list[str]:
    """Write rows with another margin and other constants to both files, and give the failures; None leaves one out."""
    held = [{**json.loads(row.constants), **constants} for row in rows]
    texts = [json.dumps({name: value for name, value in one.items() if value is not None}) for one in held]
    write_unit(run, [replace(row, margin=margin, constants=text) for row, text in zip(rows, texts, strict=True)])
    report = check_run(run)
    assert len(report.failed) == len(rows), str(report)
    return failures(report)


def stretched_vae(kind: str) -> GaussianVAE:
    """A mean ten times longer than its last layer says."""
    first: dict[str, nn.Module] = {
        "twice": nn.Sequential(nn.Flatten(), nn.Linear(16, 16, bias=False), nn.Linear(16, 16, bias=False)),
        "batch": nn.Sequential(nn.Flatten(), nn.BatchNorm1d(16)),
        "convolution": nn.Sequential(nn.Conv2d(1, 1, 3, padding=1, bias=False), nn.Flatten()),
    }
    last, decoder = nn.Linear(16, 4, bias=False), nn.Linear(4, 16, bias=False)
    weights = [one for one in first[kind].parameters() if one.ndim != 2]
    for weight in weights:
        weight.data.fill_(10.0 if kind == "batch" else 1.0)
    if kind == "twice":
        for layer, factor in zip(list(first[kind].children())[1:], (1.0, 10.0), strict=True):
            layer.weight.data = factor * torch.eye(16)  # type: ignore[union-attr]
    last.weight.data, decoder.weight.data = torch.eye(4, 16), 2 * torch.eye(16, 4)
    return wrap(
        nn.Sequential(first[kind], last).eval(), nn.Sequential(decoder, nn.Unflatten(1, SHAPE)),
        input_shape=SHAPE, latent_shape=(4,), spread="constant", std=0.25, name=kind,
    ).eval()  # fmt: skip


def list_twice(network: Any) -> None:
    layers = network["maps"]["mean"]["layers"]
    place = next(i for i, one in enumerate(layers) if one["path"] == "encoder.0.1")
    layers[place + 1] = dict(layers[place])


def leave_out(network: Any) -> None:
    for one in network["maps"]["mean"]["layers"]:
        if one["text"].startswith("BatchNorm"):
            del one["tensors"]["weight"]
            one["constant"] = (1.0).hex()


def shrink_image(network: Any) -> None:
    network["input_shape"] = network["maps"]["mean"]["input_shape"] = [1, 1, 1]


def list_nothing(network: Any) -> None:
    network["maps"] = {role: {"layers": None, "reason": ""} for role in network["maps"]}


@pytest.mark.parametrize(
    ("kind", "edit"),
    [
        ("twice", list_twice), ("batch", leave_out), ("convolution", shrink_image), ("twice", list_nothing),
        ("batch", list_nothing), ("convolution", list_nothing),
    ],
)  # fmt: skip
def test_constants_come_from_the_print_alone(tmp_path: Path, kind: str, edit: Callable[[Any], None]) -> None:
    """A list that hides the longer layer proves nothing, even where margin and constants agree with it."""
    rows = write_run(tmp_path, stretched_vae(kind), methods=("isotropic",))
    assert not check_run(tmp_path).failed
    edit_json(model_home(tmp_path) / "network.json", edit)
    margin = margin_isotropic(latent=4, sigma=0.25, a=2.0, b=1.0, r=2.5) * 0.99
    found = forge(tmp_path, rows, margin, b=1.0, shift=None)
    assert any("`b` is stated as 1.0, and must be at least" in reason for reason in found), found


def test_latents_are_counted_in_the_print(tmp_path: Path) -> None:
    rows = honest(tmp_path, "isotropic")
    edit_json(model_home(tmp_path) / "network.json", lambda network: network.update(latent=1))
    margin = margin_isotropic(latent=1, sigma=0.25, a=2.0, b=3.0, r=2.5) * 0.99
    assert "the model has 4" in forge(tmp_path, rows, margin, std=[0.25], shift=None)[0]


@pytest.mark.parametrize("norm", ["inf", "2"])
def test_pixels_are_counted_in_the_print(tmp_path: Path, norm: Norm) -> None:
    options = CertifyOptions(samples=200, local=False, norm=norm, methods=("isotropic", "reflection"))
    vae = scaling_vae()
    rows = certify(vae, images(), r=2.5, options=options, dataset="inf")
    export_model(tmp_path, vae)
    write_unit(tmp_path, rows)
    assert not check_run(tmp_path).failed, str(check_run(tmp_path))
    edit_json(model_home(tmp_path) / "network.json", lambda network: network.update(input_shape=[1, 1, 1]))
    margin = rows[0].margin
    assert margin is not None
    forge(tmp_path, rows, margin * (4 if norm == "inf" else 1.001), shift=None)


def test_a_moving_spread_cannot_be_listed_as_constant(tmp_path: Path) -> None:
    rows = write_run(tmp_path, small_vae(spread="bounded"), methods=("isotropic",))
    edit_json(model_home(tmp_path) / "network.json", lambda network: network["maps"].update(std=CONSTANT))
    assert rows[0].margin is not None
    assert "std_moved" in forge(tmp_path, rows[:1], rows[0].margin, std_moved=None)[0]


@pytest.mark.parametrize("method", ["isotropic", "reflection", "seam", "coordinate", "coupling", "shift"])
def test_left_out_roundings_fail(tmp_path: Path, method: str) -> None:
    rows = honest(tmp_path, method)
    assert not check_run(tmp_path).failed
    assert rows[0].margin is not None
    assert "mean_rounding" in forge(tmp_path, rows[:1], rows[0].margin / 2, mean_rounding=None)[0]


RELABELLED: list[tuple[str, dict[str, Any]]] = [
    *[(method, {"strength": "proved"}) for method in ("barrett", "coordinate", "seam", "shift", "coupling")],
    ("isotropic", {"strength": "statistical"}), ("shift", {"strength": "numerical"}),
    ("isotropic", {"confidence": 0.999}), ("shift", {"confidence": None}), ("shift", {"confidence": 0.5}),
    ("shift", {"confidence": -5.0}), ("coupling", {"confidence": 1.0}), ("shift", {"reconstruction": "mean"}),
    ("coupling", {"reconstruction": "mean"}), ("isotropic", {"reconstruction": "mean"}),
    ("seam", {"reconstruction": "mean"}), ("seam", {"confidence": 0.999}), ("isotropic", {"noise_std": 0.1}),
    ("barrett", {"reconstruction": "anchored"}), ("barrett", {"norm": "inf"}), ("isotropic", {"margin": None}),
]  # fmt: skip


@pytest.mark.parametrize(("method", "changes"), RELABELLED)
def test_what_a_method_does_not_claim_fails(tmp_path: Path, method: str, changes: dict[str, Any]) -> None:
    rows = honest(tmp_path, method)
    write_unit(tmp_path, [replace(row, **changes) for row in rows])
    (name,) = changes
    found = failures(check_run(tmp_path))
    assert len(found) == len(rows)
    assert all(name in reason for reason in found), found


@pytest.mark.parametrize("more", [{"a_by": "x"}, {"shift_by": "luck"}, {"shift_by": "box"}])
def test_other_evidence_must_be_known(tmp_path: Path, more: dict[str, str]) -> None:
    rows = honest(tmp_path, "isotropic")
    assert {row.strength for row in rows} == {"proved"}
    forge(tmp_path, rows, 1e-6, **more)


def test_a_margin_of_nothing_claims_nothing(tmp_path: Path) -> None:
    rows = honest(tmp_path, "isotropic", "reflection", "coupling")
    nothing = json.dumps(dict.fromkeys(json.loads(rows[0].constants)))
    write_unit(tmp_path, [replace(row, margin=0.0, constants=nothing) for row in rows])
    assert str(check_run(tmp_path)) == f"{len(rows)} checked, 0 failed"


def test_a_claim_made_twice_is_counted_once(tmp_path: Path) -> None:
    rows = honest(tmp_path, "isotropic")
    write_unit(tmp_path, rows + rows)
    write_unit(tmp_path, rows, "another")
    assert str(check_run(tmp_path)).startswith("3 checked, 0 failed")


def test_attacks_without_a_witness_are_not_covered(tmp_path: Path) -> None:
    rows = write_run(tmp_path, scaling_vae(), methods=("isotropic",), attacked=True)
    attacks = [row for row in rows if row.kind == "attack"]
    write_unit(tmp_path, [replace(row, witness=None) for row in attacks], "attacks")
    assert f"not covered: {len(attacks)} by {attacks[0].method} without a witness" in str(check_run(tmp_path))


@pytest.mark.parametrize(
    "edit",
    [
        lambda network: network["maps"].update(std=None), lambda network: network["maps"].update(mean={"layers": [1]}),
        lambda network: network.update(maps=None), lambda network: network.update(repr=3),
        lambda network: network.pop("repr"),
    ],
)  # fmt: skip
def test_broken_lists_are_failures(tmp_path: Path, edit: Callable[[Any], None]) -> None:
    write_run(tmp_path, small_vae(spread="bounded"), r=1.5, methods=("barrett",))
    edit_json(model_home(tmp_path) / "network.json", edit)
    assert len(check_run(tmp_path).failed) == 3
