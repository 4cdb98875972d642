"""Smoothed and hierarchical certificates: accepted up to their margin and no farther, from counts as stated."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from scipy.stats import beta, norm
from torch import Tensor, nn

from tests.checker.runs import SHAPE, images, make_claim, scaling_vae, small_vae, write_unit
from vaerdict.certify import certify
from vaerdict.certify.export import export_certificates, export_model
from vaerdict.certify.hierarchical import certify_hierarchical
from vaerdict.checker import Report, check_run
from vaerdict.checker.case import Case
from vaerdict.checker.methods import METHODS
from vaerdict.checker.model import Model, read_model
from vaerdict.checker.notes import Notes
from vaerdict.checker.rules import faults
from vaerdict.checker.stated import Malformed
from vaerdict.options import CertifyOptions
from vaerdict.results import Row
from vaerdict.vae import Posterior

B, STD, NOISE, SHARE, SLOPE = 3.0, 0.25, 0.5, 0.55, 5.0
CONFIDENCE = 0.999
EACH = (1 - CONFIDENCE) / 4
CENTRE = {"selection": 4000, "tested": 2200, "candidates": 32, "share": SHARE, "alpha": EACH}


def clean(alpha: float, successes: int = 1990, samples: int = 2000) -> float:
    return float(beta.ppf(alpha, successes, samples - successes + 1))


def margins(alpha: float, level: float) -> float:
    """In standard deviations."""
    return float(norm.ppf(clean(alpha)) - norm.ppf(level)) * (1 - 1e-12)


def case_of(name: str) -> tuple[float, dict[str, Any], dict[str, Any]]:
    """Margin, constants and other facts of a true claim."""
    facts = {"strength": "statistical", "confidence": CONFIDENCE}
    drawn: dict[str, Any] = {"successes": 1990, "samples": 2000}
    if name == "hierarchical":
        held = {**drawn, "alpha": 1 - CONFIDENCE, "shift": SLOPE, "whitened": [3.0, 4.0]}
        return margins(1 - CONFIDENCE, 0.5) / SLOPE, held, facts
    steps = margins(EACH, SHARE)
    facts |= {"reconstruction": "smoothed"}
    if name == "center":
        return steps * NOISE, {**drawn, **CENTRE, "noise_std": NOISE, "shift": steps}, {**facts, "noise_std": NOISE}
    margin = steps * STD / B
    held = {**drawn, **CENTRE, "shift": steps, "shift_by": "global", "b": B, "std_min": STD, "mean_rounding": 0.0}
    return margin, held, {**facts, "noise_std": 0.0}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return read_model(export_model(tmp_path_factory.mktemp("run"), scaling_vae(2.0, B, STD, 4)))


def check(model: Model, name: str, margin: float, constants: dict[str, Any], facts: dict[str, Any]) -> bool:
    notes = Notes()
    claim = make_claim(model.sha256, name, margin, constants, **facts)
    try:
        return not faults(claim) and METHODS[name](Case(claim, model, notes)) and not notes.failures
    except Malformed:
        return False


NAMES = ("center", "latent_center", "hierarchical")


@pytest.mark.parametrize("name", NAMES)
def test_a_true_claim_is_accepted(model: Model, name: str) -> None:
    assert check(model, name, *case_of(name))


@pytest.mark.parametrize("name", NAMES)
def test_a_millionth_more_is_not(model: Model, name: str) -> None:
    margin, constants, facts = case_of(name)
    grown = constants["shift"] * (1 if name == "hierarchical" else 1 + 1e-6)
    assert not check(model, name, margin * (1 + 1e-6), {**constants, "shift": grown}, facts)


FORGERIES: list[tuple[str, dict[str, Any]]] = [
    *[(name, {"successes": 1989}) for name in NAMES],
    *[(name, {"successes": 2001}) for name in NAMES],
    *[(name, {"samples": 0}) for name in NAMES],
    *[(name, {"alpha": 2e-3}) for name in NAMES],
    *[(name, {one: CENTRE[one] * 1.01}) for name in NAMES[:2] for one in ("share", "alpha")],
    *[(name, {"share": one}) for name in NAMES[:2] for one in (0.5, 0.45, 1.0)],
    *[(name, {"tested": 1700}) for name in NAMES[:2]],
    *[(name, {"tested": 4001}) for name in NAMES[:2]],
    *[(name, {"candidates": 10}) for name in NAMES[:2]],
    ("center", {"noise_std": 0.5 * (1 + 1e-6)}), ("center", {"noise_std": 0.0}),
    ("latent_center", {"b": B * (1 - 1e-6)}), ("latent_center", {"std_min": STD * (1 + 1e-6)}),
    ("latent_center", {"shift": 0.1}), ("latent_center", {"shift_by": "luck"}),
    ("hierarchical", {"shift": SLOPE * (1 - 1e-6)}), ("hierarchical", {"shift": SLOPE * (1 + 1e-6)}),
    ("hierarchical", {"whitened": [3.0, 4.00001]}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "changes"), FORGERIES)
def test_forged_constants_are_refused(model: Model, name: str, changes: dict[str, Any]) -> None:
    margin, constants, facts = case_of(name)
    assert not check(model, name, margin, {**constants, **changes}, facts)


LEFT_OUT = [
    *[(name, one) for name in NAMES for one in ("successes", "samples")],
    *[(name, one) for name in NAMES[:2] for one in ("share", "tested", "selection", "candidates")],
    ("center", "noise_std"), ("latent_center", "std_min"), ("latent_center", "mean_rounding"), ("latent_center", "b"),
    ("hierarchical", "shift"), ("hierarchical", "whitened"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "key"), LEFT_OUT)
def test_a_constant_left_out_is_refused(model: Model, name: str, key: str) -> None:
    margin, constants, facts = case_of(name)
    assert not check(model, name, margin, {one: value for one, value in constants.items() if one != key}, facts)


RELABELLED: list[tuple[str, dict[str, Any]]] = [
    *[(name, {"strength": "proved"}) for name in NAMES], *[(name, {"confidence": None}) for name in NAMES],
    *[(name, {"confidence": 0.9995}) for name in NAMES], *[(name, {"reconstruction": "sampled"}) for name in NAMES[:2]],
    ("hierarchical", {"reconstruction": "smoothed"}), ("hierarchical", {"reconstruction": "mean"}),
    ("hierarchical", {"norm": "inf"}), ("hierarchical", {"noise_std": 0.0}), ("hierarchical", {"p": 0.5 + 1e-6}),
    ("center", {"noise_std": None}), ("center", {"noise_std": 0.6}), ("center", {"norm": "inf"}),
    ("latent_center", {"noise_std": 0.5}), ("latent_center", {"norm": "inf"}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "changes"), RELABELLED)
def test_what_a_method_does_not_claim_is_refused(model: Model, name: str, changes: dict[str, Any]) -> None:
    margin, constants, facts = case_of(name)
    assert not check(model, name, margin, constants, {**facts, **changes})


def test_the_maximum_norm_costs_the_root_of_the_pixels(model: Model) -> None:
    margin, constants, facts = case_of("center")
    assert check(model, "center", margin / 4, constants, {**facts, "norm": "inf"})
    assert not check(model, "center", margin / 4 * (1 + 1e-6), constants, {**facts, "norm": "inf"})


def test_a_spread_that_moves_has_no_latent_centre(tmp_path: Path) -> None:
    other = read_model(export_model(tmp_path, small_vae(spread="bounded")))
    assert not check(other, "latent_center", *case_of("latent_center"))


# --- whole runs ---


def write(run: Path, noise_std: float, method: str) -> list[Row]:
    options = CertifyOptions(
        samples=300, local=False, reconstruction="smoothed", noise_std=noise_std, methods=(method,)
    )
    vae = scaling_vae()
    rows = certify(vae, images(2), r=15.0, options=options, dataset="random")
    export_model(run, vae)
    write_unit(run, rows)
    assert min(row.margin or 0.0 for row in rows) > 0
    return rows


def forged(run: Path, rows: list[Row], **changes: Any) -> Report:
    texts = [json.dumps({**json.loads(row.constants), **changes}) for row in rows]
    write_unit(run, [replace(row, constants=text) for row, text in zip(rows, texts, strict=True)])
    return check_run(run)


@pytest.mark.parametrize(("noise_std", "method"), [(0.2, "center"), (0.0, "latent_center")])
def test_the_certifiers_rows_pass_and_forged_ones_do_not(tmp_path: Path, noise_std: float, method: str) -> None:
    rows = write(tmp_path, noise_std, method)
    report = check_run(tmp_path)
    assert not report.failed, str(report)
    assert all(one.covered for one in report.verdicts)
    assert "the Monte-Carlo counts" in str(report)
    write_unit(tmp_path, [replace(row, margin=(row.margin or 0.0) * (1 + 1e-6)) for row in rows])
    assert len(check_run(tmp_path).failed) == 2
    write_unit(tmp_path, [replace(row, noise_std=0.7) for row in rows])
    assert len(check_run(tmp_path).failed) == 2
    assert len(forged(tmp_path, rows, successes=200).failed) == 2


def test_a_smoothed_row_cannot_be_relabelled(tmp_path: Path) -> None:
    """What holds under noise says nothing of the model without it."""
    rows = write(tmp_path, 0.2, "center")
    write_unit(tmp_path, [replace(row, reconstruction="sampled", noise_std=None) for row in rows])
    assert len(check_run(tmp_path).failed) == 2


class TwoLevels(nn.Module):
    name, input_shape, input_range, levels = "two", SHAPE, (0.0, 1.0), (2, 2)

    def posterior(self, images: Tensor, earlier: Sequence[Tensor]) -> Posterior:
        mean = images.flatten(1)[:, :2] + sum(earlier)
        return Posterior(mean, torch.full_like(mean, 0.5))

    def decode(self, latents: Sequence[Tensor]) -> Tensor:
        return torch.cat([*latents, *latents, *latents, *latents], 1).unflatten(1, SHAPE)


def test_hierarchical_rows_are_checked_without_their_model(tmp_path: Path) -> None:
    rows = certify_hierarchical(TwoLevels(), images(2), r=9.0, whitened=[2.0, 2.0], samples=300)
    assert min(row.margin or 0.0 for row in rows) > 0
    write_unit(tmp_path, rows)
    report = check_run(tmp_path)
    assert not report.failed, str(report)
    assert "taken as stated in 2: the model, which is not stored" in str(report)
    assert len(forged(tmp_path, rows, shift=2.0).failed) == 2
    write_unit(tmp_path, [replace(row, margin=(row.margin or 0.0) * (1 + 1e-6)) for row in rows])
    assert len(check_run(tmp_path).failed) == 2


def test_other_rows_need_their_model(tmp_path: Path) -> None:
    rows = write(tmp_path, 0.2, "center")
    (home,) = (path for path in (tmp_path / "certificates").iterdir() if path.is_dir())
    home.rename(tmp_path / "elsewhere")
    assert len(check_run(tmp_path).failed) == len(rows)


def test_runs_from_before_there_was_noise_still_read(tmp_path: Path) -> None:
    vae = scaling_vae()
    rows = certify(vae, images(1), r=2.5, options=CertifyOptions(local=False, methods=("isotropic",)))
    export_model(tmp_path, vae)
    write_unit(tmp_path, rows)
    path = export_certificates(tmp_path, "unit", rows)
    content = json.loads(path.read_text())
    for one in content["certificates"]:
        del one["noise_std"]
    path.write_text(json.dumps(content))
    assert str(check_run(tmp_path)).startswith("1 checked, 0 failed")
