"""The numbers that deel-torchlip and orthogonium give for the same weights, in an environment of their own.

Run by `spectral.py` with that environment's Python: reads kernels, writes numbers and the weights of their layers.
"""

import json
import subprocess
import sys
import time
import venv
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

PACKAGES = ("torch==2.13.0", "numpy", "deel-torchlip==1.0.5", "orthogonium==0.0.4")


def ask_peers(folder: Path, kernels: dict[str, np.ndarray], pixels: dict[str, int]) -> tuple[dict[str, Any], str]:
    """Make the environment, if it is not there, and run this file in it; on failure give the reason instead."""
    python = folder / "venv" / "bin" / "python"
    np.savez(folder / "kernels.npz", **kernels)  # type: ignore[arg-type]
    (folder / "pixels.json").write_text(json.dumps(pixels))
    try:
        if not python.exists():
            venv.create(folder / "venv", with_pip=True)
            subprocess.run([python, "-m", "pip", "install", "--quiet", *PACKAGES], check=True, capture_output=True)
        subprocess.run([python, __file__, folder], check=True, capture_output=True, timeout=600)
    except (subprocess.SubprocessError, OSError) as error:
        output = getattr(error, "stderr", None) or str(error).encode()
        return {}, output.decode(errors="replace").strip().splitlines()[-1]
    return json.loads((folder / "peers.json").read_text()), ""


def _timed(function: Callable[[], float]) -> dict[str, float]:
    started = time.perf_counter()
    value = function()
    return {"value": float(value), "seconds": time.perf_counter() - started}


def _numbers(name: str, kernel: Any, pixels: int | None) -> dict[str, dict[str, float]]:
    import torch
    from deel.torchlip.normalizers import spectral_normalization
    from deel.torchlip.utils.lconv_norm import compute_lconv_coef
    from orthogonium.layers.conv.singular_values import get_conv_sv

    flat = kernel.flatten(1)
    start = torch.randn(1, flat.shape[1], generator=torch.Generator().manual_seed(0))
    if pixels is None:
        return {"torchlip": _timed(lambda: spectral_normalization(flat, start)[2])}
    factor = compute_lconv_coef(kernel.shape[2:], (kernel.shape[1], pixels, pixels))
    numbers = {"torchlip": _timed(lambda: float(spectral_normalization(flat, start)[2]) / factor)}
    if kernel.shape[0] <= 64:
        layer = torch.nn.Conv2d(*kernel.shape[1::-1], kernel.shape[2], padding=kernel.shape[2] // 2, bias=False)
        layer.weight.data = kernel
        numbers["orthogonium"] = _timed(lambda: get_conv_sv(layer, 3, return_stab_rank=False))
    return numbers


def _layers() -> dict[str, Any]:
    """Make layers that are meant to be 1-Lipschitz; their weights are to be measured."""
    import torch
    from deel import torchlip
    from orthogonium.layers.conv.AOC import AdaptiveOrthoConv2d
    from orthogonium.layers.linear.ortho_linear import OrthoLinear

    torch.manual_seed(0)
    layers = {
        "torchlip SpectralLinear": torchlip.SpectralLinear(256, 256),
        "torchlip SpectralConv2d": torchlip.SpectralConv2d(16, 16, 3, padding=1),
        "orthogonium OrthoLinear": OrthoLinear(256, 256),
        "orthogonium AdaptiveOrthoConv2d": AdaptiveOrthoConv2d(16, 16, 3, padding=1, padding_mode="zeros"),
    }
    weights = {}
    for name, layer in layers.items():
        sample = torch.randn(2, 256) if "Linear" in name else torch.randn(2, 16, 8, 8)
        for _ in range(5):
            layer.train()(sample)
        weights[name] = layer.eval().weight.detach()
    return weights


def _groups() -> tuple[Any, float]:
    import torch
    from orthogonium.layers.conv.singular_values import get_conv_sv

    torch.manual_seed(0)
    layer = torch.nn.Conv2d(8, 8, 3, padding=1, groups=4, bias=False)
    layer.weight.data *= 0.8
    return layer.weight.detach(), float(get_conv_sv(layer, 5, return_stab_rank=False))


def main(folder: Path) -> None:
    """Write `peers.json` and `layers.npz`."""
    import torch

    warnings.filterwarnings("ignore")
    pixels = json.loads((folder / "pixels.json").read_text())
    with np.load(folder / "kernels.npz") as arrays:
        numbers = {name: _numbers(name, torch.from_numpy(arrays[name]), pixels.get(name)) for name in arrays.files}
    grouped, claimed = _groups()
    np.savez(folder / "layers.npz", grouped=grouped, **_layers())
    (folder / "peers.json").write_text(json.dumps({"numbers": numbers, "groups": claimed}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
