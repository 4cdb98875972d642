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
from vaerdict.options import METHOD_NAMES
from vaerdict.results import load, sandwich

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


def configuration(run: Path, command: str) -> Path:
    """Give the one configuration of a command that was kept."""
    [path] = (run / "configs").glob(f"{command}-????????.yaml")
    return path


def test_from_training_to_report(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    common = ["--model", str(model), "--limit", "3", "--r-relative", "0.5", "--out", str(run)]
    main(["certify", *common, "--samples=200"])
    main(["attack", *common, "--samples=1000", "--radii=[1.0]", "--gradients=5"])
    main(["check", str(run)])
    assert " checked, 0 failed" in capsys.readouterr().out
    main(["report", str(run)])
    assert (run / "report" / "report.html").is_file()
    table = load(run / "results")
    assert set(table["method"]) == {*METHOD_NAMES, "bisection-damage", "pgd-damage"}
    assert table["r"].nunique() == 1
    assert set(table["r_relative"]) == {0.5}
    certify, attack = configuration(run, "certify"), configuration(run, "attack")
    assert "r_relative: 0.5" in certify.read_text()
    assert "samples: 200" in certify.read_text()
    assert "gradients: 5" in attack.read_text()


def test_smoothed_reconstructions_stand_beside_the_models_own(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    common = ["--model", str(model), "--limit", "2", "--r", "6", "--out", str(run)]
    smoothed = ["--reconstruction", "smoothed", "--samples", "1000"]
    for noise in ("0.25", "0.5"):
        main(["certify", *common, *smoothed, "--noise-std", noise])
    main(["certify", *common, *smoothed])
    main(["certify", *common, "--methods", "isotropic"])
    main(["attack", *common, "--samples=500"])
    table = load(run / "results")
    certified = table[(table["kind"] == "certificate") & (table["status"] == "ok")]
    assert {tuple(row) for row in certified[["method", "reconstruction"]].drop_duplicates().to_numpy()} == {
        ("center", "smoothed"), ("latent_center", "smoothed"), ("isotropic", "sampled")
    }  # fmt: skip
    noises = certified.groupby("method")["noise_std"].unique().map(sorted).to_dict()
    assert noises["center"] == [0.25, 0.5]
    assert noises["latent_center"] == [0.0]
    assert certified.loc[certified["method"] == "isotropic", "noise_std"].isna().all()
    assert (certified["margin"] > 0).all()
    attacked = sandwich(table).set_index("certified_by")["attacked"]
    assert attacked[["center", "latent_center"]].isna().all()
    assert attacked[["isotropic"]].notna().all()
    capsys.readouterr()
    main(["check", str(run)])
    assert " 0 failed" in capsys.readouterr().out
    main(["report", str(run)])
    text = " ".join((run / "report" / "report.html").read_text().split())
    assert "L2 perturbations; reconstruction (smoothed, noise 0.25) within r = 6 pixel units." in text
    assert "keeps the smoothed reconstruction within r" in text
    assert "Attacks on the model itself are not held against this." in text
    assert text.count("nothing is said of the model without the noise") == 1
    assert "reconstruction (sampled) within r = 6 pixel units with probability above p = 0.5." in text


def test_a_saved_configuration_does_the_same_again(model: Path, tmp_path: Path) -> None:
    first, again = tmp_path / "first", tmp_path / "again"
    main(["certify", f"--model={model}", "--limit=2", "--r=2", "--methods=[isotropic]", f"--out={first}"])
    main(["certify", f"--config={configuration(first, 'certify')}", f"--out={again}"])
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
    margins = load(tmp_path / "run" / "results")["margin"]  # nothing moves in a model of zeros
    assert margins.between(8, 8.01).all()  # the distance between a black and a white image, beyond which nothing is


def test_help_is_quick_and_shows_dashes() -> None:
    start = time.perf_counter()
    command = [sys.executable, "-m", "vaerdict.cli", "certify", "--help"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert time.perf_counter() - start < 3  # 0.2 s alone; the tests' machine is busy
    assert "--r-relative" in said
    imported = "import sys, vaerdict.cli; vaerdict.arguments.build_parsers(); print('torch' in sys.modules)"
    said = subprocess.run([sys.executable, "-c", imported], capture_output=True, text=True, check=True).stdout
    assert said.strip() == "False"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["certify", "--model=MODEL", "--r=0"], "expected a finite `r` > 0, got 0.0"),
        (["certify", "--model=MODEL", "--r=-1"], "expected a finite `r` > 0, got -1.0"),
        (["certify", "--model=MODEL", "--r=1e400"], "expected a finite `r` > 0, got inf"),
        (["certify", "--model=MODEL", "--r=nan"], "expected `--r` as a number, got 'nan'"),
        (["certify", "--model=MODEL", "--r=one"], "expected `--r` as a number, got 'one'"),
        (["certify", "--model=MODEL", "--r"], "expected a value after `--r`"),
        (["certify", "--model", "--r=1"], "expected a value after `--model`"),
        (["certify", "--model=MODEL", "--r-relative=-1"], "expected a finite `r-relative` > 0, got -1.0"),
        (["certify", "--model=MODEL"], "expected one of `r` and `r-relative`, got both or none"),
        (["certify", "--model=MODEL", "--r=1", "--p=0.4"], "expected `p` in [1/2, 1), got 0.4"),
        (
            ["certify", "--model=MODEL", "--r=1", "--noise-std=0.25"],
            "expected `noise-std` only with smoothed `reconstruction`, got sampled",
        ),
        (
            ["certify", "--model=MODEL", "--r=1", "--reconstruction=smoothed", "--noise-std=-1"],
            "expected a finite `noise-std` >= 0, got -1.0",
        ),
        (
            ["certify", "--model=MODEL", "--r=1", "--reconstruction=smoothed", "--noise-std=0.2", "--samples=5"],
            "expected `samples` >= 14 to show a probability above 0.55",
        ),
        (["certify", "--model=MODEL", "--r=1", "--methods=shift", "--samples=9"], "expected `samples` >= 10 to show"),
        (["certify", "--model=MODEL", "--r=1", "--methods=center"], "center does not apply to"),
        (
            ["attack", "--model=MODEL", "--r=1", "--reconstruction=smoothed"],
            "expected `--reconstruction` as one of sampled, anchored, mean, got 'smoothed'",
        ),
        (["certify", "--model=MODEL", "--r=1", "--p=1"], "expected `p` in [1/2, 1), got 1.0"),
        (
            ["certify", "--model=MODEL", "--r=1", "--methods", "isotropic,baret"],
            "unknown method 'baret', known: barrett, isotropic, reflection, seam, coordinate, deterministic",
        ),
        (["certify", "--r=1"], "expected one of `model` and `factory`, got both or none"),
        (["certify", "--model=nowhere", "--r=1"], "expected a model folder with config.json, found none at nowhere"),
        (
            ["certify", "--model=model.pt", "--r=1"],
            "expected a file that cannot run code (npz, safetensors), got the pickle model.pt",
        ),
        (["certify", "--model=MODEL", "--r=1", "--data=npz:none.npz[a]"], "none.npz"),
        (["certify", "--model=MODEL", "--r=1", "--data=NPZ[labels]"], "expected array `labels` in "),
        (["certify", "--model=MODEL", "--r=1", "--data=NPZ[wide]"], "expected pixels in [0.0, 1.0]"),
        (["certify", "--model=MODEL", "--r=1", "--data=NPZ[nan]"], "NaN"),
        (["certify", "--model=MODEL", "--r=1", "--data=NPZ[large]"], "expected images of shape (1, 8, 8)"),
        (["certify", "--model=MODEL", "--r=1", "--data=faces"], "digits"),
        (["certify", "--model=MODEL", "--r=1", "--limit=0"], "expected `limit` >= 1, got 0"),
        (["certify", "--model=MODEL", "--r=1", "--limit=1.5"], "expected `--limit` as a whole number, got '1.5'"),
        (["certify", "--model=MODEL", "--r=1", "--start=-1"], "expected `start` >= 0, got -1"),
        (["certify", "--model=MODEL", "--r=1", "--device=tpu9"], "expected a usable torch device, got 'tpu9'"),
        (["certify", "--model=MODEL", "--r=1", "--norms=2"], "unrecognized arguments: --norms=2"),
        (
            ["attack", "--model=MODEL", "--r=1", "--norm=3"],
            "expected `--norm` as one of 0, 0-values, 1, 2, inf, got '3'",
        ),
        (
            ["attack", "--model=MODEL", "--r=1", "--norm=0", "--radii=1,1.5"],
            "expected only whole numbers as `radii` for the norm '0', got 1.5",
        ),
        (
            ["attack", "--model=MODEL", "--r=1", "--objective=latent", "--limit=1"],
            "expected images of 2 labels or more, to be targets of each other, got 1",
        ),
        (["attack", "--model=MODEL", "--r=1", "--margin=maybe"], "expected `--margin` as true or false, got 'maybe'"),
        (["attack", "--model=MODEL", "--r=1", "--radii=1,-1"], "expected only finite `radii` > 0, got -1.0"),
        (
            ["attack", "--model=MODEL", "--r=1", "--radii=x"],
            "expected `--radii` as numbers such as 0.5,1, got 'x'",
        ),
        (
            ["certify", "--factory=none:make", "--r=1"],
            "expected a factory `package.module:function`, got 'none:make': ModuleNotFoundError: No module named",
        ),
        (["certify", "--factory=math:sqrt", "--r=1"], "the factory math:sqrt failed: TypeError: math.sqrt() takes"),
        (["train", "--hidden=7", "--out=OUT"], "expected even positive `hidden` widths, got (7,)"),
        (
            ["train", "--hidden=a", "--out=OUT"],
            "expected `--hidden` as whole numbers such as 128,128, got 'a'",
        ),
        (
            ["train", "--pixel-range=0", "--out=OUT"],
            "expected `--pixel-range` as two numbers such as 0,1, got '[0]'",
        ),
        (
            ["train", "--family=foo", "--out=OUT"],
            "expected `--family` as one of lipschitz, plain, lipschitz_conv, conv, got 'foo'",
        ),
        (["train", "--data=NPZ[digits]", "--out=OUT"], "expected `held-out` images that are not the training images"),
        (["train", "--out=NPZFILE"], "expected `--out` as a folder that can be written, got NPZFILE: Not a directory"),
        (["train", "--out=NPZFILE/deep"], "got NPZFILE/deep: Not a directory"),
        (["train"], "expected `--out`"),
        (["report"], "expected `run`"),
        (["report", "nowhere"], "nowhere"),
        (["report", "--config=CONFIG"], "unrecognized arguments: --config=CONFIG"),
        (["design"], "expected `--r` and `--margin`"),
        (["design", "--r=8", "--margin=0"], "expected a finite `margin` > 0, got 0.0"),
        (["design", "--r=8", "--margin=1e400"], "expected a finite `margin` > 0, got inf"),
        (["design", "--r=8", "--margin=1", "--b=-1"], "expected a finite `b` > 0, got -1.0"),
        (["design", "--r=8", "--margin=1", "--latent=0"], "expected `latent` >= 1, got 0"),
        (["design", "--r=8", "--margin=1", "--p=1"], "expected `p` in [1/2, 1), got 1.0"),
        (["design", "--r=8", "--margin=1", "--sigmas=[]"], "expected one or more `sigmas`, got none"),
        (["design", "--r=8", "--margin=1", "--sigmas=0.1,0"], "expected only finite `sigmas` > 0, got 0.0"),
        (
            ["fly"],
            "a command (demo, train, certify, attack, sweep, status, report, check, design, doctor), got 'fly'",
        ),
        (
            [],
            "expected a command (demo, train, certify, attack, sweep, status, report, check, design, doctor), got none",
        ),
        (["--config", "f", "certify"], "options stand after the command: vaerdict certify --config f"),
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
    known = {"MODEL": str(model), "NPZFILE": str(archive), "NPZ": f"npz:{archive}", "OUT": str(out)}
    for word, meant in known.items():
        arguments = [argument.replace(word, meant) for argument in arguments]
        said = said.replace(word, meant)
    if arguments[:1] in (["certify"], ["attack"]):
        arguments = [*arguments, f"--out={out}"]
    assert said in refused(capsys, *arguments)
    assert not out.exists()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "got CONFIG"),
        (b"- 1", "got CONFIG"),
        (b"hello", "got CONFIG"),
        (b"\xff\xfe\x00\x80", "got CONFIG: 'utf-8' codec can't decode"),
        (b"\x00", "got CONFIG: unacceptable character"),
        (b"r: [1", "got CONFIG: while parsing a flow sequence"),
        (None, "got CONFIG: [Errno 2] No such file or directory"),
        (
            b"r: 1\nfoo: 3",
            "unknown option in CONFIG 'foo', known: model, factory, weights, data, limit, start, r, r-rel",
        ),
        (b"1: 2", "unknown option in CONFIG '1', known: model"),
        (b"r: abc", "expected `--r` as a number, got 'abc'"),
        (b"r: .nan", "expected `--r` as a number, got 'NaN'"),
        (b"r: {a: 1}", "expected `--r` as a number, got "),
        (b"r-relative: -1", "expected a finite `r-relative` > 0, got -1.0"),
        (b"r: 1\nmethods: baret", "unknown method 'baret'"),
    ],
)
def test_a_file_of_options_that_is_none(
    content: bytes | None, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "config.yaml"
    if content is not None:
        config.write_bytes(content)
    sentence = refused(capsys, "certify", f"--config={config}", "--model=m", f"--out={tmp_path / 'out'}")
    said = said.replace("CONFIG", str(config))
    if said.startswith("got"):
        said = f"expected `--config` as a YAML file with lines `option: value`, {said}"
    assert said in sentence
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "typed",
    [
        ["--sigmas", "0.1,0.2", "--r", "8", "--margin=1", "--b", "5"],
        ["--sigmas=[0.1, 0.2]", "--r=8", "--margin=1", "--b=5"],
        ["--sigmas=0.1,0.2", "--b=3", "--config=CONFIG"],
        ["--config", "CONFIG", "--sigmas", "0.1,0.2"],
    ],
)
def test_lists_and_files_in_each_spelling(typed: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.yaml").write_text("r: 8\nmargin: 1.0\nb: 5e0\n")
    main(["design", *(argument.replace("CONFIG", str(tmp_path / "config.yaml")) for argument in typed)])
    said = capsys.readouterr().out
    assert "(r = 8.0, p = 0.5, 10 latents, encoder b = 5.0)" in said
    assert [line.split()[0] for line in said.splitlines()[3:]] == ["0.1", "0.2"]


def test_a_file_may_have_dashes_and_bare_names(model: Path, tmp_path: Path) -> None:
    config = f"r-relative: 0.5\nlimit: 1\nmethods: barrett\nmodel: {model}\nfactory: null\nout: {tmp_path / 'run'}"
    (tmp_path / "config.yaml").write_text(config)
    main(["certify", "--config", str(tmp_path / "config.yaml")])
    table = load(tmp_path / "run" / "results")
    assert set(table["method"]) == {"barrett"}
    assert set(table["r_relative"]) == {0.5}


def test_each_command_in_a_folder_keeps_its_configuration(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = [f"--model={model}", "--limit=1", "--methods=barrett", f"--out={tmp_path / 'run'}"]
    for r in ("1", "2", "2"):
        main(["certify", *options, f"--r={r}"])
    kept = sorted((tmp_path / "run" / "configs").iterdir())
    assert {path.read_text().split("\nr: ")[1][:3] for path in kept} == {"1.0", "2.0"}
    assert len(kept) == 2
    refused(capsys, "certify", *options, "--r=1", "--data=faces")
    assert sorted((tmp_path / "run" / "configs").iterdir()) == kept


def test_the_console_script_finds_a_factory_in_the_working_directory(tmp_path: Path) -> None:
    (tmp_path / "model_of_mine.py").write_text(FACTORY)
    script = Path(sys.executable).with_name("vaerdict")
    options = ["--factory=model_of_mine:make", "--limit=1", "--r=1", "--methods=shift", "--samples=100", "--out=run"]
    subprocess.run([script, "certify", *options], cwd=tmp_path, capture_output=True, check=True)
    assert set(load(tmp_path / "run" / "results")["method"]) == {"shift"}


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
    monkeypatch.setattr("vaerdict.certify.methods.lipschitz.within", lambda change, most, limit: most * 0 + 100)
    with pytest.raises(SystemExit) as stop:
        main(["certify", *options, "--methods=[isotropic]"])
    assert stop.value.code == 1
    said = capsys.readouterr().err
    assert "isotropic (proved) certifies 100" in said
    assert "witness witnesses/bisection-damage" in said
    assert "methods:\n- isotropic\n" in configuration(tmp_path, "certify").read_text()


def test_design_and_doctor(capsys: pytest.CaptureFixture[str]) -> None:
    main(["design", "--r=8", "--margin=0.3085", "--latent=10", "--b=5", "--sigmas=[0.1]"])
    line = capsys.readouterr().out.splitlines()[-1].split()
    assert float(line[2]) == pytest.approx(5.0, abs=2e-3)
    assert float(line[3]) == pytest.approx(5 * float(line[2]), rel=1e-4)
    main(["doctor"])
    said = capsys.readouterr().out
    assert torch.__version__ in said
    assert "auto_LiRPA" in said
