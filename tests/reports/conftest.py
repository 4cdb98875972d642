"""Reports that several tests read; building one takes seconds."""

from pathlib import Path

import pytest

from tests.reports import runs
from vaerdict.reports import build_report


@pytest.fixture(scope="session")
def full_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with two models, three certificate methods, attacks, estimates and witnesses; its report is built."""
    run = runs.write_run(tmp_path_factory.mktemp("full"), runs.full_rows())
    build_report(run)
    return run


@pytest.fixture(scope="session")
def full_report(full_run: Path) -> Path:
    return full_run / "report"
