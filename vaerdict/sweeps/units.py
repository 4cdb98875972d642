"""Units of work: a chunk of samples under one configuration, named by the SHA-256 of all that it depends on."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import torch
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
    standard,
)
from vaerdict.certify import ModelBounds, certify
from vaerdict.certify.export import export_certificates, export_model
from vaerdict.data import Images
from vaerdict.models import GaussianVAE
from vaerdict.options import AttackOptions, CertifyOptions, require
from vaerdict.results import Row, array_sha256, subjects, unit_key
from vaerdict.vae import fingerprint

CHUNK = 100
"""Samples per unit, unless a grid says otherwise."""
BATCH = 256
"""Images attacked at once, where they fit."""


@dataclass(frozen=True)
class Unit:
    """A piece of work that is done once.

    Attributes:
        key: its name, by content.
        samples: how many it is about.
        what: the method, in words.
        work: makes its rows.
        blame: makes the rows of a failure, one per sample, from its reason.
        export: writes what else the rows are to be checked by into the run's folder, before the rows are.
    """

    key: str
    samples: int
    what: str
    work: Callable[[], list[Row]]
    blame: Callable[[str], list[Row]]
    export: Callable[[Path, list[Row]], object] = lambda folder, rows: None


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What a set of units is about: a model, images, and the question with `r` resolved.

    Attributes:
        chunk: samples per unit; part of what a unit is.
        batch: images attacked at once; no part of it.
        model_sha256: of the model, where it is known; large ones take a while.
    """

    vae: GaussianVAE
    images: Images
    r: float
    r_relative: float | None
    p: float
    seed: int
    device: str
    chunk: int = CHUNK
    batch: int = BATCH
    model_sha256: str | None = None

    def chunks(self) -> list[slice]:
        """Give the parts of the images, which depend on nothing but their number and the size of a chunk."""
        return _chunks(len(self.images.pixels), self.chunk)

    def units(self, what: str, facts: dict[str, Any], work: Callable[..., list[Row]], **columns: Any) -> list[Unit]:
        """Name and pack the work on each chunk; `work` gets its place among the images, too.

        Args:
            what: the method, in words.
            facts: all that the results depend on besides the subject; a list holds one value per chunk.
            work: makes a chunk's rows from the model, its images on the device, its place and the question.
            columns: of the rows, where it fails.
        """
        model = self.model_sha256 or fingerprint(self.vae)
        shared = {"r": self.r, "p": self.p, "r_relative": self.r_relative, "seed": self.seed}
        found = []
        for number, (part, pixels) in enumerate(zip(self.chunks(), _hashes(self.images, self.chunk), strict=True)):
            ask = {**shared, "sample_ids": list(self.images.sample_ids[part]), "dataset": self.images.name}
            own = {name: value[number] if isinstance(value, list) else value for name, value in facts.items()}
            key = unit_key(**ask, **own, pixels=pixels, model=model, device=torch.device(self.device).type)
            found.append(
                Unit(
                    key=key,
                    samples=part.stop - part.start,
                    what=what,
                    work=partial(self._work, work, part, ask),
                    blame=partial(self._blame, {"method": what, **columns}, part, model),
                )
            )
        return found

    def _work(self, work: Callable[..., list[Row]], part: slice, ask: dict[str, Any]) -> list[Row]:
        return work(self.vae, self.images.pixels[part].to(self.device), part, ask)

    def _blame(self, columns: dict[str, Any], part: slice, model: str, reason: str) -> list[Row]:
        pixels, ids = self.images.pixels[part].numpy(), self.images.sample_ids[part]
        asked = {"r": self.r, "r_relative": self.r_relative, "p": self.p, "seed": self.seed, "device": self.device}
        told = {**columns, **asked, "status": "error", "reason": reason}
        return [Row(**who, **told) for who in subjects(self.vae.name, model, self.images.name, pixels, ids)]


def _chunks(count: int, size: int) -> list[slice]:
    return [slice(start, min(start + size, count)) for start in range(0, count, size)]


@lru_cache(maxsize=2)
def _hashes(images: Images, size: int) -> tuple[str, ...]:
    """Give the SHA-256 of each chunk's pixels; many units are about the same ones."""
    return tuple(array_sha256(images.pixels[part].numpy()) for part in _chunks(len(images.pixels), size))


def certificate_units(subject: Subject, options: CertifyOptions) -> list[Unit]:
    """Plan the certificates of all images."""
    known = ModelBounds(subject.vae, subject.images.pixels[:1].to(subject.device), options)

    def work(vae: GaussianVAE, images: Tensor, part: slice, ask: dict[str, Any]) -> list[Row]:
        return certify(vae, images, options=options, known=known, **ask)

    units = subject.units(
        "certify", {"certify": asdict(options)}, work, kind="certificate", strength="numerical", norm=options.norm,
        reconstruction=options.reconstruction, noise_std=options.noise_std or None,
    )  # fmt: skip
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
    asked = {name: value for name, value in asdict(options).items() if name not in ("radii", "margin", "gradients")}
    facts: dict[str, Any] = {"attack": asked}
    targets = _targets(subject.images) if options.objective == "latent" else None
    if targets is not None:
        facts["targets"] = [array_sha256(targets[part].numpy()) for part in subject.chunks()]
    budget = {"gradients": options.gradients} if options.suite == "none" else {}
    shared = _shared(options, folder)

    def margin(vae: GaussianVAE, images: Tensor, part: slice, ask: dict[str, Any]) -> list[Row]:
        least = MarginSearch(start=PGD(compiled=options.compiled), batch_size=subject.batch)
        suite = None if options.suite == "none" else options.suite
        return attack_margin(
            vae, images, options=least, suite=suite, objective=_objective(targets, part), **shared, **ask
        )

    def fixed(radius: float, vae: GaussianVAE, images: Tensor, part: slice, ask: dict[str, Any]) -> list[Row]:
        aim = _objective(targets, part)
        return attack(vae, images, radius=radius, objective=aim, **_search(subject, options, aim), **shared, **ask)

    columns = {
        "kind": "attack",
        "strength": "empirical",
        "norm": options.norm,
        "reconstruction": options.reconstruction,
    }
    units = subject.units("attack margin", {**facts, "radius": None}, margin, **columns) if options.margin else []
    for radius in options.radii:
        here = {**facts, **budget, "radius": radius}
        units += subject.units(
            f"attack radius {radius:g}", here, partial(fixed, radius), **columns, rho=radius, fixed_radius=True
        )
    return units


def _shared(options: AttackOptions, folder: Path) -> dict[str, Any]:
    """Give the arguments of both verbs."""
    judge = Evaluation(samples=options.samples, confidence=options.confidence, indicators=options.indicators)
    return {
        "norm": options.norm,
        "reconstruction": options.reconstruction,
        "evaluation": judge,
        "witness_folder": folder / "witnesses",
    }


def _search(subject: Subject, options: AttackOptions, aim: Objective) -> dict[str, Any]:
    """Give the search at a radius."""
    if options.suite == "none":
        found = PGD.within(options.gradients, compiled=options.compiled)
        return {"options": replace(found, batch_size=subject.batch)}
    return {"suite": replace(standard(aim), batch_size=subject.batch)}


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
