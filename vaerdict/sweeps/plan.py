"""From a grid to its units of work: static, named by content, the same whoever does them."""

import itertools
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from vaerdict.options import AttackOptions, CertifyOptions, DataOptions, ModelSource, Question
from vaerdict.sweeps.grid import Grid
from vaerdict.sweeps.memory import fitting_batch
from vaerdict.sweeps.subjects import Shelf, threads
from vaerdict.sweeps.units import BATCH, Subject, Unit, attack_units, certificate_units


@dataclass(frozen=True, kw_only=True)
class Line:
    """A line of the grid: one model on one selection of images, asked one thing in one way.

    Attributes:
        r: the question's distance, resolved, in pixel units.
        batch: images attacked at once.
    """

    source: ModelSource
    data: DataOptions
    question: Question
    seed: int
    options: CertifyOptions | AttackOptions
    chunk: int
    r: float
    batch: int


@dataclass(frozen=True, slots=True)
class Job:
    """A unit of work by name: enough to tell somebody else to do it.

    Attributes:
        key: of the unit.
        line: its place in the plan's lines.
        samples: how many the unit is about.
        group: what it is part of, in words.
    """

    key: str
    line: int
    samples: int
    group: str


@dataclass(frozen=True)
class Measured:
    """What planning measures, by model and more; a sweep keeps it, so that it is the same when it goes on elsewhere.

    Attributes:
        batches: images attacked at once.
        distances: typical ones between reconstructions, in pixel units.
    """

    batches: dict[str, int] = field(default_factory=dict)
    distances: dict[str, float] = field(default_factory=dict)

    def __or__(self, other: "Measured") -> "Measured":
        """Give what is in either; where both know, the other's."""
        return Measured(self.batches | other.batches, self.distances | other.distances)


@dataclass(frozen=True)
class Plan:
    """All lines of a grid and all their units, each once.

    Attributes:
        lines: what is asked.
        jobs: the units, in the order of the lines.
        measured: what was measured for it, and what was known before.
    """

    lines: tuple[Line, ...]
    jobs: tuple[Job, ...]
    measured: Measured


def make_plan(grid: Grid, shelf: Shelf, known: Measured | None = None) -> Plan:
    """List the units of a grid.

    Args:
        grid: what is asked.
        shelf: loads models and images.
        known: what an earlier plan of the same sweep measured.

    Raises:
        ValueError: a model, its images or an option cannot be used; nothing has been done then.
    """
    lines: list[Line] = []
    jobs: dict[str, Job] = {}
    measured = Measured() | (known or Measured())
    with threads(grid.threads):
        for line in _lines(grid, shelf, measured):
            about = f"{shelf.model(line.source).name}, {shelf.images(line.source, line.data).name}, {_asked(line)}"
            for unit in units_of(line, shelf, Path()):
                jobs.setdefault(unit.key, Job(unit.key, len(lines), unit.samples, f"{unit.what}: {about}"))
            lines.append(line)
    return Plan(tuple(lines), tuple(jobs.values()), measured)


def _lines(grid: Grid, shelf: Shelf, measured: Measured) -> Iterator[Line]:
    methods: tuple[CertifyOptions | AttackOptions, ...] = (*grid.certify, *grid.attack)
    for source, data, question, seed in itertools.product(grid.models, grid.data, grid.questions, grid.seeds):
        r, batch = _distance(question, source, data, shelf, measured), _batch(grid, source, data, shelf, measured)
        for options in methods:
            yield Line(
                source=source, data=data, question=question, seed=seed, options=options, chunk=grid.chunk, r=r,
                batch=batch,
            )  # fmt: skip


def _distance(question: Question, source: ModelSource, data: DataOptions, shelf: Shelf, measured: Measured) -> float:
    """Give the question's `r`, in pixel units."""
    if question.r is not None:
        return question.r
    assert question.r_relative is not None
    name = f"{shelf.sha256(source)} {data.data}"
    if name not in measured.distances:
        measured.distances[name] = shelf.typical(source, data.data)
    return question.r_relative * measured.distances[name]


def _batch(grid: Grid, source: ModelSource, data: DataOptions, shelf: Shelf, measured: Measured) -> int:
    """Give how many images are attacked at once."""
    if grid.batch is not None or not grid.attack:
        return grid.batch or BATCH
    name = f"{shelf.sha256(source)} {grid.device}"
    if name not in measured.batches:
        image = shelf.images(source, data).pixels[:1].to(shelf.device)
        measured.batches[name] = fitting_batch(shelf.model(source), image, BATCH)
    return min(grid.chunk, measured.batches[name])


def _asked(line: Line) -> str:
    """Say what is asked, in words: the question, the seed, and the options that are not the usual ones."""
    asked = line.question
    distance = f"r {asked.r:g}" if asked.r is not None else f"r {asked.r_relative:g} of typical"
    usual, silent = asdict(type(line.options)()), ("radii", "margin")
    other = [
        f"{name.replace('_', '-')} {'+'.join(map(str, value)) if isinstance(value, tuple) else value}"
        for name, value in asdict(line.options).items()
        if value != usual[name] and name not in silent
    ]
    return ", ".join([distance, f"p {asked.p:g}", f"seed {line.seed}", *other])


def units_of(line: Line, shelf: Shelf, folder: Path) -> list[Unit]:
    """Give the units of a line; their witnesses go below the folder."""
    subject = Subject(
        vae=shelf.model(line.source), images=shelf.images(line.source, line.data), r=line.r,
        r_relative=line.question.r_relative, p=line.question.p, seed=line.seed, device=shelf.device, chunk=line.chunk,
        batch=line.batch, model_sha256=shelf.sha256(line.source),
    )  # fmt: skip
    if isinstance(line.options, CertifyOptions):
        return certificate_units(subject, line.options)
    return attack_units(subject, line.options, folder)
