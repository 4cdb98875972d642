"""What compiling a search's steps brings: seconds per step, beside the bare passes, our plain steps and foolbox.

On one CPU core the three networks of `attacks_overhead.py`; where there is a GPU also a 784-512-512-10 VAE at a batch
of 1,024 there, by its throughput. The first of all turns compiles and is left out; what it took is reported.
"""

import time
from statistics import median
from typing import Any

import torch
from attacks_overhead import LONG, NETWORKS, SHORT, Search, bare, foolbox, fresh, ours, times
from common import Target, finish, make_parser

from vaerdict.attacks import PGD
from vaerdict.options import ModelOptions

WIDE = (ModelOptions(family="plain", hidden=(512, 512), latent=10, spread="log_variance"), (1, 28, 28), 1024)


def searches_of(network: tuple[ModelOptions, tuple[int, ...], int], device: str) -> dict[str, Search]:
    """Give what is timed; the first and the last are what the others are compared with."""
    vae, images = fresh(*network)
    vae, images = vae.to(device), images.to(device)

    def pgd(compiled: bool) -> Search:
        return ours(vae, images, lambda steps: PGD(steps=steps, restarts=1, probes=1, compiled=compiled))

    return {"bare": bare(vae, images), "pgd": pgd(False), "compiled": pgd(True), "foolbox": foolbox(vae, images)}


def on_one_core(quick: bool) -> dict[str, Any]:
    """Time each network, and how long the first compiled search takes."""
    found = {}
    for size in ("small",) if quick else NETWORKS:
        searches = searches_of(NETWORKS[size], "cpu")
        start = time.perf_counter()
        searches["compiled"](SHORT)
        seconds = time.perf_counter() - start
        found[size] = {
            "seconds_to_compile": seconds,
            **times(searches, 3 if quick else (40 if size == "small" else 12)),
        }
    return found


def on_gpu(turns: int) -> dict[str, Any]:
    """Give the images per second and gradient of each search."""
    rates: dict[str, list[float]] = {}
    searches = searches_of(WIDE, "cuda")
    for turn in range(turns + 1):
        for name, search in searches.items():
            seconds = _seconds(search, LONG * 10) - _seconds(search, SHORT)
            if turn:
                rates.setdefault(name, []).append(WIDE[2] * (LONG * 10 - SHORT) / seconds)
    return {"device": torch.cuda.get_device_name(), **{name: median(found) for name, found in rates.items()}}


def _seconds(search: Search, steps: int) -> float:
    torch.cuda.synchronize()
    start = time.perf_counter()
    search(steps)
    torch.cuda.synchronize()
    return time.perf_counter() - start


def main() -> None:
    """Time, compare."""
    options = make_parser(__doc__ or "").parse_args()
    torch.set_num_threads(1)
    core = on_one_core(options.quick)
    small = core["small"]["compiled"]["ratio_to_foolbox"]
    targets = [
        Target(name="compiled step / foolbox's on a small network", wanted="<= 0.6", measured=small, met=small <= 0.6)
    ]
    large = [facts["compiled"]["ratio_to_bare"] for size, facts in core.items() if size != "small"]
    if large:
        targets.append(
            Target(name="compiled step / bare forward and backward of over 5 ms, most", wanted="<= 1.05",
                   measured=max(large), met=max(large) <= 1.05)
        )  # fmt: skip
    gpu: dict[str, Any] = {"skipped": "no GPU"}
    if torch.cuda.is_available():
        gpu = on_gpu(2 if options.quick else 10)
        gain = gpu["compiled"] / gpu["foolbox"]
        targets.append(Target(name="throughput / foolbox's on a GPU", wanted=">= 3", measured=gain, met=gain >= 3))
    for size, facts in core.items():
        shown = ", ".join(
            f"{name} {facts[name]['milliseconds']:.3f} ms ({facts[name]['ratio_to_bare']:.2f} x bare)"
            for name in ("bare", "pgd", "compiled", "foolbox")
        )
        print(f"{size}: {shown}; compiled in {facts['seconds_to_compile']:.0f} s")
    print(f"GPU: {gpu}")
    finish("attacks_compiled", options, targets, one_core=core, gpu=gpu)


if __name__ == "__main__":
    main()
