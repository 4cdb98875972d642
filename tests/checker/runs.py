"""Small runs, written as the sweeps write them, and models whose constants are known."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vaerdict.attacks import attack_margin
from vaerdict.certify import certify
from vaerdict.certify.export import export_certificates, export_model
from vaerdict.checker.claims import Claim
from vaerdict.lipschitz import remove_parametrizations
from vaerdict.models import GaussianVAE, build_vae, wrap
from vaerdict.options import CertifyOptions, ModelOptions
from vaerdict.results import Row, write_part

SHAPE = (1, 4, 4)


def small_vae(**changes: Any) -> GaussianVAE:
    options = ModelOptions(**{"hidden": (8,), "latent": 2, "a": 2.0, "b": 3.0, **changes})
    vae = build_vae(options, name="toy", input_shape=SHAPE).eval()
    remove_parametrizations(vae)
    return vae


def scaling_vae(a: float = 2.0, b: float = 3.0, std: float | None = 0.25, latent: int = 4) -> GaussianVAE:
    """The mean is `b` times the first pixels, the reconstruction `a` times the latents: every constant is exact."""
    pixels = 16
    encoder, decoder = nn.Linear(pixels, latent, bias=False), nn.Linear(latent, pixels, bias=False)
    encoder.weight.data = b * torch.eye(latent, pixels)
    decoder.weight.data = a * torch.eye(pixels, latent)
    return wrap(
        nn.Sequential(nn.Flatten(), encoder),
        nn.Sequential(decoder, nn.Unflatten(1, SHAPE)),
        input_shape=SHAPE,
        latent_shape=(latent,),
        spread="constant",
        std=std,
        name="scaling",
    ).eval()


def images(count: int = 3) -> torch.Tensor:
    return torch.rand(count, *SHAPE, generator=torch.Generator().manual_seed(1))


def write_unit(run: Path, rows: list[Row], key: str = "unit") -> Path:
    export_certificates(run, key, rows)
    return write_part(run / "results", rows, key)


def write_run(
    run: Path, vae: GaussianVAE, *, r: float = 2.5, methods: tuple[str, ...] = (), attacked: bool = False
) -> list[Row]:
    """Certify three images and, on request, attack one."""
    options = CertifyOptions(samples=200, local=False, methods=methods)
    rows = certify(vae, images(), r=r, options=options, dataset="random")
    export_model(run, vae)
    write_unit(run, rows)
    if attacked:
        witnesses = run / "witnesses"
        found = attack_margin(vae, images(1), r=r, witness_folder=witnesses, reconstruction="mean", dataset="random")
        write_unit(run, found, "attacks")
        rows += found
    return rows


def edit_json(path: Path, change: Callable[[Any], None]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def make_claim(vae_sha256: str, method: str, margin: float, constants: dict[str, Any], **changes: Any) -> Claim:
    facts: dict[str, Any] = {
        "model_sha256": vae_sha256, "sample_sha256": "", "sample_id": 0, "dataset": "", "method": method,
        "kind": "certificate", "strength": "numerical", "norm": "2", "r": 2.5, "p": 0.5, "reconstruction": "sampled",
        "margin": margin, "confidence": None, "constants": constants,
    }  # fmt: skip
    return Claim(**{**facts, **changes})
