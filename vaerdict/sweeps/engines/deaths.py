"""What comes back from workers elsewhere; units with which one died are repeated, unless it is they that kill."""

from collections import Counter

from vaerdict.sweeps.plan import Job
from vaerdict.sweeps.worker import CannotGoOn, CannotLoad, Outcome, Worker

MOST = 3
"""Deaths after which a unit counts as failed."""


Answer = Outcome | CannotGoOn


def attempt(worker: Worker, job: Job) -> Answer:
    """Do a unit for somebody who only sees what is sent back."""
    try:
        return worker.run(job)
    except CannotGoOn as error:
        return error


class Deaths:
    """Counts the workers that died, by unit.

    Args:
        worker: a living one, which writes the failures.
    """

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._count: Counter[str] = Counter()

    def judge(self, job: Job, answer: Answer | None, why: str = "") -> Outcome | None:
        """Give the outcome of a unit; nothing where its worker died and it is to be repeated.

        Args:
            job: the unit.
            answer: what its worker sent, None where it died.
            why: it died, as far as that is known.

        Raises:
            CannotGoOn: the disk is full, or the folder cannot be written; or a model cannot be loaded here, either.
        """
        if isinstance(answer, CannotLoad):
            return self._worker.fail(job, str(answer), 0.0)
        if isinstance(answer, CannotGoOn):
            raise answer
        return self._of(job, why) if answer is None else answer

    def _of(self, job: Job, why: str) -> Outcome | None:
        self._count[job.key] += 1
        if self._count[job.key] < MOST:
            return None
        return self._worker.fail(job, f"{MOST} workers died with it{': ' if why else ''}{why}", 0.0)
