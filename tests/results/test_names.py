"""Units, arrays and samples are named by their content."""

import hashlib
import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from vaerdict.results import array_sha256, canonical_json, subjects, unit_key

text = st.text(st.characters(codec="utf-8"), max_size=8)


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
    monkeypatch.setattr("vaerdict.results.names.SCHEMA_VERSION", 999)
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
