"""What is no part is named, counted and left out, and hides no other part."""

import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.results.rows import row
from vaerdict.results import NECESSARY, SKIPPED, DamagedParts, load, write_part

OURS: dict[str, list[object]] = {name: ["1"] for name in NECESSARY} | {"sample_id": [1], "r": [1.0]}
FOREIGN = {
    "others": ({"x": [1]}, "lacks the column model, model_sha256, dataset, "),
    "nearly": ({name: OURS[name] for name in NECESSARY if name != "r"}, "lacks the column r"),
    "words": (OURS | {"r": ["one"]}, "its column r is no double: "),
    "fraction": (OURS | {"sample_id": [0.5]}, "its column sample_id is no int64: "),
    "nested": (OURS | {"model": [{"a": 1}]}, "its column model is no string: "),
    "gap": ({name: [*values, *values] for name, values in OURS.items()} | {"r": [1.0, None]}, "has no value in a line"),
}


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
def test_a_truncated_part_is_skipped_and_named(tmp_path: Path, share: float) -> None:
    write_part(tmp_path, [row(margin=0.5)], "whole")
    path = write_part(tmp_path / "x", [row()], "half")
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    said = rf"^skipped 1 of 2 files below {tmp_path} that are no parts: x/half\.parquet \(cannot be read: [^\n]+\)$"
    with pytest.warns(DamagedParts, match=said):
        loaded = load(tmp_path)
    assert loaded["margin"].tolist() == [0.5]
    assert list(loaded.attrs[SKIPPED]) == ["x/half.parquet"]


@pytest.mark.parametrize("name", FOREIGN)
def test_a_file_that_holds_no_rows_is_skipped_with_the_reason(tmp_path: Path, name: str) -> None:
    values, why = FOREIGN[name]
    pq.write_table(pa.table(values), tmp_path / f"{name}.parquet")
    write_part(tmp_path, [row()], "ours")
    with pytest.warns(DamagedParts):
        loaded = load(tmp_path)
    assert len(loaded) == 1
    assert loaded.attrs[SKIPPED][f"{name}.parquet"].startswith(why)


def test_a_name_that_stands_twice_is_no_part(tmp_path: Path) -> None:
    columns = [*OURS, "r"]
    pq.write_table(pa.table([pa.array(OURS[name]) for name in columns], names=columns), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=r"a\.parquet \(has several columns r\)$"):
        load(tmp_path)


def test_columns_that_cannot_be_joined_leave_out_the_later_part(tmp_path: Path) -> None:
    for name, value in (("a", 0.5), ("b", "half"), ("c", 1)):
        pq.write_table(pa.table(OURS | {"loss": [value]}), tmp_path / f"{name}.parquet")
    with pytest.warns(DamagedParts, match="1 of 3 .*: b.parquet .Unable to merge"):
        assert load(tmp_path)["loss"].tolist() == [0.5, 1.0]


def test_what_cannot_be_opened_is_skipped(tmp_path: Path) -> None:
    write_part(tmp_path, [row()], "k")
    (tmp_path / "link.parquet").symlink_to(tmp_path / "nowhere")
    with pytest.warns(DamagedParts, match=r"skipped 1 of 2 .*: link\.parquet \(cannot be read: "):
        assert len(load(tmp_path)) == 1


def test_of_many_the_first_five_are_named(tmp_path: Path) -> None:
    for i in range(8):
        (tmp_path / f"{i}.parquet").write_bytes(b"")
    write_part(tmp_path, [row()], "k")
    with pytest.warns(DamagedParts) as warned:
        assert len(load(tmp_path).attrs[SKIPPED]) == 8
    (said,) = (str(one.message) for one in warned)
    assert said.startswith("skipped 8 of 9 files")
    assert said.endswith("), ...")
    assert [f"{i}.parquet" in said for i in range(8)] == [True] * 5 + [False] * 3


def test_where_nothing_can_be_read_it_is_an_error(tmp_path: Path) -> None:
    pq.write_table(pa.table({"x": [1]}), tmp_path / "a.parquet")
    (tmp_path / "b.parquet").write_bytes(b"PAR1")
    said = rf"^expected parts below {tmp_path}, found only a\.parquet \(lacks .*\), b\.parquet \(cannot be read: .*\)$"
    with pytest.raises(ValueError, match=said):
        load(tmp_path)


def test_the_same_files_are_skipped_whichever_columns_are_read(tmp_path: Path) -> None:
    pq.write_table(pa.table({"margin": [1.0]}), tmp_path / "a.parquet")
    (tmp_path / "b.parquet").write_bytes(b"half")
    write_part(tmp_path, [row(margin=2.0)], "k")
    with pytest.warns(DamagedParts, match="2 of 3"):
        assert load(tmp_path, ["margin"])["margin"].tolist() == [2.0]


def body(path: Path) -> range:
    """The places of a file at which its values stand, the description behind them left out."""
    group = pq.read_metadata(path).row_group(0)
    last = group.column(group.num_columns - 1)
    return range(4, (last.dictionary_page_offset or last.data_page_offset) + last.total_compressed_size)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_changed_bit_is_seen_or_does_no_harm(tmp_path: Path, data: st.DataObject) -> None:
    rows = [row(sample_id=i, margin=i / 7, constants=f'{{"a":{i}}}') for i in range(20)]
    path = write_part(tmp_path, rows, "k")
    write_part(tmp_path, [row(margin=0.5)], "z")
    before, content = load(tmp_path), bytearray(path.read_bytes())
    at = data.draw(st.sampled_from(body(path)))
    content[at] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(content)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        loaded = load(tmp_path)
    expected = before.tail(1).reset_index(drop=True) if warned else before
    pd.testing.assert_frame_equal(loaded, expected)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=64), ends=st.booleans())
def test_no_content_of_a_file_stops_the_others(tmp_path: Path, content: bytes, ends: bool) -> None:
    write_part(tmp_path, [row(margin=0.5)], "k")
    (tmp_path / "a.parquet").write_bytes(b"PAR1" + content + b"PAR1" if ends else content)
    with pytest.warns(DamagedParts, match="skipped 1 of 2"):
        assert load(tmp_path)["margin"].tolist() == [0.5]


def test_whole_parts_are_read_without_a_word(tmp_path: Path) -> None:
    for key in "ab":
        write_part(tmp_path, [row(r=np.nextafter(1.0, 2.0))], key)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not load(tmp_path).attrs
