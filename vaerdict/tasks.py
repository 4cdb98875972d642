"""What each command does, with options in and a printable answer out; nothing here computes."""

import importlib.util
import json
import shutil
from importlib import metadata
from pathlib import Path

import torch

from vaerdict.certify import choose_methods, design_frontier
from vaerdict.data import Images, Split, load_images
from vaerdict.models import GaussianVAE, load_vae, median_distance, train, vae_from_factory
from vaerdict.options import (
    AttackOptions,
    CertifyOptions,
    DataOptions,
    DesignOptions,
    ModelOptions,
    ModelSource,
    Question,
    RunOptions,
    TrainingOptions,
    TrainTask,
    require,
)
from vaerdict.reports import summary
from vaerdict.reports.rounding import round_down
from vaerdict.results import array_sha256, load
from vaerdict.sweeps import Subject, attack_units, certificate_units, run_units

SCALE_IMAGES = 1000
"""How many test images the typical distance between reconstructions is taken from."""


def train_task(
    task: TrainTask, data: DataOptions, model: ModelOptions, training: TrainingOptions
) -> tuple[GaussianVAE, float]:
    """Train a model; give it with its held-out ELBO in nats per image."""
    device = check_device(task.device)
    training_images = _images(data, "train", task.pixel_range)
    held_out = load_images(task.held_out or data.data, split="test", input_range=task.pixel_range)
    shared = held_out.name == training_images.name and _overlap(held_out, training_images)
    require(not shared, "`held-out` images that are not the training images, or `{split}` in `data`", data.data)
    folder = Path(task.out)
    vae = train(
        folder,
        training_images,
        held_out,
        name=task.name or model.family,
        model=model,
        training=training,
        device=device,
    )
    history = json.loads((folder / "history.json").read_text())
    return vae, history[-1]["held_out_elbo"]


def certify_task(
    source: ModelSource, data: DataOptions, question: Question, options: CertifyOptions, run: RunOptions
) -> str:
    """Certify the test images of a source; give the run's summary."""
    subject = _subject(source, data, question, run)
    # What does not apply is refused here, before anything is written.
    choose_methods(subject.vae, subject.images.pixels[:1].to(subject.device), options)
    run_units(Path(run.out), certificate_units(subject, options), f"certify {subject.vae.name}")
    return summary(load(Path(run.out) / "results"))


def attack_task(
    source: ModelSource, data: DataOptions, question: Question, options: AttackOptions, run: RunOptions
) -> str:
    """Attack the test images of a source; give the run's summary."""
    subject = _subject(source, data, question, run)
    run_units(Path(run.out), attack_units(subject, options, Path(run.out)), f"attack {subject.vae.name}")
    return summary(load(Path(run.out) / "results"))


def design_task(options: DesignOptions) -> str:
    """Give the frontier of budgets as a table; constants are rounded down, so that each promises what is asked."""
    designs = design_frontier(
        latent=options.latent, r=options.r, margin=options.margin, b=options.b, sigmas=options.sigmas, p=options.p
    )
    lines = [
        f"Largest Lipschitz constant `a` of the decoder that promises a margin of {options.margin!r} at every input",
        f"(r = {options.r!r}, p = {options.p!r}, {options.latent} latents, encoder b = {options.b!r}):",
        f"{'sigma':>8} {'a (Barrett)':>12} {'a (isotropic)':>14} {'a*b':>8} {'gain':>6}",
    ]
    for design in designs:
        theirs, ours = round_down(design.a_barrett, 5), round_down(design.a_isotropic, 5)
        product = round_down(design.a_isotropic * design.b, 5)
        gain = round_down(design.a_isotropic / design.a_barrett, 3) if design.a_barrett else "-"
        lines.append(f"{design.sigma!r:>8} {theirs:>12} {ours:>14} {product:>8} {gain:>6}")
    return "\n".join(lines)


def doctor_task() -> str:
    """Say what is installed, which device there is, and what is skipped without it."""
    lines = [f"vaerdict {metadata.version('vaerdict')}, torch {torch.__version__}, {torch.get_num_threads()} threads"]
    lines.append(f"GPU: {torch.cuda.get_device_name()}" if torch.cuda.is_available() else "GPU: none; runs on the CPU")
    for name, use in {
        "foolbox": "no method of this version uses it; pip install 'foolbox>=3.3.4,<4'",
        "auto_LiRPA": "no method of this version uses it; pip install --no-deps auto_LiRPA",
    }.items():
        found = importlib.util.find_spec(name) is not None
        lines.append(f"{name}: {metadata.version(name) if found else 'missing'} ({use})")
    for name, use in {"chromium": "opens the report", "pdflatex": "compiles the report's tables"}.items():
        lines.append(f"{name}: {shutil.which(name) or f'missing; the test that {use} is skipped'}")
    return "\n".join(lines)


def check_device(device: str) -> str:
    """Refuse a device that is not there.

    Raises:
        ValueError: torch does not know the device or cannot use it.

    >>> check_device("cpu")
    'cpu'
    """
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(
            f"expected a usable torch device, got {device!r}: {str(error).splitlines()[0][:100]}"
        ) from None
    return device


def _overlap(one: Images, other: Images) -> bool:
    hashes = [{array_sha256(image) for image in images.pixels.numpy()} for images in (one, other)]
    return not hashes[0].isdisjoint(hashes[1])


def _images(data: DataOptions, split: Split, pixel_range: tuple[float, float]) -> Images:
    return load_images(data.data, split=split, input_range=pixel_range, limit=data.limit, start=data.start)


def _subject(source: ModelSource, data: DataOptions, question: Question, run: RunOptions) -> Subject:
    device = check_device(run.device)
    if source.model is not None:
        vae = load_vae(Path(source.model))
    else:
        assert source.factory is not None
        vae = vae_from_factory(source.factory, None if source.weights is None else Path(source.weights))
    images = _images(data, "test", vae.input_range)
    shape = tuple(images.pixels.shape[1:])
    require(shape == vae.input_shape, f"images of shape {vae.input_shape} for {vae.name}", f"{shape} in {images.name}")
    return make_subject(vae.to(device), data.data, images, question, run.seed, device)


def make_subject(vae: GaussianVAE, spec: str, images: Images, question: Question, seed: int, device: str) -> Subject:
    """Put model, images and question together.

    Where `r_relative` is given, `r` is its share of the median distance between the reconstructions of the first test
    images of the source `spec`, whichever of its images are chosen: certificates and attacks ask the same question.
    """
    r = question.r
    if r is None:
        assert question.r_relative is not None
        typical = load_images(spec, split="test", input_range=vae.input_range, limit=SCALE_IMAGES)
        r = question.r_relative * median_distance(vae, typical.pixels.to(device))
    return Subject(vae=vae, images=images, r=r, r_relative=question.r_relative, p=question.p, seed=seed, device=device)
