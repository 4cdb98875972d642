"""Commands as a user types them: what they do, and what they say when they are typed wrong."""

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from vaerdict.cli import main
from vaerdict.results import load

FACTORY = """
from torch import nn
from vaerdict.models import wrap

def make():
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(64, 6))
    decoder = nn.Sequential(nn.Linear(6, 64), nn.Softmax(1), nn.Unflatten(1, (1, 8, 8)))
    return wrap(encoder, decoder, input_shape=(1, 8, 8), latent_shape=(6,), spread="constant", std=0.1, name="soft")

def free():
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.Softmax(1))
    decoder = nn.Sequential(nn.Linear(6, 64), nn.Unflatten(1, (1, 8, 8)))
    return wrap(encoder, decoder, input_shape=(1, 8, 8), latent_shape=(6,), spread="log_variance", name="free")
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "lipschitz"
    main(["train", "--hidden=[16]", "--latent=4", "--epochs=1", "--a=2", "--b=1", f"--out={folder}"])
    return folder


@pytest.fixture
def factory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "my_models.py").write_text(FACTORY)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "my_models", raising=False)
    return "my_models"


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Run a command that must fail as wrong usage; give the sentence it says."""
    with pytest.raises(SystemExit) as stop:
        main(list(arguments))
    assert stop.value.code == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("vaerdict: ")
    return lines[0]


def test_from_training_to_report(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    common = ["--model", str(model), "--limit", "3", "--r-relative", "0.5", "--out", str(run)]
    main(["certify", *common, "--samples=200"])
    main(["attack", *common, "--samples=1000", "--radii=[1.0]", "--steps=5"])
    main(["report", str(run)])
    said = capsys.readouterr().out
    assert "certified" in said
    assert (run / "report" / "report.html").is_file()
    table = load(run / "results")
    assert set(table["method"]) == {
        "barrett", "isotropic", "shift", "first_order", "bisection-damage", "pgd-damage"
    }  # fmt: skip
    assert table["r"].nunique() == 1
    assert set(table["r_relative"]) == {0.5}
    saved = (run / "certify.yaml").read_text()
    assert "r_relative: 0.5" in saved
    assert "samples: 200" in saved


def test_a_saved_configuration_does_the_same_again(model: Path, tmp_path: Path) -> None:
    first, again = tmp_path / "first", tmp_path / "again"
    main(["certify", f"--model={model}", "--limit=2", "--r=2", "--methods=[isotropic]", f"--out={first}"])
    main(["certify", f"--config={first / 'certify.yaml'}", f"--out={again}"])
    margins = [load(run / "results")[["sample_id", "method", "margin", "unit_key"]] for run in (first, again)]
    assert margins[0].equals(margins[1])


def test_a_factory_with_weights(factory: str, tmp_path: Path) -> None:
    weights = {
        "encoder.1.weight": torch.zeros(6, 64),
        "encoder.1.bias": torch.zeros(6),
        "decoder.0.weight": torch.zeros(64, 6),
        "decoder.0.bias": torch.zeros(64),
    }
    save_file(weights, tmp_path / "w.safetensors")
    options = [f"--factory={factory}:make", f"--weights={tmp_path / 'w.safetensors'}", f"--out={tmp_path / 'run'}"]
    main(["certify", *options, "--limit=2", "--r=1", "--methods=[shift]", "--samples=100"])
    assert (load(tmp_path / "run" / "results")["margin"] > 1e6).all()  # nothing moves in a model of zeros


def test_help_is_quick_and_shows_dashes() -> None:
    start = time.perf_counter()
    command = [sys.executable, "-m", "vaerdict.cli", "certify", "--help"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert time.perf_counter() - start < 3  # 0.2 s alone; the tests' machine is busy
    assert "--r-relative" in said
    imported = "import sys, vaerdict.cli; vaerdict.cli._build_parsers(); print('torch' in sys.modules)"
    said = subprocess.run([sys.executable, "-c", imported], capture_output=True, text=True, check=True).stdout
    assert said.strip() == "False"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["certify", "--model=MODEL", "--r=0"], "`r` > 0, got 0"),
        (["certify", "--model=MODEL", "--r=-1"], "`r` > 0, got -1"),
        (["certify", "--model=MODEL"], "one of `r` and `r-relative`, got both or none"),
        (["certify", "--model=MODEL", "--r=1", "--p=0.4"], "`p` in [1/2, 1), got 0.4"),
        (["certify", "--model=MODEL", "--r=1", "--p=1"], "`p` in [1/2, 1)"),
        (["certify", "--model=MODEL", "--r=1", "--methods=[baret]"], "unknown method 'baret', known: barrett"),
        (["certify", "--r=1"], "one of `model` and `factory`"),
        (["certify", "--model=nowhere", "--r=1"], "nowhere"),
        (["certify", "--model=model.pt", "--r=1"], "pickle"),
        (["certify", "--model=MODEL", "--r=1", "--data=npz:none.npz[a]"], "none.npz"),
        (["certify", "--model=MODEL", "--r=1", "--data=NPZ[labels]"], "array `labels`"),
        (["certify", "--model=MODEL", "--r=1", "--data=NPZ[wide]"], "expected pixels in [0.0, 1.0]"),
        (["certify", "--model=MODEL", "--r=1", "--data=NPZ[nan]"], "NaN"),
        (["certify", "--model=MODEL", "--r=1", "--data=NPZ[large]"], "expected images of shape (1, 8, 8)"),
        (["certify", "--model=MODEL", "--r=1", "--data=faces"], "digits"),
        (["certify", "--model=MODEL", "--r=1", "--device=tpu9"], "usable torch device, got 'tpu9'"),
        (["certify", "--model=MODEL", "--r=one"], "one"),
        (["certify", "--model=MODEL", "--r=1", "--norms=2"], "--norms"),
        (["attack", "--model=MODEL", "--r=1", "--norm=3"], "3"),
        (["attack", "--model=MODEL", "--r=1", "--radii=[-1]"], "`radii` > 0"),
        (["certify", "--factory=none:make", "--r=1"], "none:make"),
        (["train", "--hidden=[7]", "--out=OUT"], "even positive `hidden`"),
        (["train", "--data=NPZ[digits]", "--out=OUT"], "`held-out` images"),
        (["report", "nowhere"], "nowhere"),
        (["design", "--r=8", "--margin=0"], "`margin` > 0"),
        (["fly"], "demo"),
        ([], "subcommand"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_wrong_usage_is_one_sentence(
    arguments: list[str], said: str, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    archive = tmp_path / "images.npz"
    images = {
        "wide": np.full((2, 8, 8), 1.5, np.float32),
        "nan": np.full((2, 8, 8), np.nan, np.float32),
        "large": np.zeros((2, 9, 9), np.uint8),
        "digits": np.zeros((2, 8, 8), np.uint8),
    }
    np.savez(archive, **images)
    out = tmp_path / "out"
    known = {"MODEL": str(model), "NPZ": f"npz:{archive}", "OUT": str(out)}
    for word, meant in known.items():
        arguments = [argument.replace(word, meant) for argument in arguments]
    if arguments[:1] in (["certify"], ["attack"]):
        arguments = [*arguments, f"--out={out}"]
    assert said in refused(capsys, *arguments)
    assert not out.exists()


def test_weights_that_are_nan_or_do_not_fit(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = load_file(model / "model.safetensors")
    config = json.loads((model / "config.json").read_text())
    name = next(iter(weights))
    for folder, wrong in {"nan": weights[name] * np.nan, "shape": weights[name][:1]}.items():
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "config.json").write_text(json.dumps(config))
        save_file({**weights, name: wrong.contiguous()}, tmp_path / folder / "model.safetensors")
        sentence = refused(capsys, "certify", f"--model={tmp_path / folder}", "--r=1", f"--out={tmp_path / 'out'}")
        assert name in sentence
    assert not (tmp_path / "out").exists()


def test_a_layer_without_a_bound_is_named(factory: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--limit=2", "--r=1", f"--out={tmp_path / 'out'}"]
    sentence = refused(capsys, "certify", f"--factory={factory}:make", "--methods=[isotropic]", *options)
    assert "Softmax" in sentence
    assert "methods that apply: shift, first_order" in sentence
    sentence = refused(capsys, "certify", f"--factory={factory}:free", *options)
    assert "Softmax" in sentence
    assert "methods that apply: first_order" in sentence
    assert not (tmp_path / "out").exists()


def test_a_contradiction_ends_with_status_one(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    options = [f"--model={model}", "--limit=1", "--r=2", f"--out={tmp_path}"]
    main(["attack", *options, "--samples=500"])
    monkeypatch.setattr("vaerdict.certify.methods.isotropic_margins", lambda std, **_: std * 0 + 100)
    with pytest.raises(SystemExit) as stop:
        main(["certify", *options, "--methods=[isotropic]"])
    assert stop.value.code == 1
    said = capsys.readouterr().err
    assert "isotropic (numerical) certifies 100" in said
    assert "witness witnesses/bisection-damage" in said


def test_design_and_doctor(capsys: pytest.CaptureFixture[str]) -> None:
    main(["design", "--r=8", "--margin=0.3085", "--latent=10", "--b=5", "--sigmas=[0.1]"])
    line = capsys.readouterr().out.splitlines()[-1].split()
    assert float(line[2]) == pytest.approx(5.0, abs=2e-3)
    assert float(line[3]) == pytest.approx(5 * float(line[2]), rel=1e-4)
    main(["doctor"])
    said = capsys.readouterr().out
    assert torch.__version__ in said
    assert "auto_LiRPA" in said
