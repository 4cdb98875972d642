"""The row: what a certificate or an attack says of one sample."""

from dataclasses import MISSING, dataclass, fields
from typing import Literal

import pyarrow as pa

SCHEMA_VERSION = 3
KEY = ("model_sha256", "sample_sha256", "norm", "r", "p", "reconstruction", "noise_std")
"""The columns that must agree for a certificate and an attack to speak of the same margin."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One certificate, estimate or attack on one sample.

    Distances (`r`, `rho`, `margin`, `damage`) are in the model's pixel units: `r` and `damage` are L2 distances between
    reconstructions, `rho` and `margin` distances between inputs in the norm named by `norm`: attacks know
    "1" and two counts besides, of pixels ("0") and of single values ("0-values").
    """

    model: str
    model_sha256: str
    dataset: str
    sample_id: int
    sample_sha256: str
    kind: Literal["certificate", "estimate", "attack"]
    strength: Literal["proved", "numerical", "statistical", "empirical"]
    method: str
    norm: Literal["0", "0-values", "1", "2", "inf"] = "2"
    r: float
    r_relative: float | None = None
    """`r` as a share of the median distance between reconstructions of different images, when it was given so."""
    p: float = 0.5
    rho: float | None = None
    """Radius of a fixed-radius attack; for an attacked margin the largest radius tried without success."""
    fixed_radius: bool = False
    """Whether `rho` was given to an attack, rather than found."""
    margin: float | None = None
    """Certified, estimated or attacked margin; infinite for an attack that found nothing up to its largest radius."""
    reconstruction: Literal["sampled", "anchored", "mean", "smoothed"] = "sampled"
    noise_std: float | None = None
    """Standard deviation of the noise that smooths, in pixel units; none where the model itself is meant."""
    confidence: float | None = None
    seed: int | None = None
    status: Literal["ok", "unsupported", "error"] = "ok"
    reason: str = ""
    damage: float | None = None
    """Mean L2 distance between the reconstructions of the clean and the attacked input."""
    n_forward: int = 0
    n_backward: int = 0
    time_s: float = 0.0
    device: str = "cpu"
    dtype: str = "float32"
    witness: str | None = None
    """Path of the `.npz` with the attacked input, relative to the run's folder."""
    constants: str = "{}"
    """JSON: everything a checker needs to recompute the number."""
    unit_key: str = ""
    code: str = ""
    """Which code made the row: version, commit where known, and whether files differed from it."""


_TYPES = {
    "fixed_radius": pa.bool_(),
    "sample_id": pa.int64(),
    "seed": pa.int64(),
    "n_forward": pa.int64(),
    "n_backward": pa.int64(),
    **dict.fromkeys(
        ("r", "r_relative", "p", "rho", "margin", "noise_std", "confidence", "damage", "time_s"), pa.float64()
    ),
}
SCHEMA = pa.schema([(field.name, _TYPES.get(field.name, pa.string())) for field in fields(Row)])
NECESSARY = tuple(field.name for field in fields(Row) if field.default is MISSING)
"""The columns without which a file holds no rows."""
