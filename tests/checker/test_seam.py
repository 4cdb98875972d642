"""The certificate by the seam: proved again from the weights, refused where a millionth is off."""

import json
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import mpmath
import numpy as np
import pytest
import torch
from flint import arb
from torch import nn

from tests.checker.runs import SHAPE, edit_json, images, make_claim, small_vae, write_unit
from tests.toys import LinearVAE
from vaerdict.certify import certify
from vaerdict.certify.export import export_model
from vaerdict.checker import Report, check_run
from vaerdict.checker.case import Case
from vaerdict.checker.methods import METHODS
from vaerdict.checker.model import Model, read_model
from vaerdict.checker.notes import Notes
from vaerdict.checker.parted import bound_variances
from vaerdict.checker.quadratic import Quadratic, reflection_probability
from vaerdict.checker.stated import Malformed
from vaerdict.models import GaussianVAE, wrap
from vaerdict.options import CertifyOptions, Norm, Reconstruction
from vaerdict.results import Row

STD, R, REST, B = 0.25, 2.5, 0.5, 6.0
WEIGHTS = (4.0, 3.0, 0.0)
VARIANCES = sorted(2 * STD**2 * one**2 for one in WEIGHTS)


def seam_vae() -> GaussianVAE:
    """`W` ignores the third latent, which is the one that moves farthest: `|W mu|` has the slope 6, not 40."""
    encoder, first, rest = nn.Linear(16, 3, bias=False), nn.Linear(3, 3), nn.Linear(3, 16)
    encoder.weight.data = torch.diag(torch.tensor([1.5, 1.5, 10.0])) @ torch.eye(3, 16)
    first.weight.data = torch.diag(torch.tensor(WEIGHTS))
    rest.weight.data = REST * torch.eye(16, 3)
    return wrap(
        nn.Sequential(nn.Flatten(), encoder), nn.Sequential(first, nn.ReLU(), rest, nn.Unflatten(1, SHAPE)),
        input_shape=SHAPE, latent_shape=(3,), spread="constant", std=STD, name="seam",
    ).eval()  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return read_model(export_model(tmp_path_factory.mktemp("run"), seam_vae()))


@cache
def largest_margin() -> float:
    """The largest that the checker proves: the certifier's table is coarser than a millionth."""
    form, low, high = Quadratic(VARIANCES), 0.0, 1.0
    for _ in range(26):
        middle = (low + high) / 2
        holds = reflection_probability(form, arb(R / REST), arb(B * middle), 0.5) > 0.5
        low, high = (middle, high) if holds else (low, middle)
    return low


def constants_at(margin: float, **changes: Any) -> dict[str, Any]:
    honest = {
        "a_rest": REST, "b_seam": B, "std": [STD] * 3, "variances": [one + 1e-12 for one in VARIANCES],
        "shift": B * margin, "mean_rounding": 0.0, "decoder_rounding": 0.0,
    }  # fmt: skip
    return {**honest, **changes}


def check(model: Model, margin: float, constants: dict[str, Any], **facts: Any) -> tuple[bool, Notes]:
    notes = Notes()
    case = Case(make_claim(model.sha256, "seam", margin, constants, **facts), model, notes)
    return METHODS["seam"](case) and not notes.failures, notes


def test_a_true_claim_is_accepted(model: Model) -> None:
    fine, notes = check(model, largest_margin(), constants_at(largest_margin()))
    assert fine, notes.failures
    assert notes.stated == ["the bounds on rounding"]


MUTATIONS = [
    "margin",
    "r",
    "p",
    "a_rest-",
    "a_rest+",
    "b_seam-",
    "b_seam+",
    "variances-",
    "variances+",
    "std+",
    "shift-",
]


@pytest.mark.parametrize("change", MUTATIONS)
def test_one_part_in_a_million_is_noticed(model: Model, change: str) -> None:
    key, factor = change.rstrip("+-"), 1 - 1e-6 if change.endswith("-") else 1 + 1e-6
    margin, constants, facts = largest_margin(), constants_at(largest_margin()), {}
    if key == "margin":
        margin *= factor
    elif key in ("r", "p"):
        facts = {"r": R * (1 - 1e-6)} if key == "r" else {"p": 0.5 * factor}
    elif isinstance(constants[key], list):
        constants[key] = [one * factor for one in constants[key]]
    else:
        constants[key] *= factor
    assert not check(model, margin, constants, **facts)[0]


@pytest.mark.parametrize("place", range(3))
def test_every_variance_counts(model: Model, place: int) -> None:
    """Also the one that is zero: a negative number is none."""
    variances = [one * (1 - 1e-6) - 1e-6 * (i == place) for i, one in enumerate(VARIANCES)]
    if place == 0:
        with pytest.raises(Malformed, match="variances"):
            check(model, 0.1, constants_at(0.1, variances=variances))
    else:
        assert any(
            "`variances`" in one for one in check(model, 0.1, constants_at(0.1, variances=variances))[1].failures
        )


@pytest.mark.parametrize(
    "name", ["a_rest", "b_seam", "variances", "std", "mean_rounding", "decoder_rounding"],
)  # fmt: skip
def test_a_constant_left_out_is_refused(model: Model, name: str) -> None:
    held = constants_at(0.1)
    del held[name]
    with pytest.raises(Malformed, match=name):
        check(model, 0.1, held)


def test_the_maximum_norm_costs_the_root_of_the_pixels(model: Model) -> None:
    assert check(model, largest_margin() / 4, constants_at(largest_margin()), norm="inf")[0]
    assert not check(model, largest_margin() / 4 * (1 + 1e-6), constants_at(largest_margin()), norm="inf")[0]


def test_a_spread_that_moves_is_refused(tmp_path: Path) -> None:
    other = read_model(export_model(tmp_path, small_vae(spread="bounded")))
    with pytest.raises(Malformed, match="do not move"):
        check(other, 0.1, constants_at(0.1))


def test_a_decoder_that_begins_otherwise_is_refused(tmp_path: Path) -> None:
    vae = seam_vae()
    vae.decoder = nn.Sequential(nn.Tanh(), *vae.decoder)
    with pytest.raises(Malformed, match="begins with a dense layer"):
        check(read_model(export_model(tmp_path, vae)), 0.1, constants_at(0.1))


@pytest.mark.parametrize("rows", [2, 5])
@pytest.mark.parametrize("copies", [1, 2])
def test_variances_are_above_the_exact_ones_and_near(rows: int, copies: int) -> None:
    generator = np.random.default_rng(rows)
    weight, std = generator.standard_normal((rows, 4)), [0.1, 0.2, 1e-3, 3.0]
    bounds = bound_variances(weight, std, copies)
    with mpmath.workdps(40):
        scaled = mpmath.matrix(weight.tolist()) * mpmath.diag(std)
        values = sorted(mpmath.eigsy(copies * scaled.T * scaled, eigvals_only=True))
        assert len(values) == len(bounds)
        for value, bound in zip(values, bounds, strict=True):
            assert value - mpmath.mpf(10) ** -30 <= bound <= value + 1e-12 * values[-1]


# --- whole runs ---


def write(run: Path, vae: Any, **options: Any) -> list[Row]:
    given = CertifyOptions(samples=200, local=False, methods=("seam",), **options)
    pixels = images() if tuple(vae.input_shape) == SHAPE else torch.rand(3, *vae.input_shape)
    rows = certify(vae, pixels, r=R, options=given, dataset="random")
    export_model(run, vae)
    write_unit(run, rows)
    assert min(row.margin or 0.0 for row in rows) > 0
    return rows


@pytest.mark.parametrize("norm", ["2", "inf"])
@pytest.mark.parametrize("reconstruction", ["sampled", "anchored"])
def test_the_certifiers_rows_pass(tmp_path: Path, norm: Norm, reconstruction: Reconstruction) -> None:
    write(tmp_path, seam_vae(), norm=norm, reconstruction=reconstruction)
    report = str(check_run(tmp_path))
    assert report == "3 checked, 0 failed (3 in part)\ntaken as stated in 3: the bounds on rounding"


@pytest.mark.parametrize("family", ["lipschitz", "plain", "lipschitz_conv", "conv"])
def test_every_family_passes(tmp_path: Path, family: str) -> None:
    write(tmp_path, small_vae(family=family))
    report = check_run(tmp_path)
    assert str(report).startswith("3 checked, 0 failed (3 in part)")


def test_matrices_that_cancel_pass(tmp_path: Path) -> None:
    """What is left of the mean's slope is rounding, which two programs do not share."""
    turn = torch.tensor([[1.0, 1.0, 0.0], [1.0, -1.0, 0.0], [0.0, 0.0, 1.0]])
    vae = seam_vae()
    vae.encoder[1].weight.data = turn.T @ torch.diag(torch.tensor([0.0, 10.0, 0.0])) @ torch.eye(3, 16)
    vae.decoder[0].weight.data = torch.diag(torch.tensor([4.0, 0.0, 3.0])) @ turn
    rows = write(tmp_path, vae)
    assert json.loads(rows[0].constants)["b_seam"] < 1e-11
    assert str(check_run(tmp_path)).startswith("3 checked, 0 failed")


def test_a_model_with_code_of_its_own_is_taken_as_stated(tmp_path: Path) -> None:
    write(tmp_path, LinearVAE(1.5 * torch.eye(3, 12), 2 * torch.eye(12, 3), STD))
    report = check_run(tmp_path)
    assert not report.failed
    told = " ".join(report.verdicts[0].notes.stated)
    assert all(name in told for name in ("`a_rest`", "`b_seam`", "variances", "standard deviations"))


def failures(report: Report) -> list[str]:
    return [reason for one in report.failed for reason in one.notes.failures]


FORGERIES: list[tuple[str, Callable[[dict[str, Any]], dict[str, Any]], str]] = [
    ("no noise at all", lambda held: {"variances": [1e-9] * 3}, "`variances` are stated with"),
    ("a shorter rest", lambda held: {"a_rest": 0.1}, "`a_rest` is stated as 0.1"),
    ("a mean that stays", lambda held: {"b_seam": 0.1, "shift": 0.1}, "`b_seam` is stated as 0.1"),
    ("a shift that stays", lambda held: {"shift": 0.1}, "`shift` is 0.1"),
    ("another spread", lambda held: {"std": [0.1] * 3}, "standard deviation of this model"),
    ("fewer latents", lambda held: {"variances": held["variances"][:2]}, "about 2 latents"),
    ("a source that is not one", lambda held: {"b_seam_by": "luck"}, "expected no `b_seam_by`"),
]


@pytest.mark.parametrize(("change", "said"), [one[1:] for one in FORGERIES], ids=[one[0] for one in FORGERIES])
def test_constants_forged_in_both_files_fail(tmp_path: Path, change: Callable[..., dict[str, Any]], said: str) -> None:
    rows = write(tmp_path, seam_vae())
    held = [json.loads(row.constants) for row in rows]
    texts = [json.dumps({**one, **change(one)}) for one in held]
    write_unit(tmp_path, [replace(row, constants=text) for row, text in zip(rows, texts, strict=True)])
    report = check_run(tmp_path)
    assert len(report.failed) == 3
    assert any(said in reason for reason in failures(report)), failures(report)


def test_a_margin_forged_in_both_files_fails(tmp_path: Path) -> None:
    """By a millionth above what can be proved; the certifier's own margin lies somewhat below that."""
    rows = write(tmp_path, seam_vae())
    margin = rows[0].margin
    assert margin is not None
    assert 0.99 * largest_margin() < margin < largest_margin()
    held = {**json.loads(rows[0].constants), "mean_rounding": 0.0, "decoder_rounding": 0.0}
    for share, failed in ((1.0, 0), (1 + 1e-6, 1)):
        forged = share * largest_margin()
        text = json.dumps({**held, "shift": B * forged * (1 + 1e-12)})
        write_unit(tmp_path, [replace(rows[0], margin=forged, constants=text)])
        assert len(check_run(tmp_path).failed) == failed


def test_a_list_of_layers_does_not_hide_a_longer_one(tmp_path: Path) -> None:
    rows = write(tmp_path, seam_vae())
    (home,) = (path for path in (tmp_path / "certificates").iterdir() if path.is_dir())

    def shrink(network: Any) -> None:
        for role in ("mean", "decoder"):
            for one in network["maps"][role]["layers"]:
                one["constant"] = (0.1).hex()

    edit_json(home / "network.json", shrink)
    report = check_run(tmp_path)
    assert len(report.failed) == len(rows)
    assert any("claimed constant" in reason for reason in failures(report))
