"""The row: what a certificate or an attack says of one sample. Rows are written, read and held against each other here.

Parts are Parquet files, immutable, written to a dot-file, synced, then renamed. Imports no torch.
"""

import hashlib
import json
import os
import platform
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from vaerdict import __version__

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
    """Give the SHA-256 that names a unit of work by its content, the schema's and the package's version included."""
    facts |= {"schema": SCHEMA_VERSION, "version": __version__}
    return hashlib.sha256(canonical_json(facts).encode()).hexdigest()


def subjects(
    model: str, model_sha256: str, dataset: str, pixels: np.ndarray, sample_ids: Sequence[int]
) -> list[dict[str, Any]]:
    """Give the columns that say which model and which sample a row speaks of, one dictionary per sample."""
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


def write_atomic(path: Path, content: bytes) -> None:
    """Write a file whole or not at all: to a dot-file beside it, synced, then renamed over the old one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with draft.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def frame(rows: Iterable[Row]) -> pd.DataFrame:
    """Give rows as a typed table."""
    return pa.Table.from_pylist([asdict(row) for row in rows], schema=SCHEMA).to_pandas()


def write_part(folder: Path, rows: Sequence[Row], key: str) -> Path:
    """Write one unit's rows as `folder/<key>.parquet`."""
    table = pa.Table.from_pylist([{**asdict(row), "unit_key": key} for row in rows], schema=SCHEMA)
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    path = folder / f"{key}.parquet"
    write_atomic(path, sink.getvalue().to_pybytes())
    return path


def load(folder: Path) -> pd.DataFrame:
    """Read every part below a folder into one table; columns that an older part lacks are empty.

    Raises:
        FileNotFoundError: there is no part below the folder.
        ValueError: a part cannot be read; the message names it.
    """
    paths = sorted(path for path in Path(folder).rglob("*.parquet") if not path.name.startswith("."))
    if not paths:
        raise FileNotFoundError(f"expected results below {folder}, found no .parquet file")
    tables = [_read(path) for path in paths]
    return pa.concat_tables([SCHEMA.empty_table(), *tables], promote_options="default").to_pandas()


def _read(path: Path) -> pa.Table:
    try:
        table = pq.ParquetFile(path).read()
        known = [SCHEMA.field(field.name) if field.name in SCHEMA.names else field for field in table.schema]
        return table.cast(pa.schema(known))
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"cannot read the part {path}: {error}") from None


def one_per_question(table: pd.DataFrame) -> pd.DataFrame:
    """Leave one row per model, sample, question, method and radius.

    A row without a number gives way to one with it. Of several draws of one statistical certificate the one with the
    most samples is kept, then the one with the lowest seed: a rule that does not look at the margin, so that each keeps
    its confidence. Of several runs of one attack the one that found most is kept.
    """
    names = [*KEY, "model", "dataset", "sample_id", "kind", "method", "strength", "fixed_radius"]
    attack = table["kind"].eq("attack")
    ranked = table.assign(
        _radius=table["rho"].where(table["fixed_radius"].eq(True)),
        _failed=table["status"].ne("ok"),
        _found=table["margin"].where(attack, 0.0),
        _samples=pd.to_numeric(table["constants"].str.extract(r'"samples":(\d+)', expand=False)).where(~attack, 0.0),
    ).sort_values(
        ["_failed", "_found", "_samples", "seed", "unit_key"], ascending=[True, True, False, True, True], kind="stable"
    )
    kept = ranked.drop_duplicates([*names, "_radius"]).sort_index()
    return kept.drop(columns=["_radius", "_failed", "_found", "_samples"])


def sandwich(table: pd.DataFrame) -> pd.DataFrame:
    """Hold certificates and attacks against each other, one line per model, sample, question and strength.

    Returns columns `strength` (of the certificate; empty where there is none), `certified` (best certificate of that
    strength), `certified_by`, `attacked` (smallest attacked margin), `attacked_by`, `witness` (of that attack) and
    `ratio = certified / attacked`, besides `model`, `dataset`, `sample_id` and the key columns.
    """
    return _held_against(one_per_question(table))


def _held_against(table: pd.DataFrame) -> pd.DataFrame:
    table = table[(table["status"] == "ok") & table["margin"].notna()]
    names = [*KEY, "model", "dataset", "sample_id"]
    certificates = table[table["kind"] == "certificate"].sort_values("margin", ascending=False, kind="stable")
    attacks = table[table["kind"] == "attack"].sort_values("margin", kind="stable")
    certified = certificates.drop_duplicates([*names, "strength"]).set_index(names)[["strength", "margin", "method"]]
    attacked = attacks.drop_duplicates(names).set_index(names)[["margin", "method", "witness"]]
    joined = (
        certified.rename(columns={"margin": "certified", "method": "certified_by"})
        .join(attacked.rename(columns={"margin": "attacked", "method": "attacked_by"}), how="outer")
        .reset_index()
    )
    joined["ratio"] = joined["certified"] / joined["attacked"]
    return joined.sort_values(["model", "dataset", "sample_id", "strength"], ignore_index=True)


class Contradiction(AssertionError):
    """A certificate is larger than an attacked margin: one of the two is wrong."""


def check_contradictions(table: pd.DataFrame) -> None:
    """Stop when any certificate is beaten by an attack on the same question, all draws included.

    Raises:
        Contradiction: names the sample, both methods and both margins.
    """
    labels = ["model", "dataset", "sample_id"]  # may differ between runs that speak of the same margin
    named = table.groupby([*KEY], dropna=False)[labels].transform("first")
    joined = _held_against(table.assign(**{label: named[label] for label in labels}))
    beaten = joined[joined["certified"] > joined["attacked"]]
    if len(beaten):
        worst = beaten.sort_values("ratio").iloc[-1]
        witness = f", witness {worst.witness}" if isinstance(worst.witness, str) else ""
        raise Contradiction(
            f"{len(beaten)} certificates are contradicted; the worst is sample {worst.sample_id} of {worst.model}: "
            f"{worst.certified_by} ({worst.strength}) certifies {worst.certified:.6g}, "
            f"{worst.attacked_by} succeeds at {worst.attacked:.6g}{witness}"
        )


def environment() -> dict[str, Any]:
    """Give the facts about machine and software that a result depends on."""
    packages = ("torch", "numpy", "scipy", "pandas", "pyarrow", "vaerdict")
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "packages": {name: metadata.version(name) for name in packages},
    }


def _processor() -> str:
    try:
        facts = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in facts.splitlines() if line.startswith("model name")]
    return names[0] if names else platform.machine()
