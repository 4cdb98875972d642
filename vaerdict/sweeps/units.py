"""Units of work: a chunk of samples under one configuration, named by the SHA-256 of all that it depends on."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from vaerdict.attacks import (
    PGD,
    Evaluation,
    MarginSearch,
    MaximumDamage,
    Objective,
    TargetedLatent,
    attack,
    attack_margin,
)
from vaerdict.certify import ModelBounds, certify
from vaerdict.certify.export import export_certificates, export_model
from vaerdict.data import Images
from vaerdict.models import GaussianVAE
from vaerdict.options import AttackOptions, CertifyOptions, require
from vaerdict.results import Row, array_sha256, unit_key
from vaerdict.vae import fingerprint

CHUNK = 100
"""Samples per unit."""


@dataclass(frozen=True)
class Unit:
    """A piece of work that is done once.

    Attributes:
        key: its name, by content.
        samples: how many it is about.
        work: makes its rows.
        export: writes what else the rows are to be checked by into the run's folder, before the rows are.
    """

    key: str
    samples: int
    work: Callable[[], list[Row]]
    export: Callable[[Path, list[Row]], object] = lambda folder, rows: None


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What a set of units is about: a model, images, and the question with `r` resolved."""

    vae: GaussianVAE
    images: Images
    r: float
    r_relative: float | None
    p: float
    seed: int
    device: str

    def chunks(self) -> list[slice]:
        """Give the parts of the images, which depend on nothing but their number."""
        return [slice(start, start + CHUNK) for start in range(0, len(self.images.pixels), CHUNK)]

    def unit(self, part: slice, what: dict[str, Any], work: Callable[..., list[Row]], **options: Any) -> Unit:
        """Name and pack one piece of work; its images reach the device only when it is done."""
        images = self.images.pixels[part]
        ask: dict[str, Any] = {
            "r": self.r,
            "p": self.p,
            "r_relative": self.r_relative,
            "seed": self.seed,
            "sample_ids": list(self.images.sample_ids[part]),
            "dataset": self.images.name,
        }
        facts = {**ask, **what, "pixels": array_sha256(images.numpy()), "model": fingerprint(self.vae)}
        return Unit(
            key=unit_key(**facts, device=self.device),
            samples=len(images),
            work=lambda: work(self.vae, images.to(self.device), **ask, **options),
        )


def certificate_units(subject: Subject, options: CertifyOptions) -> list[Unit]:
    """Plan the certificates of all images."""
    what = {"certify": asdict(options)}
    known = ModelBounds(subject.vae, subject.images.pixels[:1].to(subject.device), options)
    units = [subject.unit(part, what, certify, options=options, known=known) for part in subject.chunks()]
    return [replace(unit, export=partial(_export, subject.vae, unit.key)) for unit in units]


def _export(vae: GaussianVAE, key: str, folder: Path, rows: list[Row]) -> None:
    """Write the certificates and the model so that `vaerdict check` can verify them."""
    export_model(folder, vae)
    export_certificates(folder, key, rows)


def attack_units(subject: Subject, options: AttackOptions, folder: Path) -> list[Unit]:
    """Plan the attacks on all images; witnesses go to `folder/witnesses`.

    Raises:
        ValueError: targets are asked for, but an image has no other one to be its target.
    """
    # Which units there are is no part of what one of them does: a radius more leaves the others' names alone.
    facts = {name: value for name, value in asdict(options).items() if name not in ("radii", "margin", "gradients")}
    what: dict[str, Any] = {"attack": facts}
    targets = _targets(subject.images) if options.objective == "latent" else None
    evaluation = Evaluation(samples=options.samples, confidence=options.confidence, indicators=options.indicators)
    suite = None if options.suite == "none" else options.suite
    found = PGD.within(options.gradients, compiled=options.compiled)
    one: dict[str, Any] = {"options": found} if suite is None else {"suite": suite}
    least = MarginSearch(start=PGD(compiled=options.compiled))
    budget = {"gradients": options.gradients} if suite is None else {}
    units = []
    for part in subject.chunks():
        if targets is not None:
            what["targets"] = array_sha256(targets[part].numpy())
        shared = {
            "norm": options.norm,
            "reconstruction": options.reconstruction,
            "objective": _objective(targets, part),
            "evaluation": evaluation,
            "witness_folder": folder / "witnesses",
        }
        if options.margin:
            ask = {**what, "radius": None}
            units.append(subject.unit(part, ask, attack_margin, options=least, suite=suite, **shared))
        for radius in options.radii:
            fixed = {**what, **budget, "radius": radius}
            units.append(subject.unit(part, fixed, attack, radius=radius, **one, **shared))
    return units


def _objective(targets: Tensor | None, part: slice) -> Objective:
    return MaximumDamage() if targets is None else TargetedLatent(targets[part])


def _targets(images: Images) -> Tensor:
    """Give each image the next one of another label as its target (the next one where there are no labels)."""
    count = len(images.pixels)
    if images.labels is None:
        require(count >= 2, "2 images or more, to be targets of each other", count)
        return images.pixels.roll(-1, 0)
    labels = images.labels.tolist()
    kinds = len(set(labels))
    require(kinds >= 2, "images of 2 labels or more, to be targets of each other", kinds)
    order = [next(j % count for j in range(i + 1, i + count) if labels[j % count] != labels[i]) for i in range(count)]
    return images.pixels[order]
