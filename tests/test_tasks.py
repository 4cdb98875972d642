"""What the commands do beyond calling one function."""

import re

import pytest
import torch

from vaerdict.certify import margin_isotropic
from vaerdict.data import load_images
from vaerdict.models import build_vae, median_distance
from vaerdict.options import DataOptions, DesignOptions, ModelOptions, Question, TrainingOptions, TrainTask
from vaerdict.tasks import check_device, design_task, doctor_task, make_subject, train_task


@pytest.mark.parametrize(("r", "margin", "sigma"), [(3e-4, 1.0, 0.012345), (8.0, 0.3, 0.1), (8.0, 1.0, 0.05)])
def test_a_design_as_printed_keeps_its_promise(r: float, margin: float, sigma: float) -> None:
    said = design_task(DesignOptions(r=r, margin=margin, latent=10, b=1.0, sigmas=(sigma,)))
    printed_sigma, _, a, product, _ = said.splitlines()[-1].split()
    assert float(printed_sigma) == sigma
    assert float(product) == pytest.approx(float(a), rel=1e-4)
    assert margin_isotropic(latent=10, sigma=sigma, a=float(a), b=1.0, r=r) >= margin


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
