from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from tests.checker.runs import small_vae
from vaerdict.certify.export import export_model
from vaerdict.checker.model import read_model
from vaerdict.checker.weights import fingerprint, read_weights
from vaerdict.models import GaussianVAE, wrap
from vaerdict.vae import fingerprint as fingerprint_by_torch


def with_all_kinds() -> GaussianVAE:
    """Buffers, whole numbers, a scalar, a layer used twice, another float type."""
    shared = nn.Linear(16, 16)
    encoder = nn.Sequential(nn.Flatten(), shared, nn.BatchNorm1d(16), shared, nn.Linear(16, 3))
    decoder = nn.Sequential(nn.Linear(3, 16), nn.Unflatten(1, (1, 4, 4)))
    vae = wrap(
        encoder.eval(), decoder, input_shape=(1, 4, 4), latent_shape=(3,), spread="constant", std=0.1, name="all\nkinds"
    )
    vae.register_buffer("a_half", torch.ones(2, dtype=torch.float16))
    vae.register_buffer("a_brain", torch.ones(2, 1, dtype=torch.bfloat16), persistent=False)
    vae.register_buffer("flag", torch.tensor(True))
    return vae


@pytest.mark.parametrize("make", [small_vae, with_all_kinds])
def test_the_fingerprint_is_the_models(tmp_path: Path, make) -> None:  # type: ignore[no-untyped-def]
    vae = make()
    home = export_model(tmp_path, vae)
    assert home.name == fingerprint_by_torch(vae)
    model = read_model(home)
    assert fingerprint(model.network["repr"], model.weights) == home.name


def test_numbers_are_read_exactly(tmp_path: Path) -> None:
    vae = small_vae()
    weights = read_weights(export_model(tmp_path, vae) / "weights.safetensors")
    for name, tensor in vae.state_dict().items():
        np.testing.assert_array_equal(weights[name].numbers(), tensor.double().numpy())


def test_types_without_numbers_here_are_refused(tmp_path: Path) -> None:
    weights = read_weights(export_model(tmp_path, with_all_kinds()) / "weights.safetensors")
    with pytest.raises(ValueError, match="BF16"):
        weights["a_brain"].numbers()


@pytest.mark.parametrize("content", [b"", b"12345678", b"\x02" + bytes(7) + b"[]", b"\xff" * 30])
def test_another_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "weights.safetensors"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="expected a safetensors file"):
        read_weights(path)


def test_exporting_again_leaves_what_is_there(tmp_path: Path) -> None:
    vae = small_vae()
    path = export_model(tmp_path, vae) / "network.json"
    before = path.stat().st_mtime_ns
    export_model(tmp_path, vae)
    assert path.stat().st_mtime_ns == before
