"""Rows to write and to compare, all but what a test is about being the same."""

from typing import Any

from vaerdict.results import Row


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
