"""Rows from wider draws: accepted as certified, and refused where their numbers do not go together."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from flint import arb

from tests.checker.runs import images, make_claim, scaling_vae, small_vae, write_unit
from vaerdict.certify import certify
from vaerdict.certify.export import export_model
from vaerdict.certify.statistics import clopper_pearson_lower
from vaerdict.certify.wide import Reached, renyi_reach, widening_roots
from vaerdict.checker import Report, check_run
from vaerdict.checker.case import Case
from vaerdict.checker.methods import METHODS
from vaerdict.checker.model import Model, read_model
from vaerdict.checker.moving import stays_above
from vaerdict.checker.notes import Notes
from vaerdict.checker.rules import faults
from vaerdict.checker.shares import Share
from vaerdict.checker.stated import Malformed
from vaerdict.checker.wide import least_divergence
from vaerdict.models import GaussianVAE
from vaerdict.options import CertifyOptions
from vaerdict.results import Row

B, STD = 3.0, 0.25
DRAWN: dict[str, Any] = {"successes": 1990, "samples": 2000, "alpha": 1 - 0.999}
SURE = {"confidence": 0.999, "strength": "statistical"}


@pytest.fixture(scope="module", params=[1, 4])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Model:
    return read_model(export_model(tmp_path_factory.mktemp("run"), scaling_vae(2.0, B, STD, request.param)))


def certified(d: int, scale: float, p: float, ends: tuple[float, float]) -> Reached:
    """What the certifier finds where every mean may move in every direction."""
    shape = (B / STD) ** 2 * torch.eye(d, dtype=torch.float64)[None]
    clean = torch.tensor([clopper_pearson_lower(1990, 2000, 0.999)], dtype=torch.float64)
    ones = torch.ones(1, d, dtype=torch.float64)
    low, high = (end * ones for end in ends)
    return renyi_reach(clean, p, widening_roots(shape, scale), ones[:, 0], shape, (low, high), 0 * clean)


def case_of(
    d: int, scale: float = 2.0, p: float = 0.5, ends: tuple[float, float] | None = None
) -> tuple[float, dict[str, Any], dict[str, Any]]:
    """Margin, constants and other facts of a true claim; `ends` are those of ratios."""
    found = certified(d, scale, p, ends or (1.0, 1.0))
    margin = float(found.radii)
    held = {
        "b": B, "std_min": STD, "mean_rounding": 0.0, "shift_by": "global", "shift": B * margin / STD, "scale": scale,
        "order": float(found.orders), "divergence": float(found.divergences), **DRAWN,
    }  # fmt: skip
    if ends is not None:
        held |= {"ratio_low": [ends[0]] * d, "ratio_high": [ends[1]] * d}
    return margin, held, {**SURE, "p": p}


def check(model: Model, margin: float, constants: dict[str, Any], facts: dict[str, Any]) -> list[str]:
    """Give what is wrong."""
    notes = Notes()
    method = "shift_moving" if "ratio_low" in constants else "shift"
    claim = make_claim(model.sha256, method, margin, constants, **facts)
    try:
        proved = METHODS[method](Case(claim, model, notes))
    except Malformed as error:
        return [str(error)]
    return faults(claim) + notes.failures + ([] if proved else ["not proved"])


TRUE: list[dict[str, Any]] = [
    {}, {"scale": 1.25}, {"scale": 2.5}, {"p": 0.7}, {"ends": (0.99, 1.01)}, {"ends": (0.9, 1.0), "scale": 1.5},
    {"ends": (0.9, 1.1), "scale": 1.0},
]  # fmt: skip


@pytest.mark.parametrize("change", TRUE)
def test_a_true_claim_is_accepted(model: Model, change: dict[str, Any]) -> None:
    margin, constants, facts = case_of(model.latent, **change)
    assert margin > 0
    assert check(model, margin, constants, facts) == []
    assert check(model, margin, {**constants, "shift_by": "local"}, facts) == []


@pytest.mark.parametrize("change", TRUE)
def test_one_success_less_or_a_little_more_divergence_is_not(model: Model, change: dict[str, Any]) -> None:
    margin, constants, facts = case_of(model.latent, **change)
    for forged in ({"successes": 1989}, {"divergence": constants["divergence"] + 1e-6}, {"alpha": 0.0009}):
        assert check(model, margin, {**constants, **forged}, facts) == ["not proved"]
    assert "not proved" in check(model, margin, constants, {**facts, "p": facts["p"] * (1 + 1e-6)})
    assert "not proved" in check(model, margin, {**constants, "order": constants["order"] * (1 - 1e-4)}, facts)


INCONSISTENT: list[tuple[dict[str, Any], str]] = [
    ({"scale": 0.9}, "`scale` in"), ({"scale": 4.1}, "`scale` in"), ({"scale": "2"}, "`scale` as"),
    ({"scale": None}, "`scale` as"), ({"order": 0.0}, "above 1 with draws"), ({"order": None}, "`order` as"),
    ({"order": 0.0, "scale": 1.0}, "no `divergence`"), ({"order": 1.0}, "above 1, got"), ({"order": 0.5}, "above 1"),
    ({"order": math.inf}, "`order` as"), ({"order": -2.0}, "`order` as"), ({"divergence": None}, "`divergence` as"),
    ({"divergence": math.inf}, "`divergence` as"), ({"divergence": math.nan}, "`divergence` as"),
    ({"divergence": -1.0}, "`divergence` as"), ({"divergence": 0.0}, "at least"), ({"mean_rounding": None}, "rounding"),
    ({"std_min": 1.0}, "standard deviation"), ({"b": 1.0}, "`b` is stated"), ({"shift": 0.1}, "`shift` is"),
    ({"successes": None}, "`successes`"), ({"samples": 0}, "at most 0"),
]  # fmt: skip


@pytest.mark.parametrize(("forged", "reason"), INCONSISTENT)
def test_numbers_that_do_not_go_together_are_refused(model: Model, forged: dict[str, Any], reason: str) -> None:
    margin, constants, facts = case_of(model.latent)
    found = check(model, margin, {**constants, **forged}, facts)
    assert any(reason in one for one in found), found


def test_wider_draws_do_not_pass_as_narrow_ones(model: Model) -> None:
    """Without width and order the count is one of the posterior's own draws: it shows less than was claimed."""
    margin, constants, facts = case_of(model.latent, scale=2.5)
    left_out = {name: one for name, one in constants.items() if name not in ("scale", "order", "divergence")}
    assert check(model, margin, left_out, facts) == ["not proved"]
    assert check(model, margin, {**constants, "scale": 1.0}, facts) != []


@pytest.mark.parametrize("scale", [1.0, 1.5, 4.0])
def test_with_one_latent_the_divergence_is_known(tmp_path: Path, scale: float) -> None:
    """Then nothing is kinder than the draws that there were."""
    one = read_model(export_model(tmp_path, scaling_vae(2.0, B, STD, 1)))
    margin, constants, facts = case_of(1, scale)
    low = {**constants, "divergence": constants["divergence"] - 1e-4}
    assert "`divergence` is stated" in check(one, margin, low, facts)[0]
    for share in (1e-6, 1e-3):
        grown = margin * (1 + share), {**constants, "shift": constants["shift"] * (1 + share)}, facts
        assert any("divergence" in reason for reason in check(one, *grown)) == (share > 1e-4)
    assert "`shift` is" in check(one, margin * (1 + 1e-6), constants, facts)[0]


def test_of_more_latents_only_the_impossible_is_refused(tmp_path: Path) -> None:
    """The directions in which draws were wide are not stored: what is left of the margin's proof is as stated."""
    four = read_model(export_model(tmp_path, scaling_vae(2.0, B, STD, 4)))
    margin, constants, facts = case_of(4)
    further = {**constants, "shift": 1.01 * constants["shift"]}
    assert check(four, 1.01 * margin, further, facts) == []
    beyond = {**constants, "shift": 2 * constants["shift"]}
    assert "must be at least" in check(four, 2 * margin, beyond, facts)[0]


@pytest.mark.parametrize("ends", [(0.9, 1.1), (1.0, 1.2)])
def test_ratios_bound_the_divergence_of_narrow_draws(model: Model, ends: tuple[float, float]) -> None:
    margin, constants, facts = case_of(model.latent, 1.0, ends=ends)
    low = {**constants, "divergence": 0.9 * constants["divergence"]}
    assert "`divergence` is stated" in check(model, margin, low, facts)[0]
    edge = math.sqrt(constants["order"] / (constants["order"] - 1))
    beyond = {**constants, "ratio_high": [*constants["ratio_high"][1:], edge * 1.001]}
    assert "finite at these ratios" in check(model, margin, beyond, facts)[0]


def test_the_least_divergence_is_below_that_of_any_draws() -> None:
    """Widths between the unit and the largest, in directions that are not the coordinates'."""
    generator = torch.Generator().manual_seed(0)
    for scale in (1.0, 1.25, 2.0, 4.0):
        for _ in range(20):
            factor = torch.randn(3, 3, generator=generator, dtype=torch.float64)
            shape = (factor @ factor.T)[None]
            low, high = (torch.tensor([row], dtype=torch.float64) for row in ([0.9, 0.8, 1.0], [1.0, 1.1, 1.05]))
            one = torch.ones(1, dtype=torch.float64)
            found = renyi_reach(0.9999 * one, 0.5, widening_roots(shape, scale), 9 * one, shape, (low, high), 0 * one)
            shift = float(found.radii * torch.linalg.eigvalsh(shape)[0, -1].sqrt())
            ratios = [(arb(a), arb(b)) for a, b in zip(low[0].tolist(), high[0].tolist(), strict=True)]
            least = least_divergence(arb(float(found.orders)), arb(scale), arb(shift * (1 - 1e-6)), ratios)
            assert 0 < least < float(found.divergences)


def test_without_a_spread_it_is_the_third_bound_of_the_narrow_draws(model: Model) -> None:
    """At the posterior's own width the row says no more than the third bound proves from shift and ratios alone."""
    _, constants, _ = case_of(model.latent, 1.0, ends=(0.99, 1.01))
    ratios = [(arb(0.99), arb(1.01))] * model.latent
    share = Share(1990, 2000, 1 - arb(0.999))
    assert stays_above(arb(0.5), share, arb(constants["shift"]) * (1 - 1e-6), ratios)
    assert not stays_above(arb(0.5), share, arb(constants["shift"]) * 2, ratios)


# --- whole runs ---


def write(run: Path, vae: GaussianVAE, r: float, **options: Any) -> list[Row]:
    asked = CertifyOptions(samples=2000, methods=("shift",) if vae.std_map is None else ("shift_moving",), **options)
    rows = certify(vae, images(2), r=r, options=asked, dataset="random")
    export_model(run, vae)
    write_unit(run, rows)
    return rows


def forged(run: Path, rows: list[Row], **changes: Any) -> Report:
    texts = [json.dumps({**json.loads(row.constants), **changes}) for row in rows]
    write_unit(run, [replace(row, constants=text) for row, text in zip(rows, texts, strict=True)])
    return check_run(run)


@pytest.mark.parametrize(
    ("spread", "options"),
    [
        ("constant", {}), ("constant", {"local": False, "norm": "inf"}), ("bounded", {"local": False}),
        ("constant", {"local": False, "reconstruction": "anchored"}),
    ],
)  # fmt: skip
def test_the_certifiers_rows_pass_and_forged_ones_do_not(tmp_path: Path, spread: str, options: dict[str, Any]) -> None:
    rows = write(tmp_path, small_vae(spread=spread), 2.5, **options)
    held = [json.loads(row.constants) for row in rows]
    assert all(one["scale"] > 1 and one["order"] > 1 and row.margin for one, row in zip(held, rows, strict=True))
    report = check_run(tmp_path)
    assert not report.failed, str(report)
    assert "taken as stated in 2: the divergence of the moved posterior from the draws" in str(report)
    for changes in ({"successes": 300}, {"scale": 1.0, "order": 0.0}, {"divergence": 0.0}):
        assert len(forged(tmp_path, rows, **changes).failed) == 2
    write_unit(tmp_path, [replace(row, p=0.99) for row in rows])
    assert len(check_run(tmp_path).failed) == 2
