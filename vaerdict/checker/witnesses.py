"""Attacked inputs checked again: the image they start from, how far they go, and what they do to the reconstruction."""

import io
import math
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from flint import arb

from vaerdict.checker.balls import tail_of_binomial
from vaerdict.checker.forward import Forward
from vaerdict.checker.layers import Unknown
from vaerdict.checker.maps import TOLERANCE
from vaerdict.checker.model import Model
from vaerdict.checker.notes import Notes
from vaerdict.results import array_sha256, perturbation_size

STAGES = (2000, 16_000)
"""Draws of one check; the second is made where the first leaves it open."""

ALLOWED = 1e-3
"""Chance that the draws confirm what is not so; shared by the stages."""

REFUTED = 1e-6
"""Chance that the draws refute what is so; shared by the stages."""

_EVALUATION = 1e-4
"""What the model's own dtype may change of a distance, relatively: closer to `r` is left open."""


def check_witness(run: Path, row: dict[str, Any], model: Model | None) -> Notes:
    """Check one attack row against its witness.

    Args:
        run: folder of the run.
        row: of the results.
        model: as stored; without it what the input does is taken as stated.
    """
    notes = Notes()
    try:
        image, adversarial = _read(run, str(row["witness"]))
    except ValueError as error:
        notes.fail(str(error))
        return notes
    if array_sha256(image) != row["sample_sha256"]:
        if row["dtype"] == "float32":
            notes.fail("the witness starts from another image than the sample")
        else:
            notes.state("the image of a witness")
    far = perturbation_size(image, adversarial, row["norm"])
    succeeded = math.isfinite(row["margin"])
    claim = row["margin"] if succeeded else row["rho"]
    if not far <= claim * (1 + TOLERANCE):
        notes.fail(f"the witness is {far!r} away from the image, claimed is {claim!r}")
    _check_range(notes, adversarial, model)
    if succeeded:
        _check_effect(notes, row, image, adversarial, model)
    return notes


def _read(run: Path, name: str) -> tuple[np.ndarray, np.ndarray]:
    path = (run / name).resolve()
    if not path.is_relative_to(run.resolve()):
        raise ValueError(f"expected a witness below the run's folder, got {name}")
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as held:
            arrays = held["image"], held["adversarial"]
    except (KeyError, ValueError, OSError, EOFError, BadZipFile) as error:
        raise ValueError(f"cannot read the witness {name}: {error}") from None
    if arrays[0].shape != arrays[1].shape or not all(np.isfinite(one).all() for one in arrays):
        raise ValueError(f"expected finite images of one shape in the witness {name}")
    return arrays


def _check_range(notes: Notes, adversarial: np.ndarray, model: Model | None) -> None:
    if model is None:
        notes.state("the range of a witness's pixels")
        return
    low, high = model.input_range
    if adversarial.min() < low or adversarial.max() > high:
        notes.fail(f"the witness has pixels outside [{low:g}, {high:g}]")


def _check_effect(
    notes: Notes, row: dict[str, Any], image: np.ndarray, adversarial: np.ndarray, model: Model | None
) -> None:
    try:
        if model is None:
            raise Unknown("the model is not stored")
        forward = Forward(model)
        decided = _decide(forward, row, image, adversarial)
    except Unknown:
        notes.state("what a witness does to the reconstruction")
        return
    if decided is None:
        notes.state("what a witness does to the reconstruction, which own draws leave open")
    elif not decided:
        notes.fail(f"own draws refute that P(|Delta| <= r) <= {row['p']:g} at the witness")


def _decide(forward: Forward, row: dict[str, Any], image: np.ndarray, adversarial: np.ndarray) -> bool | None:
    """Tell whether the reconstruction stays within `r` with a probability of at most `p`; None where it is open.

    Confirmed where so few draws within, or fewer, would be rarer than the allowed error at `p`; refuted where so many,
    or more, would be.
    """
    r, p, kind = float(row["r"]), arb(float(row["p"])), str(row["reconstruction"])
    for seed, draws in enumerate(STAGES):
        # A distance that rounding may have moved across `r` counts against whatever would be concluded.
        distances = forward.distances(image, adversarial, reconstruction=kind, draws=draws, seed=seed)
        few, many = (int((distances <= r * slack).sum()) for slack in (1 - _EVALUATION, 1 + _EVALUATION))
        if kind == "mean":
            return False if few else None if many else True
        if 1 - tail_of_binomial(many + 1, draws, p) < ALLOWED / len(STAGES):
            return True
        if tail_of_binomial(few, draws, p) < REFUTED / len(STAGES):
            return False
    return None
