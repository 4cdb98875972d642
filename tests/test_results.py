"""Rows survive the disk; certificates and attacks meet, and a certificate that is beaten stops the run."""

import hashlib
import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from vaerdict.results import (
    SCHEMA,
    Contradiction,
    Row,
    array_sha256,
    canonical_json,
    check_contradictions,
    environment,
    frame,
    load,
    one_per_question,
    sandwich,
    subjects,
    unit_key,
    write_atomic,
    write_part,
)


def row(**facts: Any) -> Row:
    base: dict[str, Any] = {
        "model": "m",
        "model_sha256": "a",
        "dataset": "d",
        "sample_id": 0,
        "sample_sha256": "s",
        "kind": "certificate",
        "strength": "proved",
        "method": "shift",
        "r": 1.0,
    }
    return Row(**{**base, **facts})


def attack(**facts: Any) -> Row:
    return row(**{"kind": "attack", "strength": "empirical", "method": "pgd", **facts})


# --- rows on the disk ---

text = st.text(st.characters(codec="utf-8"), max_size=8)
number = st.floats(allow_nan=False)
full_rows = st.builds(
    row,
    model=text,
    sample_id=st.integers(0, 2**63 - 1),
    kind=st.sampled_from(["certificate", "estimate", "attack"]),
    r=number,
    margin=st.none() | number,
    rho=st.none() | number,
    seed=st.integers(0, 2**53),
    witness=st.none() | text,
    reason=text,
)


@settings(max_examples=40, deadline=None)
@given(rows=st.lists(full_rows, min_size=1, max_size=4))
def test_rows_come_back_as_they_were_written(rows: list[Row], tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("parts")
    assert write_part(folder, rows, "key") == folder / "key.parquet"
    loaded = load(folder)
    pd.testing.assert_frame_equal(loaded, frame(rows).assign(unit_key="key"), check_dtype=True)
    for written, read in zip(rows, loaded.itertuples(), strict=True):
        for name in ("model", "sample_id", "kind", "r", "margin", "rho", "seed", "witness", "reason"):
            value = getattr(written, name)
            assert pd.isna(getattr(read, name)) if value is None else getattr(read, name) == value


def test_columns_have_their_types_even_when_empty(tmp_path: Path) -> None:
    path = write_part(tmp_path, [row()], "k")
    assert pq.read_schema(path).remove_metadata() == SCHEMA
    types = load(tmp_path).dtypes
    for name in ("r", "r_relative", "p", "rho", "margin", "noise_std", "confidence", "damage", "time_s"):
        assert types[name] == np.float64
    for name in ("sample_id", "n_forward", "n_backward"):
        assert types[name] == np.int64
    assert load(tmp_path)["witness"].isna().all()


def test_a_part_without_rows_has_all_columns(tmp_path: Path) -> None:
    write_part(tmp_path, [], "k")
    loaded = load(tmp_path)
    assert (len(loaded), list(loaded.columns)) == (0, SCHEMA.names)
    assert list(frame([]).columns) == SCHEMA.names


def test_infinite_margins_are_kept(tmp_path: Path) -> None:
    write_part(tmp_path, [attack(margin=math.inf)], "k")
    assert load(tmp_path)["margin"].tolist() == [math.inf]


def test_an_older_part_may_lack_columns_and_have_others(tmp_path: Path) -> None:
    write_part(tmp_path, [row(margin=1.0, witness="w.npz")], "b")
    table = pa.Table.from_pylist([{**row(margin=2.0).__dict__, "loss": 0.5}])
    pq.write_table(table.select(["model", "sample_id", "margin", "loss"]), tmp_path / "a.parquet")
    loaded = load(tmp_path)
    assert loaded["margin"].tolist() == [2.0, 1.0]
    assert list(loaded["witness"].isna()) == [True, False]
    assert list(loaded.columns) == [*SCHEMA.names, "loss"]
    assert loaded["loss"][0] == 0.5
    assert math.isnan(loaded["loss"][1])


def test_parts_are_found_in_sub_folders_and_drafts_are_not(tmp_path: Path) -> None:
    write_part(tmp_path / "x" / "y", [row()], "k")
    (tmp_path / ".k.parquet").write_bytes(b"half a dra")
    (tmp_path / ".k.parquet.77").write_bytes(b"half a dra")
    (tmp_path / "notes.txt").write_text("no part")
    assert len(load(tmp_path)) == 1


def test_no_parts_are_an_error(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "absent"):
        with pytest.raises(FileNotFoundError, match=f"expected results below {folder}, found no .parquet file"):
            load(folder)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
def test_a_truncated_part_is_named(tmp_path: Path, share: float) -> None:
    write_part(tmp_path, [row()], "whole")
    path = write_part(tmp_path, [row()], "half")
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(ValueError, match=f"^cannot read the part {path}: "):
        load(tmp_path)


def test_a_part_of_other_types_is_named(tmp_path: Path) -> None:
    path = tmp_path / "old.parquet"
    pq.write_table(pa.table({"model": ["m"], "r": ["one"]}), path)
    with pytest.raises(ValueError, match=str(path)):
        load(tmp_path)


# --- atomic writes ---


def test_an_interrupted_write_leaves_the_old_file_and_no_draft(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError("no space left on device")

    path = write_part(tmp_path, [row(margin=1.0)], "k")
    before = path.read_bytes()
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space left"):
        write_part(tmp_path, [row(margin=2.0)], "k")
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["k.parquet"]


def test_content_is_synced_before_it_takes_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, seen = tmp_path / "new" / "file", []
    monkeypatch.setattr(
        os, "fsync", lambda _: seen.append((path.exists(), [p.stat().st_size for p in path.parent.iterdir()]))
    )
    write_atomic(path, b"content")
    assert seen[0] == (False, [7])
    assert path.read_bytes() == b"content"
    assert list(path.parent.iterdir()) == [path]


def test_a_file_is_replaced(tmp_path: Path) -> None:
    for content in (b"long content", b"short", b""):
        write_atomic(tmp_path / "file", content)
        assert (tmp_path / "file").read_bytes() == content


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


def test_a_contradiction_does_not_hide_behind_an_empty_key(tmp_path: Path) -> None:
    table = frame([row(margin=5.0), attack(margin=1.0)]).assign(reconstruction=None)
    with pytest.raises(Contradiction):
        check_contradictions(table)


# --- names by content ---


@settings(max_examples=60, deadline=None)
@given(facts=st.dictionaries(st.text("abc", min_size=1), st.integers() | text, min_size=1), data=st.data())
def test_a_units_key_follows_every_fact_and_not_their_order(facts: dict[str, Any], data: st.DataObject) -> None:
    shuffled = dict(data.draw(st.permutations(list(facts.items()))))
    assert unit_key(**shuffled) == unit_key(**facts)
    name = data.draw(st.sampled_from(sorted(facts)))
    assert unit_key(**{**facts, name: [facts[name]]}) != unit_key(**facts)
    assert unit_key(**{**facts, f"{name}d": facts[name]}) != unit_key(**facts)
    assert unit_key(**{k: v for k, v in facts.items() if k != name}) != unit_key(**facts)


def test_a_units_key_follows_the_schemas_version(monkeypatch: pytest.MonkeyPatch) -> None:
    before = unit_key(a=1)
    monkeypatch.setattr("vaerdict.results.SCHEMA_VERSION", 999)
    assert unit_key(a=1) != before


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
)


@given(value=json_values)
def test_canonical_json_is_json_without_spaces_that_reads_back(value: Any) -> None:
    assert json.loads(canonical_json(value)) == value
    assert canonical_json(json.loads(canonical_json(value))) == canonical_json(value)


def test_canonical_json_sorts_inside_too() -> None:
    assert canonical_json({"b": {"d": 1, "c": 2}, "a": (1, None)}) == '{"a":[1,null],"b":{"c":2,"d":1}}'


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_canonical_json_refuses_what_is_not_json(value: float) -> None:
    with pytest.raises(ValueError, match="JSON"):
        canonical_json({"a": [value]})


@given(
    array=arrays(st.sampled_from([np.uint8, np.float32, np.float64, np.int64]), array_shapes(max_dims=4, max_side=4))
)
def test_an_arrays_hash_is_of_its_values_not_its_layout(array: np.ndarray) -> None:
    digest = array_sha256(array)
    assert digest == array_sha256(np.asfortranarray(array)) == array_sha256(array[::-1][::-1])
    assert digest == array_sha256(array.astype(array.dtype.newbyteorder(">")))
    header = f"{array.dtype.newbyteorder('<').str} {array.shape}\n".encode()
    assert digest == hashlib.sha256(header + array.tobytes()).hexdigest()


def test_an_arrays_hash_follows_values_type_and_shape() -> None:
    variants = [
        np.zeros(4, np.float32),
        np.array([0, 0, 0, -0.0], np.float32),
        np.zeros((2, 2), np.float32),
        np.zeros((4, 1), np.float32),
        np.zeros(4, np.int32),
        np.zeros(2, np.float64),
        np.zeros(0, np.float32),
    ]
    assert len({array_sha256(array) for array in variants}) == len(variants)


def test_an_arrays_hash_tells_a_scalar_from_one_value() -> None:
    assert array_sha256(np.array(1.0)) != array_sha256(np.array([1.0]))


def test_subjects_name_model_and_sample() -> None:
    pixels = np.arange(4, dtype=np.float32).reshape(2, 1, 1, 2)
    first, second = subjects("m", "a", "d", pixels, [5, 9])
    assert first == {
        "model": "m",
        "model_sha256": "a",
        "dataset": "d",
        "sample_id": 5,
        "sample_sha256": array_sha256(pixels[0]),
    }
    assert second["sample_id"] == 9
    assert second["sample_sha256"] == array_sha256(pixels[1]) != first["sample_sha256"]
    with pytest.raises(ValueError, match="argument 2 is longer"):
        subjects("m", "a", "d", pixels, [5])


def test_a_samples_hash_does_not_depend_on_its_batch() -> None:
    pixels = np.random.default_rng(0).random((3, 1, 2, 2), dtype=np.float32)
    together = subjects("m", "a", "d", pixels, [0, 1, 2])
    assert together[1] == subjects("m", "a", "d", pixels[1:2], [1])[0]


# --- provenance ---


def test_the_environment_has_versions_and_is_json() -> None:
    facts = environment()
    assert {"torch", "numpy", "scipy", "pandas", "pyarrow", "vaerdict"} == set(facts["packages"])
    assert facts["packages"]["numpy"] == np.__version__
    assert facts["packages"]["pyarrow"] == pa.__version__
    assert facts["python"].startswith("3.")
    assert facts["cores"] >= 1
    assert json.loads(canonical_json(facts)) == facts


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
    kept = []
    for _ in range(300):
        margins = generator.uniform(0.0, 1.0, 20)  # above 0.9 is too large
        kept += sandwich(frame([draw(seed, float(m)) for seed, m in enumerate(margins)]))["certified"].tolist()
    assert np.mean(np.array(kept) > 0.9) < 0.17


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
