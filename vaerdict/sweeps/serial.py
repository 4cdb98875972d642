"""One unit after the other, each written as soon as it is done; finished ones are skipped."""

import json
import logging
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from vaerdict.results import check_contradictions, environment, load, write_atomic, write_part
from vaerdict.sweeps.units import Unit

_log = logging.getLogger(__name__)


def run_units(folder: Path, units: Sequence[Unit], title: str) -> None:
    """Run units into `folder/results/<key>.parquet` and hold all results there against each other.

    An interrupted run leaves whole parts only; the same call goes on where it stopped.

    Raises:
        Contradiction: a certificate in the folder is larger than an attacked margin.
    """
    results = folder / "results"
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
    check_contradictions(load(results))
