"""Constants are written column by column, and read back as what was given."""

import json
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vaerdict.certify.methods.batch import per_image
from vaerdict.results import canonical_json

numbers = st.floats(allow_nan=False)


@given(rows=st.lists(st.tuples(numbers, numbers, st.integers(0, 9)), min_size=1, max_size=6), shared=numbers)
def test_columns_become_one_text_per_image(rows: list[tuple[float, float, int]], shared: float) -> None:
    first, second, counts = zip(*rows, strict=True)
    pairs = torch.tensor([first, second], dtype=torch.float64).T
    found = per_image(z=pairs[:, 0], pairs=pairs, shared=shared, counts=list(counts), by=["a,b"] * len(rows), none=None)

    def null(value: float) -> float | None:
        return None if math.isinf(value) else value

    for text, (x, y, count) in zip(found, rows, strict=True):
        held = {"z": null(x), "pairs": [null(x), null(y)], "shared": null(shared), "counts": count, "by": "a,b"}
        assert json.loads(text) == {**held, "none": None}
        assert text == canonical_json(json.loads(text)) or 0.0 in (x, y)  # 0.0 and -0.0 are written alike


@pytest.mark.parametrize("dtype", [torch.int64, torch.float64])
def test_types_are_kept(dtype: torch.dtype) -> None:
    (text,) = per_image(a=torch.tensor([2], dtype=dtype))
    assert text == ('{"a":2}' if dtype == torch.int64 else '{"a":2.0}')


@pytest.mark.parametrize("column", [torch.tensor([1.0, math.nan]), [1.0, math.nan], math.nan])
def test_nan_is_refused(column: object) -> None:
    with pytest.raises(ValueError, match="JSON"):
        per_image(a=column, b=[1, 2])  # type: ignore[arg-type]


def test_columns_of_different_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="longer"):
        per_image(a=[1, 2], b=torch.zeros(3))
