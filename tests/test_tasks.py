"""What the commands do beyond calling one function."""

import json
import re
from pathlib import Path

import pytest
import torch

from vaerdict.certify import certify, margin_isotropic
from vaerdict.cli import main
from vaerdict.data import load_images
from vaerdict.models import build_vae, load_vae, median_distance
from vaerdict.options import (
    CertifyOptions,
    DataOptions,
    DesignOptions,
    ModelOptions,
    Question,
    TrainingOptions,
    TrainTask,
)
from vaerdict.tasks import check_device, design_task, doctor_task, make_subject, train_task


@pytest.mark.parametrize(("r", "margin", "sigma"), [(3e-4, 1.0, 0.012345), (8.0, 0.3, 0.1), (8.0, 1.0, 0.05)])
def test_a_design_as_printed_keeps_its_promise(r: float, margin: float, sigma: float) -> None:
    said = design_task(DesignOptions(r=r, margin=margin, latent=10, b=1.0, sigmas=(sigma,)))
    printed_sigma, _, a, product, _ = said.splitlines()[-1].split()
    assert float(printed_sigma) == sigma
    assert float(product) == pytest.approx(float(a), rel=1e-4)
    assert margin_isotropic(latent=10, sigma=sigma, a=float(a), b=1.0, r=r) >= margin


@pytest.fixture(scope="module")
def design(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("design")
    main(["design", "--r=1.5", "--margin=0.4", "--latent=4", "--b=1.3", f"--out={out}"])
    return out / "design.json"


@pytest.mark.parametrize(
    "more", [["--hidden=16"], ["--family=lipschitz_conv"], ["--hidden=16", "--likelihood=gaussian"]]
)
def test_a_model_trained_by_design_is_certified_as_promised(design: Path, more: list[str], tmp_path: Path) -> None:
    main(["train", f"--design={design}", "--epochs=2", *more, f"--out={tmp_path}"])
    chosen = json.loads(design.read_text())["chosen"]
    config = json.loads((tmp_path / "config.json").read_text())["model"]
    assert {name: config[name] for name in ("a", "b", "std", "latent")} == {
        "a": chosen["a"], "b": 1.3, "std": chosen["sigma"], "latent": 4
    }  # fmt: skip
    images = load_images("digits").pixels
    rows = certify(load_vae(tmp_path), images, r=1.5, options=CertifyOptions(methods=("isotropic",), local=False))
    margins = [row.margin for row in rows if row.margin is not None]
    assert len(margins) == 297
    assert min(margins) >= 0.4
    if "--hidden=16" in more:  # a strided convolution does not use all of its budget
        assert max(margins) < 0.46


def test_a_design_is_written_only_on_demand(design: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    ask = DesignOptions(r=1.5, margin=0.4, latent=4, b=1.3, sigma=0.07)
    said = design_task(ask)
    assert list(tmp_path.iterdir()) == []
    assert said.splitlines()[-1].startswith("    0.07 ")
    written = {path.name for path in design.parent.iterdir()}
    assert written == {"configs", "design.json", "frontier.csv", "frontier.pdf", "frontier.png", "frontier.tex"}
    held = json.loads(design.read_text())
    assert held["question"] == {"r": 1.5, "p": 0.5, "margin": 0.4, "latent": 4}
    table = [row.split() for row in design_task(DesignOptions(r=1.5, margin=0.4, latent=4, b=1.3)).splitlines()[3:]]
    assert [list(row.values()) for row in held["table"]] == table
    [shown] = [row["a (isotropic)"] for row in held["table"] if float(row["sigma"]) == held["chosen"]["sigma"]]
    assert 0.9699 * float(shown) < held["chosen"]["a"] < 0.9701 * float(shown)


def test_the_chosen_point_can_be_named(tmp_path: Path) -> None:
    said = design_task(DesignOptions(r=1.5, margin=0.4, latent=4, b=1.3, sigma=0.07, out=str(tmp_path)))
    chosen = json.loads((tmp_path / "design.json").read_text())["chosen"]
    assert chosen["sigma"] == 0.07
    budgets = f"`train --design {tmp_path}/design.json` takes sigma = 0.07, a = {chosen['a']!r}, b = 1.3"
    assert said.splitlines()[-1] == f"{budgets}; a share of 0.03 of `a` is kept back for rounding"
    assert margin_isotropic(latent=4, sigma=0.07, a=chosen["a"], b=1.3, r=1.5) >= 0.4


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as stop:
        main(list(arguments))
    assert stop.value.code == 2
    [line] = capsys.readouterr().err.strip().splitlines()
    return line


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (["--a=5"], "expected `a` A, which the design promises its margin for, got 5.0"),
        (["--b", "1.0"], "expected `b` 1.3, which the design promises its margin for, got 1.0"),
        (["--std=0.3"], "expected `std` SIGMA, which the design promises its margin for, got 0.3"),
        (["--latent=10"], "expected `latent` 4, which the design promises its margin for, got 10"),
        (["--family=plain"], "expected `family` 'lipschitz', which the design promises its margin for, got plain"),
        (["--spread=bounded"], "expected `spread` 'constant', which the design promises its margin for, got bounded"),
        (["--config=CONFIG"], "expected `a` A, which the design promises its margin for, got 7.0"),
        (["--design=CONFIG"], "expected the design.json of `vaerdict design --out`, got CONFIG: "),
        (["--design=nowhere"], "expected the design.json of `vaerdict design --out`, got nowhere: No such file"),
    ],
)
def test_options_against_the_design_are_refused(
    design: Path, typed: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.yaml").write_text("a: 7")
    chosen = json.loads(design.read_text())["chosen"]
    words = {"A": repr(chosen["a"]), "SIGMA": repr(chosen["sigma"]), "CONFIG": str(tmp_path / "config.yaml")}
    said = re.sub(r"\b(A|SIGMA|CONFIG)\b", lambda word: words[word[0]], said)
    typed = [argument.replace("CONFIG", words["CONFIG"]) for argument in typed]
    assert said in refused(capsys, "train", "--design", str(design), *typed, f"--out={tmp_path / 'out'}")
    assert not (tmp_path / "out").exists()


def test_the_kept_configuration_of_a_designed_training_repeats_it(design: Path, tmp_path: Path) -> None:
    main(["train", f"--design={design}", "--hidden=8", "--epochs=1", "--b=1.3", f"--out={tmp_path / 'one'}"])
    [kept] = (tmp_path / "one" / "configs").iterdir()
    main(["train", f"--config={kept}", f"--out={tmp_path / 'two'}"])
    one, two = (json.loads((tmp_path / name / "config.json").read_text()) for name in ("one", "two"))
    assert one == two
    (tmp_path / "plain.yaml").write_text("design: null\nhidden: 8\nepochs: 1\na: 2\n")
    main(["train", f"--config={tmp_path / 'plain.yaml'}", f"--out={tmp_path / 'three'}"])
    assert json.loads((tmp_path / "three" / "config.json").read_text())["model"]["a"] == 2.0


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (["--margin=0"], "expected a finite `margin` > 0, got 0.0"),
        (
            ["--margin=1e9"],
            "expected a `margin` that is promised by some `a*b` >= 1e-06 at sigma = 0.2, got 1000000000.0",
        ),
        (["--margin=1e300"], "expected only `sigmas` within a factor of 1e100 of `margin` times `b`, got 1e+300"),
        (
            ["--margin=1", "--p=0.9999999999"],
            "expected a `margin` that is promised by some `a*b` >= 1e-06 at sigma = 0.0",
        ),
        (
            ["--margin=1", "--sigma=1e30"],
            "expected a `margin` that is promised by some `a*b` >= 1e-06 at sigma = 1e+30",
        ),
        (["--margin=1e-320"], "expected a `margin` times `b` that a float can hold, got 1e-320"),
        (["--margin=1", "--sigma=0"], "expected a finite `sigma` > 0, got 0.0"),
        (["--margin=1", "--spare=1"], "expected `spare` in [0, 1), got 1.0"),
    ],
)
def test_a_margin_that_cannot_be_promised_is_refused(
    typed: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert said in refused(capsys, "design", "--r=8", *typed, f"--out={tmp_path / 'out'}")
    assert not (tmp_path / "out").exists()


def test_relative_distances_do_not_depend_on_the_images_chosen() -> None:
    torch.manual_seed(0)
    vae = build_vae(ModelOptions(hidden=(16,), latent=3), name="toy", input_shape=(1, 8, 8)).eval()
    question = Question(r_relative=0.5)
    subjects = [
        make_subject(vae, "digits", load_images("digits", limit=limit, start=start), question, 0, "cpu")
        for limit, start in ((1, 0), (40, 7))
    ]
    everything = median_distance(vae, load_images("digits").pixels)
    assert {subject.r for subject in subjects} == {0.5 * everything}


def test_median_distance_is_that_of_all_pairs() -> None:
    torch.manual_seed(0)
    vae = build_vae(ModelOptions(hidden=(16,), latent=3), name="toy", input_shape=(1, 8, 8)).eval()
    images = load_images("digits", limit=9).pixels
    with torch.no_grad():
        flat = vae.decode(vae.encode(images).mean).flatten(1)
    pairs = [float((flat[i] - flat[j]).norm()) for i in range(9) for j in range(i)]
    assert median_distance(vae, images, batch_size=4) == pytest.approx(sorted(pairs)[(len(pairs) - 1) // 2], rel=1e-6)
    with pytest.raises(ValueError, match="at least two images"):
        median_distance(vae, images[:1])


def test_training_images_are_not_held_out(tmp_path: object) -> None:
    from pathlib import Path

    import numpy as np
    from PIL import Image

    folder = Path(str(tmp_path)) / "images"
    folder.mkdir()
    for i in range(4):
        Image.fromarray(np.full((8, 8), 50 * i, np.uint8)).save(folder / f"{i}.png")
    task = TrainTask(out=str(folder / "out"))
    for limit in (None, 2):
        data = DataOptions(data=f"folder:{folder}", limit=limit)
        with pytest.raises(ValueError, match="`held-out` images that are not the training images"):
            train_task(task, data, ModelOptions(hidden=(8,)), TrainingOptions(epochs=1))
    assert not (folder / "out").exists()


def test_devices_that_are_not_there_are_refused_in_a_line() -> None:
    with pytest.raises(ValueError, match="expected a usable torch device, got 'tpu9'") as error:
        check_device("tpu9")
    assert len(str(error.value)) < 200


def test_doctor_names_what_is_there_and_what_is_skipped() -> None:
    said = doctor_task()
    assert torch.__version__ in said
    assert re.search(r"^(chromium|pdflatex): ", said, re.MULTILINE)
