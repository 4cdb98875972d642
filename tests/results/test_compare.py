"""Certificates and attacks meet, and a certificate that is beaten stops the run."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.results.rows import attack, row
from vaerdict.results import (
    COMPARED,
    Contradiction,
    Row,
    check_contradictions,
    frame,
    load,
    one_per_question,
    sandwich,
    write_part,
)

# --- the sandwich ---


def test_the_best_certificate_meets_the_smallest_attack() -> None:
    rows = [
        row(method="barrett", margin=0.1),
        row(method="shift", margin=0.3),
        row(method="isotropic", margin=0.2),
        attack(method="pgd", margin=0.9),
        attack(method="foolbox", margin=0.6),
        attack(method="weak", margin=math.inf),
    ]
    for ordered in (rows, rows[::-1]):
        (line,) = sandwich(frame(ordered)).to_dict("records")
        assert (line["certified"], line["certified_by"]) == (0.3, "shift")
        assert (line["attacked"], line["attacked_by"]) == (0.6, "foolbox")
        assert line["ratio"] == pytest.approx(0.5)
        assert (line["model"], line["dataset"], line["sample_id"]) == ("m", "d", 0)


def test_an_attack_that_found_nothing_is_infinite() -> None:
    (line,) = sandwich(frame([row(margin=0.3), attack(margin=math.inf)])).to_dict("records")
    assert (line["attacked"], line["ratio"]) == (math.inf, 0.0)


def test_rows_that_say_nothing_of_a_margin_are_left_out() -> None:
    rows = [
        row(margin=0.1),
        row(margin=9.0, status="unsupported"),
        row(margin=9.0, status="error"),
        row(margin=9.0, kind="estimate", strength="empirical"),
        row(margin=None),
        attack(margin=0.2),
        attack(margin=0.0, status="error"),
        attack(rho=0.01, damage=5.0),
    ]
    (line,) = sandwich(frame(rows)).to_dict("records")
    assert (line["certified"], line["attacked"]) == (0.1, 0.2)


@pytest.mark.parametrize("one_side", [[row(margin=0.1)], [attack(margin=0.1)]])
def test_one_side_alone_leaves_the_other_empty(one_side: list[Row]) -> None:
    (line,) = sandwich(frame(one_side)).to_dict("records")
    empty = "attacked" if one_side[0].kind == "certificate" else "certified"
    assert pd.isna(line[empty])
    assert pd.isna(line["ratio"])


def test_no_rows_give_no_lines() -> None:
    assert len(sandwich(frame([]))) == 0
    assert {"certified", "certified_by", "attacked", "attacked_by", "ratio"} <= set(sandwich(frame([])).columns)


def test_several_models_and_samples_have_a_line_each() -> None:
    rows = [
        side(model=model, model_sha256=model, sample_id=i, sample_sha256=str(i), margin=margin + i)
        for model in ("m1", "m2")
        for i in range(3)
        for side, margin in ((row, 1.0), (attack, 2.0))
    ]
    lines = sandwich(frame(rows))
    assert len(lines) == 6
    assert lines["ratio"].tolist() == pytest.approx([1 / 2, 2 / 3, 3 / 4] * 2)


@pytest.mark.parametrize(
    "other",
    [
        {"model_sha256": "b"},
        {"sample_sha256": "t"},
        {"norm": "inf"},
        {"r": 2.0},
        {"p": 0.9},
        {"reconstruction": "anchored"},
        {"noise_std": 0.0},
    ],
)
def test_answers_to_different_questions_are_not_compared(other: dict[str, Any]) -> None:
    table = frame([row(margin=5.0), attack(margin=1.0, **other)])
    assert len(sandwich(table)) == 2
    check_contradictions(table)


SMOOTHED: dict[str, Any] = {"reconstruction": "smoothed", "strength": "statistical", "method": "center"}


def test_a_smoothed_certificate_meets_no_attack_on_the_model_itself() -> None:
    rows = [
        row(margin=0.1),
        row(margin=0.2, strength="numerical"),
        row(**SMOOTHED, noise_std=0.25, margin=5.0),
        row(**SMOOTHED, noise_std=0.5, margin=7.0),
        row(**{**SMOOTHED, "method": "latent_center"}, noise_std=0.0, margin=6.0),
        attack(margin=0.3),
        attack(margin=0.4, reconstruction="mean"),
    ]
    for ordered in (rows, rows[::-1]):
        table = frame(ordered)
        check_contradictions(table)
        lines = sandwich(table)
        assert len(lines) == 6
        both = lines[lines["ratio"].notna()]
        assert both["certified"].tolist() == [0.2, 0.1]  # numerical, then proved
        assert both["attacked"].tolist() == [0.3, 0.3]
        smoothed = lines[lines["reconstruction"] == "smoothed"].sort_values("noise_std")
        assert smoothed["noise_std"].tolist() == [0.0, 0.25, 0.5]
        assert smoothed["certified"].tolist() == [6.0, 5.0, 7.0]
        assert smoothed["attacked"].isna().all()


def test_certificates_of_different_noise_are_different_answers() -> None:
    several = [row(**SMOOTHED, noise_std=noise, seed=seed, margin=1.0) for noise in (0.25, 0.5) for seed in (1, 0)]
    kept = one_per_question(frame([*several, row(seed=1, margin=1.0), row(seed=0, margin=1.0)]))
    assert sorted(zip(kept["noise_std"].fillna(-1.0), kept["seed"], strict=True)) == [(-1.0, 0), (0.25, 0), (0.5, 0)]


def test_a_part_from_before_there_was_smoothing_meets_a_new_one(tmp_path: Path) -> None:
    old = pa.Table.from_pylist([{**attack(margin=1.0).__dict__}]).drop_columns(["noise_std"])
    pq.write_table(old, tmp_path / "old.parquet")
    write_part(tmp_path, [row(margin=0.5), row(**SMOOTHED, noise_std=0.25, margin=9.0)], "new")
    loaded = load(tmp_path)
    assert loaded["noise_std"].dtype == np.float64
    assert loaded["noise_std"].isna().sum() == 2
    check_contradictions(loaded)
    assert sandwich(loaded)["ratio"].dropna().tolist() == [0.5]
    write_part(tmp_path, [row(margin=2.0)], "wrong")
    with pytest.raises(Contradiction, match=r"^1 certificates are contradicted"):
        check_contradictions(load(tmp_path))


# --- contradictions ---


def test_a_beaten_certificate_stops_the_run_and_the_worst_is_named() -> None:
    rows = [
        row(sample_id=4, sample_sha256="4", margin=1.1),
        attack(sample_id=4, sample_sha256="4", margin=1.0),
        row(sample_id=7, sample_sha256="7", method="isotropic", margin=3.0),
        row(sample_id=7, sample_sha256="7", method="barrett", margin=0.1),
        attack(sample_id=7, sample_sha256="7", method="cw", margin=1.5),
        row(sample_id=8, sample_sha256="8", margin=0.5),
        attack(sample_id=8, sample_sha256="8", margin=0.6),
    ]
    message = (
        "^2 certificates are contradicted; the worst is sample 7 of m: isotropic .proved. certifies 3, cw succ.* 1.5$"
    )
    with pytest.raises(Contradiction, match=message):
        check_contradictions(frame(rows))


@pytest.mark.parametrize(("certified", "attacked"), [(1.0, 0.0), (math.inf, 1.0), (1.0 + 1e-15, 1.0)])
def test_extreme_contradictions_are_seen(certified: float, attacked: float) -> None:
    with pytest.raises(Contradiction):
        check_contradictions(frame([row(margin=certified), attack(margin=attacked)]))


@pytest.mark.parametrize(("certified", "attacked"), [(1.0, 1.0), (0.0, 0.0), (0.0, 1.0), (1.0, math.inf)])
def test_what_agrees_passes(certified: float, attacked: float) -> None:
    check_contradictions(frame([row(margin=certified), attack(margin=attacked)]))


def test_tables_without_both_sides_pass() -> None:
    for rows in ([], [row(margin=1.0)], [attack(margin=1.0)], [row(margin=9.0, kind="estimate"), attack(margin=1.0)]):
        check_contradictions(frame(rows))


@pytest.mark.parametrize("label", [{"model": "other name"}, {"dataset": "other name"}, {"sample_id": 1}])
def test_a_contradiction_does_not_hide_behind_another_label(label: dict[str, Any]) -> None:
    with pytest.raises(Contradiction):
        check_contradictions(frame([row(margin=5.0), attack(margin=1.0, **label)]))


def test_the_columns_compared_are_enough_to_see_a_contradiction(tmp_path: Path) -> None:
    write_part(tmp_path, [row(margin=5.0)], "a")
    check_contradictions(load(tmp_path, COMPARED))
    write_part(tmp_path, [attack(margin=1.0, witness="w.npz")], "b")
    said = []
    for columns in (COMPARED, None):
        with pytest.raises(Contradiction, match=r"witness w\.npz$") as stopped:
            check_contradictions(load(tmp_path, columns))
        said.append(str(stopped.value))
    assert said[0] == said[1]


def test_a_contradiction_does_not_hide_behind_an_empty_key(tmp_path: Path) -> None:
    table = frame([row(margin=5.0), attack(margin=1.0)]).assign(reconstruction=None)
    with pytest.raises(Contradiction):
        check_contradictions(table)


# --- several draws, several strengths ---


def draw(seed: int, margin: float, samples: int = 100, **facts: Any) -> Row:
    return row(
        strength="statistical", method="shift", seed=seed, margin=margin, constants=f'{{"samples":{samples}}}', **facts
    )


def test_of_several_draws_one_is_kept_without_looking_at_the_margin() -> None:
    lines = sandwich(frame([draw(2, 0.9), draw(1, 0.3), draw(3, 0.7)]))
    assert lines["certified"].tolist() == [0.3]
    lines = sandwich(frame([draw(1, 0.9), draw(5, 0.2, samples=1000), draw(3, 0.7)]))
    assert lines["certified"].tolist() == [0.2]


def test_the_rule_cannot_be_gamed_by_many_seeds() -> None:
    """Draws that overstate the truth with probability 0.1 each: the line kept does so no more often."""
    generator = np.random.default_rng(0)
    rows = []
    for sample in range(300):
        margins = generator.uniform(0.0, 1.0, 20)  # above 0.9 is too large
        rows += [draw(seed, float(m), sample_id=sample, sample_sha256=str(sample)) for seed, m in enumerate(margins)]
    kept = sandwich(frame(rows))["certified"]
    assert len(kept) == 300
    assert np.mean(kept > 0.9) < 0.17


def test_strengths_have_lines_of_their_own() -> None:
    lines = sandwich(frame([draw(0, 0.9), row(margin=0.4), attack(margin=1.0)]))
    assert lines[["strength", "certified", "attacked"]].values.tolist() == [
        ["proved", 0.4, 1.0],
        ["statistical", 0.9, 1.0],
    ]


def test_overlapping_units_count_an_image_once_per_method_and_radius() -> None:
    same = [row(margin=0.4, unit_key=key) for key in "ab"]
    fixed = [attack(margin=1.0, rho=rho, fixed_radius=True) for rho in (0.5, 0.5, 1.0)]
    searched = [attack(margin=0.8, rho=rho) for rho in (0.7, 0.75)]
    assert len(one_per_question(frame([*same, *fixed, *searched]))) == 1 + 2 + 1


def test_equal_pixels_in_two_datasets_keep_both_pairs() -> None:
    rows = [
        row(dataset="A", unit_key="2", margin=1.0),
        row(dataset="B", unit_key="1", margin=1.0),
        attack(dataset="A", unit_key="3", margin=2.0),
        attack(dataset="B", unit_key="4", margin=2.0),
    ]
    lines = sandwich(frame(rows))
    assert lines[["dataset", "certified", "attacked"]].values.tolist() == [["A", 1.0, 2.0], ["B", 1.0, 2.0]]


def test_a_failed_row_hides_no_good_one_and_a_weak_attack_no_strong_one() -> None:
    failed = row(status="error", margin=None, unit_key="0")
    attacks = [attack(seed=seed, margin=margin) for seed, margin in enumerate((2.0, 0.5, 1.0))]
    lines = sandwich(frame([failed, row(margin=0.25, unit_key="1"), *attacks]))
    assert lines[["certified", "attacked"]].values.tolist() == [[0.25, 0.5]]
    assert set(one_per_question(frame([failed, row(margin=0.25, unit_key="1")]))["status"]) == {"ok"}


def test_the_best_of_several_draws_is_not_taken_whatever_their_methods() -> None:
    """Each unit's confidence is its own: two units with one method each, then one unit with both."""
    told = {"strength": "statistical", "constants": '{"samples":9}', "seed": 0}
    small = row(method="shift", margin=0.2, unit_key="a", **told)
    large = row(method="coupling", margin=0.7, unit_key="b", **told)
    proved = row(method="isotropic", margin=0.1, unit_key="b")
    by_strength = sandwich(frame([large, small, proved])).set_index("strength")["certified"]
    assert by_strength.to_dict() == {"statistical": 0.2, "proved": 0.1}
    together = [replace(one, unit_key="a") for one in (large, small)]
    assert sandwich(frame(together))["certified"].tolist() == [0.7]
