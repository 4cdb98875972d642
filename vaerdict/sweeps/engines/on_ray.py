"""Ray's workers, here or on a cluster; each holds its model on its device, and one that dies is replaced."""

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from vaerdict.options import SweepOptions, require
from vaerdict.sweeps.engines.deaths import Answer, Deaths, attempt
from vaerdict.sweeps.plan import Job
from vaerdict.sweeps.worker import Outcome, Place, Worker


class Hand:
    """A worker, as Ray starts it elsewhere; the folders of models, images and results must be seen from there, too."""

    def __init__(self, home: Path, place: Place) -> None:
        os.chdir(home)  # what the grid's paths are relative to
        self._worker = place.open()

    def run(self, job: Job) -> Answer:
        """Do a unit."""
        return attempt(self._worker, job)


def run_on_ray(worker: Worker, place: Place, jobs: Sequence[Job], options: SweepOptions) -> Iterator[Outcome]:
    """Do the units on a Ray cluster, or on one that is started here for it.

    Args:
        worker: this process's, which tells of units that kill.
        place: of each worker, as all of them see it.
        jobs: what is to be done.
        options: address, number of workers, share of a GPU.

    Raises:
        ValueError: Ray is not installed, or has no room for a worker.
    """
    require(find_spec("ray") is not None, "ray, by `pip install 'vaerdict[ray]'`", "none")
    import ray

    gpus = options.gpus if options.gpus is not None else float(place.device == "cuda")
    started = _connect(ray, options)
    try:
        settings = ray.remote(Hand).options(num_cpus=1, num_gpus=gpus)
        hire = partial(settings.remote, Path.cwd(), ray.put(place))
        yield from _run(ray, hire, _count(ray, options, gpus), jobs, Deaths(worker))
    finally:
        if started:
            ray.shutdown()


def _connect(ray: Any, options: SweepOptions) -> bool:
    """Join or start a cluster; say whether it is to be left at the end."""
    if ray.is_initialized():
        return False
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    here = {"num_cpus": options.workers, "include_dashboard": False} if options.address is None else {}
    ray.init(address=options.address or "local", log_to_driver=False, logging_level="error", **here)
    return True


def _count(ray: Any, options: SweepOptions, gpus: float) -> int:
    """Give how many workers there are: as asked, or as many as the cluster has room for."""
    there, needed = ray.cluster_resources(), {"CPU": 1.0, "GPU": gpus}
    rooms = [there.get(name, 0.0) / share for name, share in needed.items() if share]
    if options.workers is not None and options.address is not None:
        return options.workers  # a cluster may grow
    require(min(rooms) >= 1, f"room for a worker with {gpus:g} GPU and 1 CPU", there)
    return options.workers or int(min(rooms))


def _run(ray: Any, hire: Callable[[], Any], count: int, jobs: Sequence[Job], deaths: Deaths) -> Iterator[Outcome]:
    """Keep each worker busy with one unit, and hire another for one that died."""
    waiting = deque(jobs)
    busy: dict[Any, tuple[Any, Job]] = {}

    def give(hand: Any) -> None:
        job = waiting.popleft()
        busy[hand.run.remote(job)] = hand, job

    for _ in range(min(count, len(jobs))):
        give(hire())
    while busy:
        [ready], _ = ray.wait(list(busy), num_returns=1)
        hand, job = busy.pop(ready)
        answer, why = None, ""
        try:
            answer = ray.get(ready)
        except (ray.exceptions.RayActorError, ray.exceptions.OutOfMemoryError) as error:
            why = " ".join(str(error).split())[-500:]
        outcome = deaths.judge(job, answer, why)
        if outcome is None:
            waiting.appendleft(job)
        if waiting:
            give(hire() if answer is None else hand)
        else:
            ray.kill(hand)  # so that workers for which there was no room yet get its place
        if outcome is not None:
            yield outcome
