"""Witnesses: the attacked inputs that rows cite, each checked again before a report cites it."""

import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import pandas as pd

from vaerdict.results import perturbation_size

ARRAYS = ("image", "adversarial", "reconstruction", "adversarial_reconstruction")
SLACK = 1e-6
"""Relative slack of a distance: images are float32, distances are recomputed in float64."""


@dataclass(frozen=True, kw_only=True)
class Witness:
    """One checked witness: its arrays `[C, H, W]` in pixel units and the distance from image to attacked input."""

    path: str
    image: np.ndarray
    adversarial: np.ndarray
    reconstruction: np.ndarray
    adversarial_reconstruction: np.ndarray
    distance: float
    content: bytes


def cited(table: pd.DataFrame) -> pd.DataFrame:
    """Give the attacks that name a witness.

    >>> from vaerdict import results
    >>> len(cited(results.frame([])))
    0
    """
    return table[(table["kind"] == "attack") & (table["status"] == "ok") & table["witness"].notna()]


def check_witnesses(run: Path, table: pd.DataFrame) -> dict[str, Witness]:
    """Read each cited witness and check it against every row that cites it.

    Arrays must be finite and of one shape, and the attacked input no further from the image than the row claims, in
    the row's norm: the attacked margin, or the fixed radius `rho` of an attack that found nothing.

    Raises:
        ValueError: a witness fails; the message names the file.

    >>> from vaerdict import results
    >>> check_witnesses(Path("."), results.frame([]))
    {}
    """
    return {witness.path: witness for witness in _checked(Path(run), cited(table))}


def _checked(run: Path, rows: pd.DataFrame) -> Iterator[Witness]:
    for (name, norm), held in rows.groupby(["witness", "norm"], sort=True):
        content = _content(run, str(name))
        arrays = _arrays(str(name), content)
        distance = perturbation_size(arrays["image"], arrays["adversarial"], str(norm))
        claims = held["margin"].where(np.isfinite(held["margin"].fillna(np.inf)), held["rho"])
        for claim in claims:
            if not distance <= claim * (1 + SLACK):
                raise ValueError(f"witness {name}: expected a distance <= {claim:.6g}, got {distance:.6g}")
        yield Witness(path=str(name), **arrays, distance=distance, content=content)


def _content(run: Path, name: str) -> bytes:
    path = (run / name).resolve()
    if not path.is_relative_to(run.resolve()):
        raise ValueError(f"witness {name}: expected a path below the run's folder, got {path}")
    try:
        return path.read_bytes()
    except OSError as error:
        raise ValueError(f"witness {name}: expected a readable file, got {error.strerror}") from None


def _arrays(name: str, content: bytes) -> dict[str, np.ndarray]:
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as held:
            arrays = {key: np.asarray(held[key]) for key in ARRAYS}
    except (KeyError, ValueError, OSError, EOFError, BadZipFile) as error:
        raise ValueError(f"witness {name}: expected the arrays {', '.join(ARRAYS)}, got {error}") from None
    shapes = {array.shape for array in arrays.values()}
    if len(shapes) > 1 or any(array.ndim != 3 for array in arrays.values()):
        raise ValueError(f"witness {name}: expected four arrays of one shape [C, H, W], got {sorted(shapes)}")
    if not all(np.isfinite(array).all() for array in arrays.values()):
        raise ValueError(f"witness {name}: expected finite pixels, got nan or inf")
    return arrays
