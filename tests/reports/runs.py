"""Synthetic runs: two models whose margins are known, written to disk as the sweeps write them."""

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from vaerdict.results import Row, write_part

SAMPLES = 40
SHA = {"lipschitz": "1" * 64, "plain_vae": "2" * 64}
R = {"lipschitz": 1.2, "plain_vae": 2.5}


def margins(model: str) -> tuple[np.ndarray, np.ndarray]:
    """Certified and attacked margins of a model, the certified ones below."""
    generator = np.random.default_rng(len(model))
    scale = {"lipschitz": 0.4, "plain_vae": 0.006}[model]
    attacked = {"lipschitz": 1.0, "plain_vae": 0.35}[model] * np.exp(0.3 * generator.standard_normal(SAMPLES))
    certified = attacked * scale * generator.uniform(0.6, 1.0, SAMPLES)
    return certified, attacked


def base(model: str, sample: int) -> dict[str, Any]:
    return {
        "model": model,
        "model_sha256": SHA[model],
        "dataset": "digits",
        "sample_id": sample,
        "sample_sha256": hashlib.sha256(str(sample).encode()).hexdigest(),
        "r": R[model],
        "r_relative": 0.25,
        "time_s": 0.01 * (sample + 1),
    }


def certificates(model: str, method: str = "barrett", scale: float = 1.0, strength: Any = "numerical") -> list[Row]:
    values = margins(model)[0] * scale
    confidence = 0.999 if strength == "statistical" else None
    return [
        Row(**base(model, i), kind="certificate", strength=strength, method=method, margin=m, confidence=confidence)
        for i, m in enumerate(map(float, values))
    ]


def unsupported(model: str, method: str, reason: str, strength: Any = "statistical") -> list[Row]:
    return [
        Row(**base(model, i), kind="certificate", strength=strength, method=method, status="unsupported", reason=reason)
        for i in range(SAMPLES)
    ]


def attacks(model: str, unbroken: int = 0) -> list[Row]:
    values = margins(model)[1].copy()
    values[:unbroken] = np.inf
    return [
        Row(
            **base(model, i), kind="attack", strength="empirical", method="bisection-damage", margin=m, seed=7,
            rho=4.0 if np.isinf(m) else 0.98 * m, n_forward=200 + i, n_backward=100 + i,
        )
        for i, m in enumerate(map(float, values))
    ]  # fmt: skip


def fixed(model: str, method: str, rho: float) -> list[Row]:
    attacked = margins(model)[1]
    damage = R[model] * rho / attacked * (1.0 if method == "pgd-damage" else 0.9)
    return [
        Row(
            **base(model, i), kind="attack", strength="empirical", method=method, rho=rho, fixed_radius=True,
            margin=rho if rho >= attacked[i] and d > R[model] else float("inf"),
            damage=float(d), seed=7, n_forward=50, n_backward=50,
        )
        for i, d in enumerate(damage)
    ]  # fmt: skip


def estimates(model: str) -> list[Row]:
    return [
        replace(row, kind="estimate", strength="empirical", method="first_order", margin=(row.margin or 0.0) * 2)
        for row in certificates(model)
    ]


def full_rows() -> list[Row]:
    rows: list[Row] = []
    for model in SHA:
        rows += certificates(model) + certificates(model, "isotropic", 0.8) + attacks(model) + estimates(model)
        rows += fixed(model, "pgd-damage", 0.5) + fixed(model, "pgd-latent", 0.5)
    rows += certificates("lipschitz", "shift", 0.9, "statistical")
    return rows + unsupported("plain_vae", "shift", "the posterior's std has no global Lipschitz constant: 100% & <b>")


def digit(shape: tuple[int, int, int], seed: int) -> np.ndarray:
    """A smooth blob that looks like something."""
    generator = np.random.default_rng(seed)
    rows, columns = np.mgrid[0 : shape[1], 0 : shape[2]] / shape[1]
    centres = generator.uniform(0.25, 0.75, (3, 2))
    blobs = sum(np.exp(-60 * ((rows - a) ** 2 + (columns - b) ** 2)) for a, b in centres)
    return np.stack([np.clip(blobs * w, 0, 1) for w in np.linspace(1, 0.4, shape[0])]).astype(np.float32)


def with_witnesses(run: Path, rows: list[Row], shape: tuple[int, int, int] = (1, 8, 8)) -> list[Row]:
    """Store a witness for each attacked margin, at exactly that distance."""
    (run / "witnesses").mkdir(parents=True, exist_ok=True)
    return [_with_witness(run, row, shape) if row.method.startswith("bisection") else row for row in rows]


def _with_witness(run: Path, row: Row, shape: tuple[int, int, int]) -> Row:
    assert row.margin is not None
    image, generator = digit(shape, row.sample_id), np.random.default_rng(row.sample_id)
    change = generator.standard_normal(shape)
    length = row.margin if np.isfinite(row.margin) else 4.0
    change *= 0.999999 * length / np.linalg.norm(change)
    name = f"witnesses/{row.model}-{row.sample_id}.npz"
    arrays = {
        "image": image,
        "adversarial": (image + change).astype(np.float32),
        "reconstruction": 0.9 * image,
        "adversarial_reconstruction": (0.9 * np.roll(image, 2, axis=-1)).astype(np.float32),
    }
    np.savez(run / name, **arrays, r=row.r, rho=length)
    return replace(row, witness=name)


def write_run(run: Path, rows: list[Row], shape: tuple[int, int, int] = (1, 8, 8)) -> Path:
    """Write rows, one part per model and method, and their witnesses."""
    rows = with_witnesses(run, rows, shape)
    for key in sorted({(row.model, row.method) for row in rows}):
        write_part(run / "results", [row for row in rows if (row.model, row.method) == key], "-".join(key))
    return run
