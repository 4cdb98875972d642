"""From a grid to its units of work: static, named by content, the same whoever does them."""

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
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
class Plan:
    """All lines of a grid and all their units, each once.

    Attributes:
        lines: what is asked.
        jobs: the units, in the order of the lines.
        batches: images attacked at once, by model, where the grid leaves it open.
    """

    lines: tuple[Line, ...]
    jobs: tuple[Job, ...]
    batches: dict[str, int]


def make_plan(grid: Grid, shelf: Shelf, batches: Mapping[str, int] | None = None) -> Plan:
    """List the units of a grid.

    Args:
        grid: what is asked.
        shelf: loads models and images.
        batches: images attacked at once, by model, as an earlier plan of the same sweep has them.

    Raises:
        ValueError: a model, its images or an option cannot be used; nothing has been done then.
    """
    lines: list[Line] = []
    jobs: dict[str, Job] = {}
    sizes = dict(batches or {})
    with threads(grid.threads):
        for line in _lines(grid, shelf, sizes):
            about = f"{shelf.model(line.source).name}, {shelf.images(line.source, line.data).name}, {_asked(line)}"
            for unit in units_of(line, shelf, Path()):
                jobs.setdefault(unit.key, Job(unit.key, len(lines), unit.samples, f"{unit.what}: {about}"))
            lines.append(line)
    return Plan(tuple(lines), tuple(jobs.values()), sizes)


def _lines(grid: Grid, shelf: Shelf, batches: dict[str, int]) -> Iterator[Line]:
    methods: tuple[CertifyOptions | AttackOptions, ...] = (*grid.certify, *grid.attack)
    for source, data, question, seed in itertools.product(grid.models, grid.data, grid.questions, grid.seeds):
        name = label(source)
        if grid.batch is None and name not in batches:
            batches[name] = _batch(grid, shelf, source, data)
        r = question.r
        if r is None:
            assert question.r_relative is not None
            r = question.r_relative * shelf.typical(source, data.data)
        for options in methods:
            yield Line(
                source=source, data=data, question=question, seed=seed, options=options, chunk=grid.chunk, r=r,
                batch=grid.batch or batches[name],
            )  # fmt: skip


def _batch(grid: Grid, shelf: Shelf, source: ModelSource, data: DataOptions) -> int:
    image = shelf.images(source, data).pixels[:1].to(shelf.device)
    return fitting_batch(shelf.model(source), image, min(grid.chunk, BATCH))


def label(source: ModelSource) -> str:
    """Give the name by which files tell a model.

    >>> label(ModelSource(factory="a:b", weights="w.safetensors"))
    'a:b w.safetensors'
    """
    return " ".join(part for part in (source.model, source.factory, source.weights) if part is not None)


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
