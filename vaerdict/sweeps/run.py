"""A sweep: the units of a grid that are not done yet, given to an engine, and what it tells of them counted."""

import os
import tempfile
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd
import torch

from vaerdict.options import SweepOptions
from vaerdict.results import COMPARED, SKIPPED, check_contradictions, load, remove_drafts
from vaerdict.sweeps.engines.local import run_local, start_server
from vaerdict.sweeps.engines.serial import run_serial
from vaerdict.sweeps.grid import Grid
from vaerdict.sweeps.interrupt import remembered, stop_if_interrupted
from vaerdict.sweeps.ledger import Ledger, table_status
from vaerdict.sweeps.plan import Job, Plan, make_plan
from vaerdict.sweeps.progress import Progress
from vaerdict.sweeps.subjects import Shelf, check_device, threads
from vaerdict.sweeps.worker import RESULTS, Outcome, Place, Worker, cannot_write


@dataclass(frozen=True, kw_only=True)
class Summary:
    """How a sweep ended.

    Attributes:
        units: of this shard.
        done: finished units, those of earlier runs included.
        failed: units that failed, here or before.
        made: units that were done here.
    """

    units: int
    done: int
    failed: int
    made: int

    @property
    def missing(self) -> int:
        """Units that are neither done nor failed: the sweep was stopped."""
        return self.units - self.done - self.failed


@dataclass(frozen=True, kw_only=True)
class Work:
    """What there is to do: the plan, and the units of the chosen shard by their state."""

    ledger: Ledger
    shelf: Shelf
    plan: Plan
    jobs: Sequence[Job]
    done: set[str]
    failed: set[str]
    waiting: Sequence[Job]


def look(grid: Grid, options: SweepOptions) -> Work:
    """Plan a grid and see what its folder has of it; nothing is written.

    Raises:
        ValueError: the grid differs from the folder's, or cannot be planned.
    """
    ledger = Ledger(Path(options.out))
    ledger.check_grid(grid, options.new)
    shelf = Shelf(check_device(grid.device))
    plan = make_plan(grid, shelf, ledger.measured())
    done, failed = ledger.done(), ledger.failed()
    skipped = set() if options.force else done if options.retry_failed else done | failed
    jobs = plan.jobs[options.part]
    waiting = [job for job in jobs if job.key not in skipped]
    return Work(ledger=ledger, shelf=shelf, plan=plan, jobs=jobs, done=done, failed=failed, waiting=waiting)


def sweep(grid: Grid, options: SweepOptions) -> Summary:
    """Do the units of a grid that the folder lacks; the same call goes on where another one stopped.

    Parts, random draws and numbers depend neither on the engine nor on the number of workers nor on the order.

    Raises:
        ValueError: the grid differs from the folder's, or cannot be planned.
        CannotGoOn: the disk is full, or the folder cannot be written.
        Contradiction: a certificate in the folder is larger than an attacked margin.
    """
    if options.engine == "local":
        start_server()
    work = look(grid, options)
    try:
        if work.ledger.keep(work.plan.measured) != work.plan.measured:
            work = look(grid, options)  # another shard began at the same time, and was first
        work.ledger.write(grid, work.plan)
        work.ledger.settle()
        remove_drafts(work.ledger.folder)
    except OSError as error:
        raise cannot_write(work.ledger.folder, error) from error
    if work.waiting:
        work.ledger.forget_compared()
    todo = {job.key for job in work.waiting}
    kept = [job.key for job in work.jobs if job.key not in todo]
    done, failed = sum(key in work.done for key in kept), sum(key in work.failed for key in kept)
    progress = Progress("sweep", units=len(work.jobs), done=done, failed=failed, log_json=options.log_json)
    with remembered(), closing(progress), closing(run_engine(grid, options, work)) as outcomes:
        for outcome in outcomes:
            progress.tell(outcome)
            stop_if_interrupted()
            if options.max_failures is not None and progress.failed - failed >= options.max_failures:
                break
    work.ledger.settle()
    _compare(work.ledger, whole=options.shard == "1/1" or not work.ledger.missing())
    return Summary(units=len(work.jobs), done=progress.done, failed=progress.failed, made=progress.done - done)


def _compare(ledger: Ledger, whole: bool) -> None:
    """Hold certificates and attacks against each other, once for the parts that are there.

    A shard leaves it to whoever ends the sweep, since all parts are read. While some are damaged, they are named again
    each time.
    """
    digest = ledger.digest()
    if whole and ledger.done() and not ledger.is_compared(digest):
        table = load(ledger.folder / RESULTS, COMPARED)
        check_contradictions(table)
        if SKIPPED not in table.attrs:
            ledger.mark_compared(digest)


def run_engine(grid: Grid, options: SweepOptions, work: Work) -> Generator[Outcome, None, None]:
    """Give the waiting units to the chosen engine, and their outcomes as they come."""
    folder, lines, jobs = Path(options.out).resolve(), work.plan.lines, work.waiting
    worker = Worker(folder, lines, work.shelf)
    place = Place(folder=folder, lines=lines, device=grid.device, thread_count=grid.threads)
    if not jobs:
        return
    if options.engine != "serial":
        work.shelf.clear()  # its memory is for the workers
    if options.engine == "serial":
        yield from run_serial(worker, jobs, grid.threads)
    elif options.engine == "local":
        places = [replace(place, device=device) for device in devices(grid, options.workers)]
        yield from run_local(worker, places, jobs)
    else:
        from vaerdict.sweeps.engines.on_ray import run_on_ray  # an extra

        yield from run_on_ray(worker, place, jobs, options)


def devices(grid: Grid, workers: int | None) -> list[str]:
    """Give the device of each worker on this machine: the GPUs in turn, or the CPU for all."""
    if grid.device == "cpu":
        return ["cpu"] * (workers or len(os.sched_getaffinity(0)))
    count = torch.cuda.device_count()
    return [f"cuda:{worker % count}" for worker in range(workers or count)]


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What a sweep would do.

    Attributes:
        table: units by group.
        seconds: that the missing ones take on one worker.
        failures: why units failed that were tried, by their groups.
    """

    table: pd.DataFrame
    seconds: float
    failures: dict[str, str]


def estimate(grid: Grid, options: SweepOptions) -> Estimate:
    """List the units of a grid by group, and estimate the time of the missing ones.

    One missing unit of each model, source of images and method is done for it and thrown away; nothing is written.

    Raises:
        ValueError: the grid differs from the folder's, or cannot be planned.
    """
    work = look(grid, options)
    first = {_kind(job, work.plan): job for job in reversed(work.waiting)}
    with tempfile.TemporaryDirectory() as temporary, threads(grid.threads):
        worker = Worker(Path(temporary), work.plan.lines, work.shelf)
        tried = {kind: worker.run(job) for kind, job in reversed(first.items())}
    listed = pd.DataFrame([(job.key, job.group) for job in work.jobs], columns=["key", "group"])
    each = {kind: outcome.seconds / outcome.job.samples for kind, outcome in tried.items()}
    return Estimate(
        table=table_status(listed, work.done, work.failed),
        seconds=sum(each[_kind(job, work.plan)] * job.samples for job in work.waiting),
        failures={one.job.group: one.reason for one in tried.values() if one.status == "failed"},
    )


def _kind(job: Job, plan: Plan) -> tuple[object, ...]:
    """Give what a unit's time depends on, about: model, images, method; neither question nor seed."""
    line = plan.lines[job.line]
    return line.source, line.data, line.options, job.group.partition(":")[0]
