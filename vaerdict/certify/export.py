"""What a certificate rests on, written so that a program without torch can check it again: `vaerdict.checker` does.

Floats are written as hexadecimal strings, so that not one bit is lost.
"""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn.utils import parametrize

from vaerdict.lipschitz import NoSoundBound, bound_lipschitz, trace
from vaerdict.lipschitz.graph.trace import layers_in_a_row
from vaerdict.results import Row, write_atomic
from vaerdict.vae import BoundableVAE, borrowed, fingerprint

FIELDS = (
    "model_sha256", "sample_sha256", "sample_id", "dataset", "method", "kind", "strength", "norm", "r", "p",
    "reconstruction", "noise_std", "margin", "confidence",
)  # fmt: skip
"""The columns of a row that a certificate repeats."""


def export_certificates(folder: Path, key: str, rows: Sequence[Row]) -> Path:
    """Write the certificates among a unit's rows as `folder/certificates/<key>.json`, in the order of the rows.

    Args:
        folder: of the run.
        key: of the unit.
        rows: of the unit; estimates, attacks and what does not apply are left out.

    Returns:
        The file.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     export_certificates(Path(folder), "key", []).read_text()
    '{"certificates": []}'
    """
    certificates = [row for row in rows if row.kind == "certificate" and row.status == "ok"]
    path = folder / "certificates" / f"{key}.json"
    write_atomic(path, json.dumps({"certificates": list(map(_certificate, certificates))}).encode())
    return path


def _certificate(row: Row) -> dict[str, Any]:
    facts = {name: getattr(row, name) for name in FIELDS}
    return encode_numbers({**facts, "constants": json.loads(row.constants), "claim": _claim(row)})


def _claim(row: Row) -> str:
    reconstruction = {
        "sampled": "two reconstructions, one sampled from the moved and one from the unmoved image,",
        "anchored": "a reconstruction sampled from the moved image and that of the unmoved image's mean",
        "mean": "the mean reconstructions of the moved and of the unmoved image",
        "smoothed": f"any centres found for the moved and the unmoved image, with noise of {row.noise_std!r},",
    }[row.reconstruction]
    chance = "" if row.reconstruction in ("mean", "smoothed") else f" with a probability above {row.p!r}"
    sure = "" if row.confidence is None else f"; this is so with confidence {row.confidence!r}"
    norm = "maximum" if row.norm == "inf" else "L2"
    return (
        f"for every change of the image of {norm} norm at most {row.margin!r}, {reconstruction} "
        f"are within {row.r!r} in L2{chance}{sure}"
    )


def encode_numbers(value: Any) -> Any:
    """Write floats as hexadecimal strings, inside lists and dictionaries too; whole numbers stay.

    >>> encode_numbers({"margin": 3.0, "samples": 2000})
    {'margin': '0x1.8000000000000p+1', 'samples': 2000}
    """
    if isinstance(value, dict):
        return {name: encode_numbers(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [encode_numbers(one) for one in value]
    return value.hex() if isinstance(value, float) else value


def export_model(folder: Path, vae: BoundableVAE) -> Path:
    """Write a model's weights and layers as `folder/certificates/<fingerprint>/`; what is there already stays.

    `weights.safetensors` holds every parameter and buffer as stored. `network.json` holds the architecture as torch
    prints it, and for each of the maps `mean`, `std` and `decoder` its layers in a row with the constant claimed for
    each, or the reason why it has none.

    Args:
        folder: of the run.
        vae: the model; a torch module. Constrained layers must be frozen, or their constants are not exported.

    Returns:
        The model's folder.
    """
    assert isinstance(vae, nn.Module)
    with borrowed(vae), torch.no_grad():
        home = folder / "certificates" / fingerprint(vae)
        weights, network = home / "weights.safetensors", home / "network.json"
        if not (weights.is_file() and network.is_file()):
            tensors = [*vae.named_parameters(remove_duplicate=False), *vae.named_buffers(remove_duplicate=False)]
            # Copies, because safetensors refuses tensors that share their memory.
            write_atomic(weights, save({name: one.detach().cpu().clone().contiguous() for name, one in tensors}))
            write_atomic(network, json.dumps(encode_numbers(_network(vae)), indent=1).encode())
    return home


def _network(vae: BoundableVAE) -> dict[str, Any]:
    image, latents = tuple(vae.input_shape), (vae.latent,)
    std = vae.std_map
    maps = {
        "mean": _map(vae, vae.mean_map, image),
        "std": {"layers": None, "reason": "the standard deviations are constant"} if std is None else None,
        "decoder": _map(vae, vae.decoder_map, latents),
    }
    if std is not None:
        maps["std"] = _map(vae, std, image)
    return {"repr": repr(vae), "input_shape": image, "input_range": vae.input_range, "latent": vae.latent, "maps": maps}


def _map(vae: BoundableVAE, module: nn.Module, shape: tuple[int, ...]) -> dict[str, Any]:
    """Describe a map as layers in a row, or say why it is none."""
    try:
        nodes = layers_in_a_row(trace(module, shape))
        bound = bound_lipschitz(module, shape)
        layers = [node.layer for node in nodes if node.layer is not None]
        entries = [_layer(vae, layer) for layer in layers]
    except NoSoundBound as reason:
        return {"input_shape": shape, "layers": None, "reason": str(reason), "constant": math.inf}
    told = [
        {**entry, "constant": factor.value, "evidence": factor.evidence}
        for entry, factor in zip(entries, bound.factors, strict=True)
    ]
    return {"input_shape": shape, "layers": told, "constant": bound.value}


def _layer(vae: BoundableVAE, layer: nn.Module) -> dict[str, Any]:
    """Give a layer's place in the model (none where the map added it), its print and the names of its tensors."""
    assert isinstance(vae, nn.Module)
    path = next((name for name, one in vae.named_modules(remove_duplicate=False) if one is layer), "")
    if any(parametrize.is_parametrized(one) for one in layer.modules()):
        raise NoSoundBound(f"layer `{path}` is constrained; `remove_parametrizations` freezes it")
    held: list[tuple[str, Tensor]] = [*layer.named_parameters(), *layer.named_buffers()]
    if held and not path:
        raise NoSoundBound("a layer has weights that are not the model's")
    return {"path": path, "text": repr(layer), "tensors": {name: f"{path}.{name}" for name, _ in held}}
