"""Processes on this machine, one per GPU or several on the CPU; one that dies is replaced and its unit repeated."""

import os
import signal
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from multiprocessing import get_context, parent_process, resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.forkserver import ensure_running, set_forkserver_preload
from threading import Thread

from vaerdict.sweeps.engines.deaths import Answer, Deaths, attempt
from vaerdict.sweeps.plan import Job
from vaerdict.sweeps.worker import Outcome, Place, Worker

_PATIENCE = 2.0
"""Seconds that a process has to end before it is killed."""


def run_local(worker: Worker, places: Sequence[Place], jobs: Sequence[Job]) -> Iterator[Outcome]:
    """Do the units, one process per place; who is idle gets the next.

    Args:
        worker: this process's, which tells of units that kill.
        places: of the processes.
        jobs: what is to be done.
    """
    waiting, deaths = deque(jobs), Deaths(worker)
    start_server()
    hands = [_Hand(place) for place in places[: len(jobs)]]
    try:
        for hand in hands:
            hand.give(waiting.popleft())
        while busy := {hand.connection: hand for hand in hands if hand.job is not None}:
            for connection in wait(list(busy)):
                hand = busy[connection]  # type: ignore[index]
                answer, job = hand.take()
                outcome = deaths.judge(job, answer)
                if outcome is None:
                    waiting.appendleft(job)
                if answer is None:
                    hand.replace()
                if waiting:
                    hand.give(waiting.popleft())
                if outcome is not None:
                    yield outcome
    finally:
        for hand in hands:
            hand.leave()
        for hand in hands:
            hand.stop()


def start_server() -> None:
    """Start the server that forks the processes, deaf to Ctrl-C like them: that is for who gives out the units.

    It imports all that they need, so it is started early, to be ready when it is asked; a second call does nothing.
    """
    set_forkserver_preload([__name__])
    resource_tracker.ensure_running()  # it would take the block away
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _Hand:
    """A process that does units, seen from the one that gives them out."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self.job: Job | None = None
        self._start()

    def _start(self) -> None:
        # A server that has imported all forks them: a new process is there in milliseconds, whatever runs here.
        context = get_context("forkserver")
        self.connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, self._place), daemon=True)
        self._process.start()
        theirs.close()  # so that its end is seen here

    def give(self, job: Job) -> None:
        self.job = job
        with suppress(BrokenPipeError):  # a dead process shows when its answer is awaited
            self.connection.send(job)

    def take(self) -> tuple[Answer | None, Job]:
        """Give the answer, None of a dead process, and the unit it was given."""
        job, self.job = self.job, None
        assert job is not None
        try:
            return self.connection.recv(), job
        except (EOFError, OSError):  # also where it died in the middle of a long answer
            return None, job

    def replace(self) -> None:
        self.stop()
        self._start()

    def leave(self) -> None:
        """Ask the process to end, without waiting for it."""
        self.connection.close()
        self._process.terminate()

    def stop(self) -> None:
        self.leave()
        self._process.join(_PATIENCE)
        self._process.kill()
        self._process.join()


def _serve(connection: Connection, place: Place) -> None:
    """Do what is asked until the other side is gone, and nothing after that."""
    Thread(target=_end_with_the_other_side, daemon=True).start()
    worker = place.open()
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):
        while True:
            connection.send(attempt(worker, connection.recv()))


def _end_with_the_other_side() -> None:
    """End at once when who gives out the units is killed: another sweep may be doing this process's unit by then."""
    other = parent_process()
    assert other is not None
    other.join()
    os._exit(1)
