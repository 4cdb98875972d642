"""What each command does, with options in and a printable answer out; nothing here computes."""

import importlib.util
import json
from importlib import metadata
from pathlib import Path

import torch

from vaerdict.certify import applicable, design_frontier
from vaerdict.data import Images, Split, load_images
from vaerdict.lipschitz import NoSoundBound
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
from vaerdict.results import load
from vaerdict.sweeps import Subject, attack_units, certificate_units, run_units


def train_task(
    task: TrainTask, data: DataOptions, model: ModelOptions, training: TrainingOptions
) -> tuple[GaussianVAE, float]:
    """Train a model; give it with its held-out ELBO in nats per image."""
    device = check_device(task.device)
    training_images = _images(data, "train", task.pixel_range)
    spec = task.held_out or data.data
    same = task.held_out is None and data.data.startswith(("npz:", "idx:")) and "{split}" not in data.data
    require(not same, "`held-out` images, or `{split}` in `data`", data.data)
    held_out = load_images(spec, split="test", input_range=task.pixel_range)
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
    refuse_inapplicable(subject, options)
    run_units(Path(run.out), certificate_units(subject, options), f"certify {subject.vae.name}")
    return summary(load(Path(run.out) / "results"))


def attack_task(
    source: ModelSource, data: DataOptions, question: Question, options: AttackOptions, run: RunOptions
) -> str:
    """Attack the test images of a source; give the run's summary."""
    subject = _subject(source, data, question, run)
    run_units(Path(run.out), attack_units(subject, options, Path(run.out)), f"attack {subject.vae.name}")
    return summary(load(Path(run.out) / "results"))


def refuse_inapplicable(subject: Subject, options: CertifyOptions) -> None:
    """Refuse, before anything is written, what no row could come of.

    Raises:
        NoSoundBound: a method asked for by name does not apply, or no certificate at all does.
    """
    reasons = applicable(subject.vae, subject.images.pixels[:1].to(subject.device), options)
    usable = [name for name, reason in reasons.items() if reason is None]
    missing = [name for name in options.methods or reasons if name not in usable]
    hopeless = not options.methods and usable == ["first_order"]
    if hopeless or (options.methods and missing):
        name = missing[0]
        raise NoSoundBound(
            f"{name} does not apply to {subject.vae.name}: {reasons[name]}; methods that apply: {', '.join(usable)}"
        )


def design_task(options: DesignOptions) -> str:
    """Give the frontier of budgets as a table."""
    designs = design_frontier(
        latent=options.latent, r=options.r, margin=options.margin, b=options.b, sigmas=options.sigmas, p=options.p
    )
    lines = [
        f"Largest Lipschitz constant `a` of the decoder that promises a margin of {options.margin:g} at every input",
        f"(r = {options.r:g}, p = {options.p:g}, {options.latent} latents, encoder b = {options.b:g}):",
        f"{'sigma':>8} {'a (Barrett)':>12} {'a (isotropic)':>14} {'a*b':>8} {'gain':>6}",
    ]
    for design in designs:
        gain = f"{design.a_isotropic / design.a_barrett:6.2f}" if design.a_barrett else f"{'-':>6}"
        lines.append(
            f"{design.sigma:8.3g} {design.a_barrett:12.4f} {design.a_isotropic:14.4f} "
            f"{design.a_isotropic * design.b:8.4f} {gain}"
        )
    return "\n".join(lines)


def doctor_task() -> str:
    """Say what is installed, which device there is, and what would be skipped."""
    lines = [f"vaerdict {metadata.version('vaerdict')}, torch {torch.__version__}, {torch.get_num_threads()} threads"]
    lines.append(f"GPU: {torch.cuda.get_device_name()}" if torch.cuda.is_available() else "GPU: none, runs on the CPU")
    remedies = {
        "foolbox": "pip install 'foolbox>=3.3.4,<4'",
        "auto_LiRPA": "pip install --no-deps auto_LiRPA && pip install appdirs packaging",
    }
    for name, remedy in remedies.items():
        found = importlib.util.find_spec(name) is not None
        state = metadata.version(name) if found else f"missing; {remedy}"
        lines.append(f"{name}: {state} (no method of this version uses it)")
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
        raise ValueError(f"expected a usable torch device, got {device!r}: {str(error).splitlines()[0]}") from None
    return device


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
    return make_subject(vae.to(device), images, question, run.seed, device)


def make_subject(vae: GaussianVAE, images: Images, question: Question, seed: int, device: str) -> Subject:
    """Put model, images and question together, `r` resolved from `r_relative` where that is given."""
    r = question.r
    if r is None:
        assert question.r_relative is not None
        r = question.r_relative * median_distance(vae, images.pixels.to(device))
    return Subject(vae=vae, images=images, r=r, r_relative=question.r_relative, p=question.p, seed=seed, device=device)
