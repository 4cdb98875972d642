"""What each command does, with options in and a printable answer out; nothing here computes."""

import importlib.util
import json
import shutil
from collections import Counter
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from vaerdict.certify import ModelBounds, choose_methods, design_frontier
from vaerdict.certify.design import Design, choose_design
from vaerdict.certify.promise import Promise, read_promise
from vaerdict.certify.propagation import estimate_cost, unavailable
from vaerdict.certify.propagation.compatibility import found_version
from vaerdict.data import Images, load_images
from vaerdict.models import GaussianVAE, train
from vaerdict.options import (
    AttackOptions,
    CertifyOptions,
    DataOptions,
    DesignOptions,
    ModelOptions,
    ModelSource,
    Question,
    RunOptions,
    SweepOptions,
    TrainingOptions,
    TrainTask,
    require,
)
from vaerdict.reports import summary
from vaerdict.reports.frontier import DESIGN_FILE, DIGITS, frontier_files, table_frontier
from vaerdict.reports.rounding import round_down
from vaerdict.results import array_sha256, load, write_atomic
from vaerdict.sweeps import (
    Subject,
    attack_units,
    certificate_units,
    check_device,
    choose_images,
    images_for,
    load_model,
    make_subject,
    run_units,
)
from vaerdict.sweeps.grid import read_grid
from vaerdict.sweeps.ledger import Ledger, table_status
from vaerdict.sweeps.run import devices, estimate, sweep
from vaerdict.sweeps.worker import FAILED
from vaerdict.vae import borrowed


def train_task(
    task: TrainTask, data: DataOptions, model: ModelOptions, training: TrainingOptions
) -> tuple[GaussianVAE, float]:
    """Train a model; give it with its held-out ELBO in nats per image.

    Raises:
        ValueError: the model is not one for which `task.design` promises its margin.
    """
    if task.design is not None:
        read_promise(Path(task.design)).check(model)
    device = check_device(task.device)
    training_images = choose_images(data, "train", task.pixel_range)
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
    image = subject.images.pixels[:1].to(subject.device)
    # What does not apply is refused here, before anything is written.
    choose_methods(subject.vae, image, options, subject.p)
    if options.propagation:
        print(_propagation_cost(ModelBounds(subject.vae, image, options), image))
    run_units(Path(run.out), certificate_units(subject, options), f"certify {subject.vae.name}")
    return summary(load(Path(run.out) / "results"))


def _propagation_cost(model: ModelBounds, image: Tensor) -> str:
    """Say what bound propagation costs, by running it once on one image."""
    with borrowed(model.vae), torch.no_grad():
        latent = model.vae.encode(image.clone()).mean
        maps = {"mean": (model.bounded_mean, image), "decoder": (model.bounded_decoder, latent)}
        told = []
        for name, (bounded, inputs) in maps.items():
            if isinstance(bounded, str):
                told.append(f"{name}: {bounded}")
            else:
                cost = estimate_cost(bounded, inputs)
                told.append(
                    f"{name}: {cost.seconds:.2g} s and {cost.bytes / 2**20:.3g} MiB for one image at one radius"
                )
    return "bound propagation, " + "; ".join(told)


def attack_task(
    source: ModelSource, data: DataOptions, question: Question, options: AttackOptions, run: RunOptions
) -> str:
    """Attack the test images of a source; give the run's summary."""
    subject = _subject(source, data, question, run)
    run_units(Path(run.out), attack_units(subject, options, Path(run.out)), f"attack {subject.vae.name}")
    return summary(load(Path(run.out) / "results"))


def sweep_task(path: Path, options: SweepOptions) -> tuple[str, bool]:
    """Do a grid's units; say how it ended, and whether all of them are done."""
    summary = sweep(read_grid(path), options)
    left = f", {summary.missing} missing" if summary.missing else ""
    text = f"{summary.units} units: {summary.done} done ({summary.made} now), {summary.failed} failed{left}"
    if summary.failed:
        text += f"; `vaerdict status {options.out}` says why, `--retry-failed` does them again"
    return text, summary.done == summary.units


def dry_run_task(path: Path, options: SweepOptions) -> str:
    """Say what a grid's units are and how long the missing ones will take."""
    grid = read_grid(path)
    found = estimate(grid, options)
    count = 1 if options.engine == "serial" else len(devices(grid, options.workers))
    workers = f"{count} worker{'s' if count > 1 else ''}"
    lines = [_lines(found.table)]
    lines += [f"would fail: {group}: {reason}" for group, reason in found.failures.items()]
    return "\n".join([*lines, f"about {_duration(found.seconds / count)} with {workers}, from one unit of each kind"])


def status_task(folder: Path) -> str:
    """Say which units of a sweep are done, failed or missing, and why those failed that did.

    Raises:
        ValueError: the folder is none of a sweep.
    """
    ledger = Ledger(folder)
    done, failed = ledger.done(), ledger.failed()
    lines = [_lines(table_status(ledger.planned(), done, failed))]
    if failed:
        rows = load(folder / FAILED).drop_duplicates("unit_key")
        told = Counter(
            f"{row['method']}: {row['reason']}" for row in rows.to_dict("records") if row["unit_key"] in failed
        )
        lines += [f"failed: {count} of {what}" for what, count in told.items()]
    return "\n".join(lines)


def _lines(table: pd.DataFrame) -> str:
    """Write a table of units as text, with a line for all of them."""
    numbers = [name for name in table.columns if name != "group"]
    head = " ".join(f"{name:>8}" for name in numbers)
    rows = [" ".join(f"{row[name]:>8}" for name in numbers) + f"  {row['group']}" for row in table.to_dict("records")]
    return "\n".join([head, *rows, " ".join(f"{table[name].sum():>8}" for name in numbers) + "  all"])


def _duration(seconds: float) -> str:
    """Write a time as people say it.

    >>> _duration(5400)
    '1.5 h'
    """
    for unit, size in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.2g} {unit}"
    return f"{seconds:.2g} s"


def design_task(options: DesignOptions) -> str:
    """Give the frontier of budgets as a table; constants are rounded down, so that each promises what is asked.

    With `out`, also write it there as `design.json`, table and figure, and say which budgets `train --design` takes.

    Raises:
        ValueError: the chosen standard deviation leaves no decoder constant that promises the margin.
    """
    asked = {name: getattr(options, name) for name in ("r", "p", "margin", "latent")}
    added = () if options.sigma is None or options.sigma in options.sigmas else (options.sigma,)
    points = design_frontier(b=options.b, sigmas=(*options.sigmas, *added), **asked)
    chosen = choose_design(points, r=options.r, margin=options.margin, sigma=options.sigma)
    table = table_frontier(pd.DataFrame(map(asdict, points)))
    lines = [
        f"Largest Lipschitz constant `a` of the decoder that promises a margin of {options.margin!r} at every input",
        f"(r = {options.r!r}, p = {options.p!r}, {options.latent} latents, encoder b = {options.b!r}):",
    ]
    for sigma, theirs, ours, product, gain in [list(table.columns), *table.to_numpy().tolist()]:
        lines.append(f"{sigma:>8} {theirs:>12} {ours:>14} {product:>8} {gain or '-':>6}")
    if options.out is not None:
        promise = _promise(options, chosen)
        _write_design(Path(options.out), promise, points, asked)
        budgets = f"sigma = {promise.sigma!r}, a = {promise.a!r}, b = {promise.b!r}"
        rest = f"a share of {options.spare!r} of `a` is kept back for rounding"
        lines.append(f"`train --design {Path(options.out) / DESIGN_FILE}` takes {budgets}; {rest}")
    return "\n".join(lines)


def _promise(options: DesignOptions, chosen: Design) -> Promise:
    """Give the budgets to train with: the table's, less what is kept back for the rounding of evaluation."""
    a = float(round_down(chosen.a_isotropic * (1 - options.spare), DIGITS))
    asked: dict[str, Any] = {name: getattr(options, name) for name in ("r", "p", "margin", "latent")}
    return Promise(sigma=chosen.sigma, a=a, b=chosen.b, **asked)


def _write_design(out: Path, promise: Promise, points: list[Design], asked: dict[str, Any]) -> None:
    """Write a design's files, with a curve that goes a little beyond the points."""
    sigmas = [point.sigma for point in points]
    ends = np.geomspace(min(sigmas) / 1.5, max(sigmas) * 1.5, 80)
    curve = design_frontier(b=promise.b, sigmas=ends.tolist(), **asked)
    design = {
        "question": asked,
        "chosen": {"sigma": promise.sigma, "a": promise.a, "b": promise.b},
        "points": [asdict(point) for point in points],
        "curve": [asdict(point) for point in curve],
    }
    for name, content in frontier_files(design).items():
        write_atomic(out / name, content)


def doctor_task() -> str:
    """Say what is installed, which device there is, and what is skipped without it."""
    lines = [f"vaerdict {metadata.version('vaerdict')}, torch {torch.__version__}, {torch.get_num_threads()} threads"]
    lines.append(f"GPU: {torch.cuda.get_device_name()}" if torch.cuda.is_available() else "GPU: none; runs on the CPU")
    uses = {
        "foolbox": "attacks through FoolboxAttack; pip install 'foolbox>=3.3.4,<4'",
        "ray": "sweeps with --engine ray; pip install 'vaerdict[ray]'",
    }
    for name, use in uses.items():
        found = importlib.util.find_spec(name) is not None
        lines.append(f"{name}: {metadata.version(name) if found else 'missing'} ({use})")
    lines.append(f"{unavailable() or f'auto_LiRPA: {found_version()}, passes its canaries'} (bound propagation)")
    for name, use in {
        "chromium": "opens the report",
        "pdflatex": "compiles the report's tables",
        "g++": "compiles steps of searches",
    }.items():
        lines.append(f"{name}: {shutil.which(name) or f'missing; the test that {use} is skipped'}")
    return "\n".join(lines)


def _overlap(one: Images, other: Images) -> bool:
    hashes = [{array_sha256(image) for image in images.pixels.numpy()} for images in (one, other)]
    return not hashes[0].isdisjoint(hashes[1])


def _subject(source: ModelSource, data: DataOptions, question: Question, run: RunOptions) -> Subject:
    device = check_device(run.device)
    vae = load_model(source)
    return make_subject(vae.to(device), data.data, images_for(data, vae), question, run.seed, device)
