from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.checker.runs import images, scaling_vae
from vaerdict.certify.export import export_model
from vaerdict.checker.model import Model, read_model
from vaerdict.checker.witnesses import check_witness
from vaerdict.results import Row, array_sha256

R = 2.5


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """The mean moves by 3 along each of the first pixels, a reconstruction by 2 per latent: 6 in all."""
    return read_model(export_model(tmp_path_factory.mktemp("run"), scaling_vae(2.0, 3.0, 0.01, 4)))


def write(run: Path, change: float, pixel: int = 0, start: float = 0.4, **facts: Any) -> dict[str, Any]:
    """Write a witness that changes one pixel, and its row."""
    image = np.full((1, 4, 4), start, np.float32)
    adversarial = image.copy()
    adversarial.flat[pixel] += change
    (run / "witnesses").mkdir(exist_ok=True)
    np.savez(run / "witnesses" / "one.npz", image=image, adversarial=adversarial)
    size = float(np.linalg.norm((adversarial.astype(float) - image).ravel()))
    row = Row(
        model="scaling", model_sha256="", dataset="", sample_id=0, sample_sha256=array_sha256(image), kind="attack",
        strength="empirical", method="bisection-damage", r=R, margin=size, rho=size, witness="witnesses/one.npz",
    )  # fmt: skip
    return asdict(replace(row, **facts))


@pytest.mark.parametrize("kind", ["sampled", "anchored", "mean"])
def test_a_true_witness_is_confirmed(tmp_path: Path, model: Model, kind: str) -> None:
    notes = check_witness(tmp_path, write(tmp_path, 0.5, reconstruction=kind), model)
    assert not notes.failures
    assert not notes.stated


@pytest.mark.parametrize("kind", ["sampled", "anchored", "mean"])
@pytest.mark.parametrize(("change", "pixel"), [(0.3, 0), (0.5, 5)])
def test_a_harmless_witness_is_refuted(tmp_path: Path, model: Model, kind: str, change: float, pixel: int) -> None:
    row = write(tmp_path, change, pixel, reconstruction=kind)
    (reason,) = check_witness(tmp_path, row, model).failures
    assert "refute" in reason


@pytest.mark.parametrize("kind", ["anchored", "mean"])
def test_what_is_too_close_to_tell_is_left_open(tmp_path: Path, model: Model, kind: str) -> None:
    """The mean reconstruction moves by `r`; of the random ones about half stay within."""
    row = write(tmp_path, R / 6, reconstruction=kind)
    share = {"mean": 0.5, "anchored": 0.4905}[kind]
    notes = check_witness(tmp_path, {**row, "p": share}, model)
    assert notes.stated == ["what a witness does to the reconstruction, which own draws leave open"]


def test_other_faults_are_named(tmp_path: Path, model: Model) -> None:
    row = write(tmp_path, 0.5)
    far = check_witness(tmp_path, {**row, "margin": row["margin"] * (1 - 1e-6)}, model)
    assert "away from the image" in far.failures[0]
    other = check_witness(tmp_path, {**row, "sample_sha256": "0" * 64}, model)
    assert "another image" in other.failures[0]
    bright = check_witness(tmp_path, write(tmp_path, 0.5, start=0.6), model)
    assert "pixels outside [0, 1]" in bright.failures[0]


def test_an_attack_that_found_nothing_claims_its_radius_only(tmp_path: Path, model: Model) -> None:
    row = write(tmp_path, 0.01, margin=float("inf"))
    assert not check_witness(tmp_path, row, model).failures
    assert check_witness(tmp_path, {**row, "rho": 0.005}, model).failures


@pytest.mark.parametrize("name", ["witnesses/none.npz", "../one.npz", "witnesses/bad.npz"])
def test_files_that_are_no_witness(tmp_path: Path, model: Model, name: str) -> None:
    row = write(tmp_path, 0.5, witness=name)
    (tmp_path / "witnesses" / "bad.npz").write_bytes(b"no zip")
    assert len(check_witness(tmp_path, row, model).failures) == 1


def test_without_the_model_the_effect_is_taken_as_stated(tmp_path: Path) -> None:
    notes = check_witness(tmp_path, write(tmp_path, 0.5), None)
    assert notes.stated == ["the range of a witness's pixels", "what a witness does to the reconstruction"]


@pytest.mark.parametrize("spread", ["constant", "bounded", "log_variance"])
def test_the_forward_pass_is_torchs(tmp_path: Path, spread: str) -> None:
    from tests.checker.runs import small_vae
    from vaerdict.checker.forward import Forward

    vae = small_vae(family="lipschitz_conv", spread=spread)
    forward = Forward(read_model(export_model(tmp_path, vae)))
    with torch.no_grad():
        expected = vae.double().encode(images(1).double())
        decoded = vae.decode(expected.mean).flatten(1).numpy()
    mean, std = forward.posterior(images(1)[0].numpy())
    np.testing.assert_allclose(mean, expected.mean[0].numpy(), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(std, expected.std[0].numpy(), rtol=1e-9)
    np.testing.assert_allclose(forward.decode(mean[None]), decoded, rtol=1e-9, atol=1e-12)
