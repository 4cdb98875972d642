"""A sweep on one GPU: units per second, how busy the GPU is, and how far its rows are from the CPU's."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import pandas as pd
from sweeps_engines import figures, run, write_grid

from vaerdict.results import load

_ASK = ["nvidia-smi", "--id=0", "--query-gpu=timestamp,utilization.gpu", "--format=csv,noheader,nounits", "-lms", "200"]
_SAME = ["sample_sha256", "kind", "method", "r", "p", "seed", "radius"]


def on_gpu(folder: Path, model: Path, images: int, devices: tuple[str, str] = ("cpu", "cuda")) -> dict[str, Any]:
    """Do the same grid on the CPU and on a GPU, one worker each, and compare the rows."""
    found: dict[str, Any] = {}
    for place, device in enumerate(devices):
        grid = write_grid(
            folder / f"device-{place}.yaml", models=str(model), data={"limit": images}, questions={"r-relative": 0.5},
            chunk=50, device=device, certify={}, attack={"margin": False, "radii": [0.1 * i for i in range(1, 11)]},
        )  # fmt: skip
        with _watched(device) as seen:
            told = run(grid, folder / f"device-{place}", "local", workers=1)
        facts, first, last = figures(told), told[0]["time"], told[-2]["time"]
        found[device] = {**facts, "units_per_second": (facts["units"] - 1) / facts["between"]}
        busy = [share for moment, share in seen if first <= moment <= last]
        if busy:
            found[device]["busy"] = mean(busy) / 100
    return {**found, **_differences(*(_rows(folder / f"device-{place}") for place in range(2)))}


@contextmanager
def _watched(device: str) -> Iterator[list[tuple[float, float]]]:
    """Fill a list with moments and how busy the GPU was then, in per cent, once the block is left."""
    seen: list[tuple[float, float]] = []
    if device == "cpu":
        yield seen
        return
    with subprocess.Popen(_ASK, stdout=subprocess.PIPE, text=True) as watcher:
        try:
            yield seen
        finally:
            watcher.terminate()
            seen += read_shares(watcher.communicate()[0])


def read_shares(told: str) -> list[tuple[float, float]]:
    r"""Read what `nvidia-smi` prints; its last line may be cut.

    >>> [share for _, share in read_shares("2025/01/31 12:00:00.250, 87\n2025/01")]
    [87.0]
    """
    lines = [line.split(", ") for line in told.splitlines()]
    return [
        (datetime.strptime(line[0], "%Y/%m/%d %H:%M:%S.%f").timestamp(), float(line[1]))
        for line in lines
        if len(line) == 2 and line[1].isdigit()
    ]


def _rows(folder: Path) -> pd.DataFrame:
    table = load(folder / "results")
    return table.assign(radius=table["rho"].where(table["fixed_radius"], 0.0)).set_index(_SAME).sort_index()


def _differences(one: pd.DataFrame, other: pd.DataFrame) -> dict[str, Any]:
    """Give the largest relative differences, of margins of certificates and of damages."""
    if not (one.index.equals(other.index) and one["status"].equals(other["status"])):
        raise RuntimeError("expected the same rows on both devices, got others")
    proofs = one.index.get_level_values("kind") == "certificate"
    parts = {"margins": ("margin", proofs), "damages": ("damage", ~proofs)}
    return {
        f"difference_of_{name}": _difference(one[column][rows], other[column][rows])
        for name, (column, rows) in parts.items()
    }


def _difference(one: pd.Series, other: pd.Series) -> float:
    if not one.isna().equals(other.isna()):
        raise RuntimeError(f"expected numbers in the same rows of both devices, got others in {one.name}")
    ours, theirs = one.dropna().to_numpy(), other.dropna().to_numpy()
    scale = np.maximum(np.abs(ours), np.abs(theirs))
    return float(np.max(np.abs(ours - theirs) / np.where(scale > 0, scale, 1.0), initial=0.0))
