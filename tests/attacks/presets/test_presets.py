import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.attacks.hierarchies import CurvedLevels, pictures
from tests.attacks.presets.published import RADIUS, Outcome, case, run
from tests.attacks.searches import images_of, linear_vae
from vaerdict.attacks import PGD, MarginSearch, attack
from vaerdict.attacks.batch import Batch, Meter
from vaerdict.attacks.judge.evaluate import Evaluation
from vaerdict.attacks.levels import TopDown
from vaerdict.attacks.objectives import (
    LatentDivergence,
    LatentNorm,
    MaximumDamage,
    ReconstructionTarget,
    TargetedLatent,
)
from vaerdict.attacks.presets import find_preset, presets, table_presets
from vaerdict.attacks.presets.terms import Cited
from vaerdict.attacks.question import Question
from vaerdict.attacks.threat import Ball
from vaerdict.attacks.tradeoff.penalised import with_price

DOCS = Path(__file__).resolve().parents[3] / "docs" / "presets.md"
NAMES = list(presets())
TARGETED = [name for name, preset in presets().items() if preset.targets == "needed"]
LINE_SEARCHES = {"tabacof-2016", "willetts-2021", "willetts-2021-hard", "camuto-2021"}


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Outcome]:
    folder = tmp_path_factory.mktemp("presets")
    return {name: run(preset, folder) for name, preset in presets().items()}


def test_every_paper_of_the_list_is_there() -> None:
    papers = {(preset.authors.split(",")[0].split(" et al")[0], preset.year) for preset in presets().values()}
    assert papers == {
        ("Tabacof", 2016), ("Gondim-Ribeiro", 2018), ("Willetts", 2021), ("Camuto", 2021), ("Kuzina", 2021),
        ("Kuzina", 2022), ("Salman", 2023), ("Guo", 2024), ("Krishnamurthy Ramanaik", 2025),
    }  # fmt: skip
    assert len(NAMES) == 14


@pytest.mark.parametrize("name", NAMES)
def test_stays_in_ball_and_box(name: str, outcomes: dict[str, Outcome]) -> None:
    one = outcomes[name]
    attacked = one.images + one.delta
    assert bool(((attacked >= 0) & (attacked <= 1)).all())
    order = {"2": 2.0, "inf": math.inf}[one.preset.norm]
    lengths = torch.linalg.vector_norm(one.delta.flatten(1), ord=order, dim=1)
    assert bool((lengths > 1e-3).all())
    assert all(length <= row.rho * (1 + 1e-5) for length, row in zip(lengths.tolist(), one.rows, strict=True))


@pytest.mark.parametrize("name", NAMES)
def test_rows_say_what_was_run(name: str, outcomes: dict[str, Outcome]) -> None:
    one, preset = outcomes[name], outcomes[name].preset
    low, high = preset.pixel_range
    for row in one.rows:
        assert row.status == "ok"
        assert (row.norm, row.reconstruction) == (preset.norm, preset.reconstruction)
        assert row.method == f"{preset.optimiser.name}-{name}"
        assert json.loads(row.constants)["preset"] == {
            "name": name,
            "source": preset.source,
            "radius": preset.radius,
            "pixel_range": [low, high],
            "scale": 1 / (high - low),
        }
        if preset.radius == "given":
            assert math.isclose(row.rho, RADIUS[name], rel_tol=1e-6)
        elif not isinstance(preset.radius, str):
            assert math.isclose(row.rho, preset.radius / (high - low), rel_tol=1e-6)


@pytest.mark.parametrize("name", TARGETED)
def test_targeted_presets_come_nearer_to_the_target(name: str, outcomes: dict[str, Outcome]) -> None:
    one = outcomes[name]
    output = name.endswith("output")
    goal = ReconstructionTarget(one.targets) if output else TargetedLatent(one.targets, "kl-symmetric")
    before = -one.value(goal, torch.zeros_like(one.delta))
    assert bool((one.gain(goal) > (0.02 if output else 0.2) * before).all())


@pytest.mark.parametrize("targeted", [False, True])
def test_photoguard_comes_nearer_to_zero_or_to_its_target(targeted: bool, tmp_path: Path) -> None:
    targets = case()[2] if targeted else None
    one = run(find_preset("photoguard"), tmp_path, targets=targets)
    known = _known(one, LatentNorm(targets))
    assert bool((one.gain(LatentNorm(targets)) > 0.95 * known).all())


@pytest.mark.parametrize("name", ["pca-plus", "pca-minus", "kuzina-2022-unsupervised"])
def test_untargeted_presets_come_near_the_best_known(name: str, outcomes: dict[str, Outcome]) -> None:
    one = outcomes[name]
    objective = one.preset.objective(None, 1.0)
    assert bool((one.gain(objective) > 0.85 * _known(one, objective)).all())


def test_grill_comes_near_the_best_known(tmp_path: Path) -> None:
    grill = find_preset("grill")
    # The published steps, of a thousandth of a pixel, would have to be many.
    one = run(replace(grill, optimiser=replace(grill.optimiser, learning_rate=0.015)), tmp_path, steps=12)
    objective = grill.objective(None, 1.0)
    assert bool((one.gain(objective) > 0.85 * _known(one, objective)).all())


def _known(one: Outcome, objective) -> torch.Tensor:
    """Give by how much PGD raises an objective in the preset's ball."""
    question = Question(r=1.0, norm=one.preset.norm, reconstruction="mean")
    batch = Batch.of(Meter(one.vae), one.images, question, 0, tuple(range(len(one.images))))
    radius = torch.tensor([row.rho for row in one.rows]).to(one.images)
    ball = Ball(norm=one.preset.norm, radius=radius, box=one.vae.input_range, center=one.images)
    delta, _ = PGD(steps=15, restarts=2, probes=1).search(batch, objective, ball, "known")
    return one.value(objective, delta) - one.value(objective, torch.zeros_like(delta))


def test_the_encoder_moves_farther_along_the_singular_direction_than_at_random(outcomes: dict[str, Outcome]) -> None:
    one = outcomes["kuzina-2021-unsupervised"]
    objective = LatentDivergence("l2")
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        noise = torch.randn(one.delta.shape, generator=generator, dtype=torch.float64)
        noise = 0.9 * noise / noise.flatten(1).norm(dim=1).reshape(-1, 1, 1, 1)
        assert bool((one.value(objective, one.delta) > one.value(objective, noise)).all())


def test_camuto_finds_the_largest_damage_and_the_margin_of_a_linear_vae() -> None:
    vae, top = linear_vae()
    camuto = find_preset("camuto-2021")
    vae.std = 1e-3
    rows = camuto.attack(vae, images_of(1), r=1.0, radius=0.5, steps=8)
    assert 0.98 * 0.5 * top < rows[0].damage < 1.01 * 0.5 * top
    brief = replace(camuto, optimiser=replace(camuto.optimiser, restarts=2))
    (row,) = brief.margin(vae, images_of(1), r=1.0, steps=6, reconstruction="mean")
    assert 1 / top < row.margin < 1.03 / top
    assert row.rho < row.margin
    assert row.method == "radii-lbfgs-camuto-2021"
    assert json.loads(row.constants)["preset"]["radius"] == 10.0


def test_radii_are_converted_by_the_widths_of_the_ranges() -> None:
    guard = find_preset("photoguard")
    for (low, high), expected in {(0.0, 1.0): 0.03, (-1.0, 1.0): 0.06, (0.0, 255.0): 7.65}.items():
        vae, images, _ = case(low, high)
        (row, _) = guard.attack(vae, images, r=1.0, steps=2)
        assert math.isclose(row.rho, expected, rel_tol=1e-6)
        said = json.loads(row.constants)["preset"]
        assert (said["radius"], said["pixel_range"], said["scale"]) == (0.06, [-1.0, 1.0], (high - low) / 2)
        assert json.loads(row.constants)["input_range"] == [low, high]
    vae, images, _ = case()
    (row, _) = guard.attack(vae, images, r=1.0, steps=2, radius=0.2)
    assert math.isclose(row.rho, 0.2, rel_tol=1e-6)
    assert json.loads(row.constants)["preset"]["radius"] == "given"


@pytest.mark.parametrize("name", [name for name in NAMES if name not in LINE_SEARCHES])
def test_the_search_is_the_same_in_other_pixel_units(name: str, tmp_path: Path) -> None:
    # Steps, penalties and radii all scale. Few steps, before rounding grows; line searches have a unit step of theirs.
    one = run(find_preset(name), tmp_path / "unit", steps=4)
    wide = run(find_preset(name), tmp_path / "wide", -3.0, 5.0, steps=4)
    torch.testing.assert_close(wide.delta / 8, one.delta, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["tabacof-2016", "willetts-2021"])
def test_line_searches_end_at_the_same_place_in_other_pixel_units(name: str, tmp_path: Path) -> None:
    one = run(find_preset(name), tmp_path / "unit", steps=60)
    wide = run(find_preset(name), tmp_path / "wide", -3.0, 5.0, steps=60)
    lengths = [found.flatten(1).norm(dim=1) for found in (wide.delta / 8, one.delta)]
    torch.testing.assert_close(*lengths, rtol=0.03, atol=0.0)


def test_a_preset_that_sweeps_gives_the_curve_of_each_pair() -> None:
    vae, images, targets = case()
    few = replace(find_preset("gondim-ribeiro-2018-latent"), weights=(0.0, 1.0, 1e6))
    curves = few.sweep(vae, images, targets, steps=100)
    wide_vae, wide_images, wide_targets = case(-3.0, 5.0)
    wide = few.sweep(wide_vae, wide_images, wide_targets, steps=100)
    for one, other in zip(curves, wide, strict=True):
        assert one.weights == (0.0, 1.0, 1e6)
        assert other.weights == (0.0, 1 / 64, 1e6 / 64)
        assert one.distortion[0] > one.distortion[1] > one.distortion[2]
        assert one.distortion[2] < 1e-3
        torch.testing.assert_close(
            torch.tensor(other.distortion) / 8, torch.tensor(one.distortion), rtol=0.01, atol=1e-5
        )
    # The second target's reconstruction is farther from it than the image's own.
    assert 0 < curves[0].auddc < 1
    assert math.isclose(curves[0].auddc, wide[0].auddc, rel_tol=0.01)
    assert math.isnan(curves[1].auddc)
    assert "as near to the target" in curves[1].reason


def test_more_arguments_reach_the_attack(tmp_path: Path) -> None:
    vae, images, _ = case()
    mask = torch.zeros(1, *vae.input_shape, dtype=torch.bool)
    mask[..., :4] = True
    rows = find_preset("pca-minus").attack(
        vae, images, r=1.0, steps=3, mask=mask, seed=5, sample_ids=[8, 9], reconstruction="mean", dataset="toy"
    )
    assert [(row.seed, row.sample_id, row.dataset, row.reconstruction) for row in rows] == [
        (5, 8, "toy", "mean"), (5, 9, "toy", "mean"),
    ]  # fmt: skip
    assert all(row.method.endswith("-masked") for row in rows)
    assert find_preset("kuzina-2022-unsupervised").restarts == 10


def test_a_preset_is_as_good_as_its_parts() -> None:
    # Nothing else happens than an attack with the preset's options.
    vae, images, _ = case()
    minus = find_preset("pca-minus")
    (one, _) = minus.attack(vae, images, r=1.0)
    (other, _) = attack(
        vae, images, radius=16 / 255, r=1.0, norm="inf", objective=minus.objective(None, 1.0), options=minus.optimiser
    )
    assert one.damage == other.damage


def test_hierarchical_models_are_attacked_at_all_levels() -> None:
    model = TopDown(CurvedLevels())
    images, targets = pictures(2, model), pictures(2, model, seed=2)
    for name in ("photoguard", "kuzina-2022-supervised", "kuzina-2021-supervised"):
        rows = find_preset(name).attack(model, images, r=1.0, targets=targets, steps=5, reconstruction="mean")
        assert [row.status for row in rows] == ["ok"] * 2
        assert "levels0to1" in rows[0].constants
    few = replace(find_preset("gondim-ribeiro-2018-latent"), weights=(0.01, 1e9))
    for one in few.sweep(model, images, targets, steps=40):
        assert one.distortion[0] > 0.01 > one.distortion[1]


@pytest.mark.parametrize(("name", "steps"), [("tabacof-2016", 150), ("gondim-ribeiro-2018-output", 300)])
def test_indicators_judge_what_was_climbed(name: str, steps: int) -> None:
    # Less the penalty the loss would still rise, and would have been larger on the way.
    vae, images, targets = case()
    dear = replace(find_preset(name), optimiser=replace(find_preset(name).optimiser, penalty=20.0))
    if name.endswith("output"):
        dear = replace(dear, optimiser=replace(dear.optimiser, learning_rate=1e-2))
    evaluation = Evaluation(samples=20, indicators=True)
    rows = dear.attack(vae, images, r=0.5, targets=targets, steps=steps, reconstruction="mean", evaluation=evaluation)
    for row in rows:
        told = json.loads(row.constants)
        assert not {"unfinished", "silent_success", "unstable_loss"} & set(told["indicators"])
        assert (told["penalty"], told["options"]["penalty"]) == (20.0, 0.0)


def test_a_preset_leads_away_where_its_objective_does() -> None:
    assert Cited(MaximumDamage(), "someone-2020", {}).departs
    assert not Cited(LatentNorm(), "someone-2020", {}).departs
    assert not Cited(with_price(MaximumDamage(), 1.0, case()[1]), "someone-2020", {}).departs


def test_wrong_use_is_refused() -> None:
    vae, images, targets = case()
    with pytest.raises(ValueError, match=r"unknown preset 'photogard', known: tabacof-2016, .*, photoguard, .*, grill"):
        find_preset("photogard")
    with pytest.raises(ValueError, match="expected one `targets` for preset 'tabacof-2016', got none"):
        find_preset("tabacof-2016").attack(vae, images, r=1.0)
    with pytest.raises(ValueError, match="expected no `targets` for preset 'grill', got some"):
        find_preset("grill").attack(vae, images, r=1.0, targets=targets)
    with pytest.raises(ValueError, match="expected a `radius` for preset 'camuto-2021'"):
        find_preset("camuto-2021").attack(vae, images, r=1.0)
    with pytest.raises(ValueError, match="whose paper estimates margins, got 'grill'"):
        find_preset("grill").margin(vae, images, r=1.0)
    with pytest.raises(ValueError, match="whose paper sweeps a weight, got 'photoguard'"):
        find_preset("photoguard").sweep(vae, images, targets)
    with pytest.raises(ValueError, match="`target_images` of shape"):
        find_preset("tabacof-2016").attack(vae, images, r=1.0, targets=targets[:1])
    with pytest.raises(ValueError, match="expected one `targets` for preset 'tabacof-2016', got none"):
        find_preset("tabacof-2016").sweep(vae, images, None)
    camuto = find_preset("camuto-2021")
    with pytest.raises(ValueError, match="no arguments that preset 'camuto-2021' brings itself, got `options`"):
        camuto.margin(vae, images, r=1.0, options=MarginSearch())
    with pytest.raises(ValueError, match="brings itself, got `norm`, `suite`"):
        camuto.attack(vae, images, r=1.0, radius=1.0, norm="inf", suite="standard")
    with pytest.raises(ValueError, match="`radius` > 0"):
        replace(find_preset("grill"), radius=-1.0)


def test_the_page_has_the_table_of_the_presets() -> None:
    assert table_presets() in DOCS.read_text(), "make the table in docs/presets.md anew: print(table_presets())"
