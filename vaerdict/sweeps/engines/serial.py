"""This process, one unit after the other."""

import json
import logging
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from tqdm import tqdm

from vaerdict.results import COMPARED, check_contradictions, environment, load, write_atomic, write_part
from vaerdict.sweeps.plan import Job
from vaerdict.sweeps.subjects import threads
from vaerdict.sweeps.units import Unit
from vaerdict.sweeps.worker import RESULTS, Outcome, Worker

_log = logging.getLogger(__name__)


def run_serial(worker: Worker, jobs: Iterable[Job], thread_count: int) -> Iterator[Outcome]:
    """Do a sweep's units in their order."""
    for job in jobs:
        with threads(thread_count):
            outcome = worker.run(job)
        yield outcome


def run_units(folder: Path, units: Sequence[Unit], title: str) -> None:
    """Run the units of a single command into `folder/results/<key>.parquet`; the first failure stops it.

    An interrupted run leaves whole parts only; the same call goes on where it stopped.

    Raises:
        Contradiction: a certificate in the folder is larger than an attacked margin.
    """
    results = folder / RESULTS
    write_atomic(folder / "environment.json", json.dumps(environment(), indent=2).encode())
    with tqdm(total=sum(unit.samples for unit in units), desc=title, unit="image", disable=None) as bar:
        for unit in units:
            if (results / f"{unit.key}.parquet").is_file():
                _log.info("%s: part %s is there", title, unit.key[:8])
            else:
                rows = unit.work()
                unit.export(folder, rows)
                write_part(results, rows, unit.key)
            bar.update(unit.samples)
    check_contradictions(load(results, COMPARED))
