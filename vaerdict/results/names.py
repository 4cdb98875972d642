"""Names by content: of arrays, of samples and of units of work; and the size of a change, as a row names it."""

import hashlib
import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from vaerdict import __version__
from vaerdict.results.row import SCHEMA_VERSION


def array_sha256(array: np.ndarray) -> str:
    """Give the SHA-256 of an array's little-endian bytes, type and shape.

    >>> array_sha256(np.zeros(2, np.float32))[:8]
    'd19a946c'
    """
    values = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
    header = f"{values.dtype.str} {array.shape}\n".encode()
    digest = hashlib.sha256(header)
    digest.update(values.data)
    return digest.hexdigest()


def perturbation_size(image: np.ndarray, changed: np.ndarray, norm: str) -> float:
    """Give the norm of the change between two images, as a row names it, from their values in float64.

    >>> perturbation_size(np.zeros((3, 1, 1)), np.ones((3, 1, 1)), "0")
    1.0
    """
    change = changed.astype(np.float64) - image.astype(np.float64)
    if norm == "0" and change.ndim >= 3:  # all channels of a pixel together
        return float((change != 0).any(0).sum())
    return float(np.linalg.norm(change.ravel(), float(norm.removesuffix("-values"))))


def canonical_json(value: Any) -> str:
    """Write JSON that is the same for equal values of equal types: sorted keys, no spaces.

    Raises:
        ValueError: a number is NaN or infinite, which JSON cannot hold.

    >>> canonical_json({"b": 1, "a": [0.5]})
    '{"a":[0.5],"b":1}'
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def unit_key(**facts: Any) -> str:
    """Give the SHA-256 that names a unit of work by its content, the schema's and the package's version included.

    The commit is not: a unit that is done stays done while its code is worked on, and its rows say which code made it.

    >>> unit_key(method="shift", r=1.0) == unit_key(r=1.0, method="shift") != unit_key(method="shift", r=2.0)
    True
    """
    facts |= {"schema": SCHEMA_VERSION, "version": __version__}
    return hashlib.sha256(canonical_json(facts).encode()).hexdigest()


def subjects(
    model: str, model_sha256: str, dataset: str, pixels: np.ndarray, sample_ids: Sequence[int]
) -> list[dict[str, Any]]:
    """Give the columns that say which model and which sample a row speaks of, one dictionary per sample.

    Raises:
        ValueError: there are more samples than numbers, or fewer.

    >>> (one,) = subjects("a", "00", "digits", np.zeros((1, 1, 2, 2)), [7])
    >>> one["model"], one["sample_id"]
    ('a', 7)
    """
    return [
        {
            "model": model,
            "model_sha256": model_sha256,
            "dataset": dataset,
            "sample_id": int(sample_id),
            "sample_sha256": array_sha256(sample),
        }
        for sample_id, sample in zip(sample_ids, pixels, strict=True)
    ]
