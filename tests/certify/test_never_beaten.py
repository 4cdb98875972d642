"""No attack beats a certificate: random models, every method, and the strongest search that a few seconds allow.

Models, attack and judge are those of the record at scale, `benchmarks/never_beaten.py`.
"""

import math
from dataclasses import replace
from typing import Any

import never_beaten_duels
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from never_beaten_attacks import Effort, Game, add, attack
from never_beaten_cases import FAMILIES, SPREADS, Case, draw_case
from never_beaten_duels import choose_r, play
from never_beaten_models import build

from tests.toys import isotropic_vae
from vaerdict.attacks import PGD, Evaluation, MarginSearch, attack_margin
from vaerdict.attacks import attack as attack_images
from vaerdict.certify import certify
from vaerdict.options import CertifyOptions
from vaerdict.results import Contradiction, check_contradictions, frame

SMALL = Effort(images=4, samples=1000, steps=15, verdicts=(1000, 20_000), judged=(10**9, 3))


@st.composite
def cases(draw: st.DrawFn) -> Case:
    family = draw(st.sampled_from(FAMILIES))
    levels = family == "hierarchical"
    bare = levels or family == "seam"
    spread = draw(st.sampled_from(SPREADS if family != "seam" else SPREADS[:1]))
    return Case(
        seed=draw(st.integers(0, 10**6)),
        family=family,
        spread=spread,
        norm="2" if levels else draw(st.sampled_from(["2", "inf"])),
        reconstruction=draw(st.sampled_from(["sampled", "anchored"] if bare else ["sampled", "anchored", "mean"])),
        p=draw(st.sampled_from([0.5, 0.7, 0.9])),
        local=draw(st.booleans()) or spread == "log_variance",
    )


@settings(max_examples=12, deadline=None)
@given(case=cases())
def test_no_certificate_of_a_random_model_is_beaten(case: Case) -> None:
    outcome = play(case, SMALL)
    assert not outcome.beaten
    assert all(ratio > 1 for _, ratio in outcome.ratios)


def test_bound_propagation_is_not_beaten_either() -> None:
    case = Case(seed=3, family="relu", spread="constant", norm="inf", reconstruction="mean", propagation=True)
    outcome = play(case, SMALL)
    assert {one.method for one in outcome.certificates} == {"deterministic", "support"}
    assert not outcome.beaten


@settings(max_examples=2, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    kind=st.sampled_from(["sampled", "anchored", "mean"]),
    norm=st.sampled_from(["2", "inf"]),
)
def test_the_package_s_own_attacks_do_not_contradict_it(seed: int, kind: Any, norm: Any) -> None:
    case = Case(seed=3 * seed + 1, family="relu", spread="shared", reconstruction=kind, norm=norm)  # a wide range
    vae = build(case)
    images = torch.rand(3, *vae.input_shape, generator=torch.Generator().manual_seed(seed))
    r = choose_r(vae, case, images)
    ask: dict[str, Any] = {"r": r, "p": case.p}
    rows = certify(vae, images, options=replace(case.options, samples=1500), **ask)
    best = max(row.margin or 0.0 for row in rows if row.kind == "certificate")
    ask |= {"reconstruction": kind, "norm": norm, "evaluation": Evaluation(samples=4000, confidence=1 - 1e-9)}
    search = MarginSearch(start=PGD(steps=10), levels=6, steps=6, restarts=1, polish=1000, max_radius=8 * best or 1.0)
    rows += attack_margin(vae, images, options=search, **ask)
    if best:
        rows += attack_images(vae, images, radius=best, options=PGD(steps=20), **ask)
    assert any(row.kind == "attack" for row in rows)
    check_contradictions(frame(rows))


# --- the tests above can fail ---


@pytest.mark.parametrize("kind", ["sampled", "anchored", "mean"])
@pytest.mark.parametrize("norm", ["2", "inf"])
def test_constants_that_are_too_small_are_found_out(kind: Any, norm: Any) -> None:
    """A tenth is enough where the certificate is exact: a linear model whose maps stretch every direction equally."""
    case = Case(seed=4, family="isotropic", norm=norm, reconstruction=kind, local=False)
    shrunk = 0.9 if norm == "2" else 0.4  # the other norm's constant is a bound that no direction need attain
    assert not play(case, SMALL).beaten
    caught = {one.method for one, _ in play(case, SMALL, shrunk=shrunk).beaten}
    assert caught >= ({"deterministic"} if kind == "mean" else {"isotropic", "reflection"})


def test_constants_that_are_too_small_are_found_out_behind_the_seam() -> None:
    """A tenth is enough where the decoder sees some directions equally, and the others not at all."""
    case = Case(seed=7, family="seam", local=False)
    assert not play(case, SMALL).beaten
    assert "seam" in {one.method for one, _ in play(case, SMALL, shrunk=0.9).beaten}


@pytest.mark.parametrize("spread", ["constant", "shared"])
def test_half_the_mean_s_constant_is_found_out_where_the_decoder_jumps(spread: str) -> None:
    """Certificates by draws need no constant of the decoder: only the posterior's move is wrong here."""
    case = Case(seed=2, family="step", spread=spread, reconstruction="anchored", local=False)
    assert not play(case, SMALL).beaten
    caught = {one.method for one, _ in play(case, SMALL, shrunk=0.5).beaten}
    assert caught & {"shift", "shift_moving"}


def test_half_the_constants_of_two_levels_are_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case(seed=5, family="hierarchical", reconstruction="anchored")
    assert not play(case, SMALL).beaten
    true = never_beaten_duels.certify_hierarchical
    monkeypatch.setattr("vaerdict.certify.hierarchical._check_levels", lambda *args: None)
    monkeypatch.setattr(
        never_beaten_duels,
        "certify_hierarchical",
        lambda *args, whitened, **more: true(*args, whitened=[0.5 * one for one in whitened], **more),
    )
    assert {one.method for one, _ in play(case, SMALL).beaten} == {"hierarchical"}


def test_the_package_s_attack_finds_a_false_certificate_out(monkeypatch: pytest.MonkeyPatch) -> None:
    from vaerdict.certify import model
    from vaerdict.certify.sensitivity import Sensitivity, measure_sensitivity

    def half(*args: Any) -> Sensitivity:
        true = measure_sensitivity(*args)
        assert not isinstance(true.mean, str)
        return replace(true, mean=replace(true.mean, value=float(true.mean) / 2))

    vae, images = isotropic_vae(), torch.rand(2, 1, 1, 12)
    attacked = attack_margin(vae, images, r=6.0, options=MarginSearch(levels=6))
    options = CertifyOptions(methods=("isotropic",), local=False)
    check_contradictions(frame(certify(vae, images, r=6.0, options=options) + attacked))
    monkeypatch.setattr(model, "measure_sensitivity", half)
    with pytest.raises(Contradiction, match=r"isotropic .* certifies"):
        check_contradictions(frame(certify(vae, images, r=6.0, options=options) + attacked))


# --- the attack itself ---


@pytest.mark.parametrize("norm", ["2", "inf"])
def test_attacked_changes_are_as_large_as_allowed_and_not_larger(norm: Any) -> None:
    case = Case(seed=1, family="linear", norm=norm, reconstruction="mean")
    vae = build(case)
    clean, radius = torch.rand(5, *vae.input_shape), torch.tensor([1e-3, 0.1, 1.0, 10.0, 1e-9], dtype=torch.float64)
    found = attack(Game(vae, 1.0, case), clean, radius, SMALL, seed=0)
    assert (found.size <= radius).all()
    assert (found.size[:4] >= 0.99 * radius[:4]).all()
    moved = add(clean, found.delta, radius, norm)
    if norm == "2":
        matrix = (vae.decoder[0].weight @ vae.encoder[1].weight).detach().double()
        change = ((moved - clean).double().flatten(1) @ matrix.T).norm(dim=1) / radius
        assert change[1:4].tolist() == pytest.approx([float(torch.linalg.matrix_norm(matrix, 2))] * 3, rel=0.01)


def test_cases_are_drawn_of_every_kind() -> None:
    drawn = [draw_case(seed) for seed in range(200)]
    assert {case.family for case in drawn} == set(FAMILIES)
    assert {(case.norm, case.reconstruction) for case in drawn} == {
        (norm, kind) for norm in ("2", "inf") for kind in ("sampled", "anchored", "mean")
    }
    assert {case.p for case in drawn} == {0.5, 0.7, 0.9}
    assert any(case.propagation for case in drawn)
    assert math.isclose(sum(case.local for case in drawn) / 200, 0.7, abs_tol=0.15)
