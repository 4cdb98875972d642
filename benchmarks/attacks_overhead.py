"""What a step of our attacks costs beyond the model's own forward and backward pass, and against foolbox.

Everything is per step, taken as the difference between a long and a short search, so that starts and verdicts do not
count; "whole" is the long search divided by its steps. One thread, whose own time counts; repetitions of all take
turns, and the medians of the ratios within a turn count.
"""

import time
from collections import Counter
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from attacks_judge import Counted
from attacks_peers import PEERS
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from vaerdict.attacks import APGD, PGD, Ball, MaximumDamage, Optimiser
from vaerdict.attacks.batch import Batch, Meter
from vaerdict.attacks.question import Question
from vaerdict.models import build_vae
from vaerdict.options import ModelOptions
from vaerdict.vae import Posterior

SHORT, LONG = 10, 30
RADIUS = 0.5
SYNCS = frozenset({"aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::equal"})
"""Operations that bring a number to the host, which on a device waits for all work before."""

TIMED: dict[str, Callable[[int], Optimiser]] = {
    "pgd": lambda steps: PGD(steps=steps, restarts=1, probes=1),
    "apgd": lambda steps: APGD(steps=steps, restarts=1),
}
"""Which of our optimisers are timed: from a number of steps to options."""

Search = Callable[[int], object]
"""A search with so many gradients."""


class Operations(TorchDispatchMode):
    """Count the operations that torch executes, backward passes included; views do no work, and count in `all` only."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen["operations"] += 1
        self.seen["kernels"] += not func.is_view
        self.seen["synchronisations"] += func.name() in SYNCS
        return func(*args, **(kwargs or {}))


class Uncounted(Counted):
    """The same view of a VAE without the counting, whose hooks take time."""

    def encode(self, images: Tensor) -> Posterior:
        """Give the posterior of each image."""
        return self.vae.encode(images)


NETWORKS = {
    # The first is the smallest in the literature's comparisons; the others take more than 5 ms on one core.
    "small": (ModelOptions(family="plain", hidden=(32,), spread="log_variance"), (1, 8, 8), 16),
    "dense": (ModelOptions(family="plain", hidden=(512, 512), spread="log_variance"), (1, 28, 28), 128),
    "conv": (ModelOptions(family="conv", latent=64, spread="log_variance"), (3, 32, 32), 32),
}
"""Architectures with the shape and number of their images."""


def fresh(options: ModelOptions, shape: tuple[int, ...], count: int) -> tuple[Counted, Tensor]:
    """Give an untrained network and random images."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        return Uncounted(build_vae(options, name="fresh", input_shape=shape).eval()), torch.rand(count, *shape)


def bare(vae: Counted, images: Tensor) -> Search:
    """Give what no attack can do without: the damage and its gradient, as often."""
    with torch.no_grad():
        anchor = vae(images)
    start = images + 0.01

    def search(steps: int) -> None:
        for _ in range(steps):
            point = start.detach().requires_grad_()
            damage = (vae(point) - anchor).square().flatten(1).sum(1)
            torch.autograd.grad(damage.sum(), point)

    return search


def ours(vae: Counted, images: Tensor, make: Callable[[int], Optimiser]) -> Search:
    """Give one of our searches."""
    batch = Batch.of(Meter(vae), images, Question(r=1.0, reconstruction="mean"), 0, tuple(range(len(images))))
    ball = Ball(norm="2", radius=torch.full((len(images),), RADIUS), box=vae.input_range, center=images)
    return lambda steps: make(steps).search(batch, MaximumDamage(), ball, "overhead")


def foolbox(vae: Counted, images: Tensor) -> Search:
    """Give foolbox's PGD."""
    return lambda steps: PEERS["foolbox PGD"](vae, images, RADIUS, steps, "2")


def operations(search: Search) -> dict[str, float]:
    """Give the operations, kernels and synchronisations per step."""
    counts = []
    for steps in (SHORT, LONG):
        with Operations() as counting:
            search(steps)
        counts.append(counting.seen)
    few, many = counts
    return {name: (many[name] - few[name]) / (LONG - SHORT) for name in ("operations", "kernels", "synchronisations")}


def times(searches: dict[str, Search], repetitions: int) -> dict[str, dict[str, float]]:
    """Give the seconds per step of each search, and the ratios to the first and to the last."""
    turns: list[dict[str, tuple[float, float]]] = []
    for _ in range(repetitions + 1):
        turns.append({name: (_timed(search, SHORT), _timed(search, LONG)) for name, search in searches.items()})
    first, *_, last = searches
    steps = [{name: (long - short) / (LONG - SHORT) for name, (short, long) in turn.items()} for turn in turns[1:]]
    return {
        name: {
            "milliseconds": 1e3 * median(turn[name] for turn in steps),
            "milliseconds_whole": 1e3 * median(turn[name][1] for turn in turns[1:]) / LONG,
            "ratio_to_bare": median(turn[name] / turn[first] for turn in steps),
            "ratio_to_foolbox": median(turn[name] / turn[last] for turn in steps),
            "ratio_to_foolbox_whole": median(turn[name][1] / turn[last][1] for turn in turns[1:]),
        }
        for name in searches
    }


def _timed(search: Search, steps: int) -> float:
    start = time.process_time()  # of this process alone, whatever else runs on the machine
    search(steps)
    return time.process_time() - start


def measure_overhead(quick: bool) -> dict[str, Any]:
    """Measure each network."""
    found = {}
    for size, network in NETWORKS.items():
        vae, images = fresh(*network)
        # The first and the last are what the others are compared with.
        attacks = {name: ours(vae, images, make) for name, make in TIMED.items()}
        searches = {"bare": bare(vae, images), **attacks, "foolbox": foolbox(vae, images)}
        counted = {name: operations(search) for name, search in searches.items()}
        for facts in counted.values():
            for kind in ("operations", "kernels"):
                facts[f"{kind}_beyond_bare"] = facts[kind] - counted["bare"][kind]
        timed = times(searches, (3 if quick else 40) if size == "small" else (1 if quick else 12))
        found[size] = {"images": len(images), **{name: {**counted[name], **timed[name]} for name in searches}}
    return found


def show_overhead(found: dict[str, Any]) -> None:
    """Print one line per network and search."""
    for size, searches in found.items():
        for name, facts in searches.items():
            if name != "images":
                print(
                    f"{size:<6}{name:<20}{facts['operations']:7.1f} operations a step "
                    f"({facts['operations_beyond_bare']:+.1f}; {facts['kernels_beyond_bare']:+.1f} without views), "
                    f"{facts['synchronisations']:.2f} synchronisations, {facts['milliseconds']:.3f} ms, "
                    f"{facts['ratio_to_bare']:.3f} x bare, {facts['ratio_to_foolbox']:.3f} x foolbox"
                )


if __name__ == "__main__":
    torch.set_num_threads(1)
    show_overhead(measure_overhead(quick=False))
