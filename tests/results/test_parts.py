"""Rows survive the disk, in parts old and new."""

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.results.rows import attack, row
from vaerdict.results import NECESSARY, SCHEMA, Row, code_version, frame, load, write_part

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
    pd.testing.assert_frame_equal(loaded, frame(rows).assign(unit_key="key", code=code_version()))
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
    pq.write_table(table.select([*NECESSARY, "margin", "loss"]), tmp_path / "a.parquet")
    loaded = load(tmp_path)
    assert loaded["margin"].tolist() == [2.0, 1.0]
    assert list(loaded["witness"].isna()) == [True, False]
    assert list(loaded.columns) == [*SCHEMA.names, "loss"]
    assert loaded["loss"][0] == 0.5
    assert math.isnan(loaded["loss"][1])
    assert loaded["code"].isna().tolist() == [True, False]
    assert not loaded.attrs


def test_an_older_part_of_other_types_is_cast(tmp_path: Path) -> None:
    table = pa.table({**{name: ["1"] for name in NECESSARY}, "r": [2], "seed": [3.0], "margin": ["0.5"]})
    pq.write_table(table, tmp_path / "a.parquet")
    write_part(tmp_path, [row()], "b")
    loaded = load(tmp_path)
    assert (loaded.dtypes == frame([row(seed=None)]).dtypes)[["r", "sample_id", "margin", "model"]].all()
    assert loaded.loc[0, ["r", "seed", "margin"]].tolist() == [2.0, 3.0, 0.5]


def test_columns_of_parts_alone_are_joined_where_they_can_be(tmp_path: Path) -> None:
    for name, value in (("a", 1), ("b", 0.5), ("c", None)):
        pq.write_table(pa.Table.from_pylist([{**row().__dict__, "loss": value}]), tmp_path / f"{name}.parquet")
    loss = load(tmp_path)["loss"]
    assert loss.tolist()[:2] == [1.0, 0.5]
    assert math.isnan(loss[2])


def test_many_parts_come_in_the_order_of_their_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vaerdict.results.reading._BLOCK", 4)
    for i in range(11):
        write_part(tmp_path, [row(sample_id=i, constants=f'{{"i":{i}}}'), row(sample_id=i)], f"{i:02d}")
    loaded = load(tmp_path)
    assert loaded["sample_id"].tolist() == [i for i in range(11) for _ in range(2)]
    assert loaded["constants"].tolist()[::2] == [f'{{"i":{i}}}' for i in range(11)]
    pd.testing.assert_frame_equal(load(tmp_path, ["constants", "sample_id"]), loaded[["constants", "sample_id"]])


def test_only_the_columns_asked_for_are_read(tmp_path: Path) -> None:
    write_part(tmp_path, [row(margin=1.0, witness="w.npz")], "b")
    table = pa.Table.from_pylist([{**row().__dict__, "loss": 0.5}]).select([*NECESSARY, "loss"])
    pq.write_table(table, tmp_path / "a.parquet")
    loaded = load(tmp_path, ["witness", "loss", "margin"])
    pd.testing.assert_frame_equal(loaded, load(tmp_path)[["witness", "loss", "margin"]])
    assert len(load(tmp_path, ["unit_key"])) == 2
    with pytest.raises(ValueError, match=rf"^expected `columns` that the rows below {tmp_path} have, got \['lost'\]$"):
        load(tmp_path, ["margin", "lost"])


def test_a_loaded_table_may_be_changed(tmp_path: Path) -> None:
    write_part(tmp_path, [row(margin=1.0)], "k")
    loaded = load(tmp_path)
    loaded.loc[0, "margin"] = 2.0
    loaded.loc[0, "seed"] = 3
    assert loaded[["margin", "seed"]].values.tolist() == [[2.0, 3.0]]


def test_a_part_says_which_code_made_it(tmp_path: Path) -> None:
    write_part(tmp_path, [row(code="told otherwise")], "k")
    assert load(tmp_path)["code"].tolist() == [code_version()]


def test_parts_are_found_in_sub_folders_and_drafts_are_not(tmp_path: Path) -> None:
    write_part(tmp_path / "x" / "y", [row()], "k")
    (tmp_path / ".k.parquet").write_bytes(b"half a dra")
    (tmp_path / ".k.parquet.77").write_bytes(b"half a dra")
    (tmp_path / "folder.parquet").mkdir()
    (tmp_path / "notes.txt").write_text("no part")
    assert len(load(tmp_path)) == 1


def test_no_parts_are_an_error(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "absent"):
        with pytest.raises(FileNotFoundError, match=f"expected results below {folder}, found no .parquet file"):
            load(folder)
