"""Speed and memory of the certificates without Monte Carlo, for `certify.py`."""

import multiprocessing
import os
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch
from certify_models import Place, slices
from torch import Tensor

from vaerdict.certify import ModelBounds, certify
from vaerdict.models import GaussianVAE
from vaerdict.options import CertifyOptions

CLOSED = ("barrett", "isotropic", "reflection")
WITHOUT_DRAWS = (*CLOSED, "coordinate")
"""All that applies to a Lipschitz VAE without Monte Carlo, bound propagation left out."""
STEP = 1000
SETTLED = 2
"""After how many steps the memory is taken as the one that it must stay at."""


def closed_form_speed(vae: GaussianVAE, images: Tensor, r: float) -> dict[str, Any]:
    """Time the closed forms on this thread, and say where the time goes.

    The images are certified twice. The first time counts all: the model's constants, and bounds on its rounding, one
    for each range of norms that occurs. The second time, with these at hand, is what further images cost. Nothing that
    was computed for an image is kept.
    """
    options = CertifyOptions(methods=CLOSED, local=False)
    count = len(images)
    with torch.no_grad():
        start = time.perf_counter()
        known = ModelBounds(vae, images[:1], options)
        certify(vae, images, r=r, options=options, known=known)
        first = time.perf_counter() - start
        start, cpu = time.perf_counter(), time.process_time()
        rows = certify(vae, images, r=r, options=options, known=known)
        seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu
        start = time.perf_counter()
        for part in images.split(128):
            vae.decode(vae.encode(part).mean)
        forward = time.perf_counter() - start
    by_method = {name: sum(row.time_s for row in rows if row.method == name) for name in CLOSED}
    inside = sum(by_method.values())
    return {
        "images": count,
        "images_per_second": count / seconds,
        "images_per_second_with_bounds_of_the_model": count / first,
        "images_per_cpu_second": count / cpu_seconds,
        "images_per_second_methods_alone": count / inside,
        "share_of_time": {
            "methods": inside / seconds,
            "encoder and decoder": forward / seconds,
            "rows, hashes and the rest": 1 - (inside + forward) / seconds,
        },
        "milliseconds_per_image": {name: 1e3 * value / count for name, value in by_method.items()},
        "positive": sum(row.margin is not None and row.margin > 0 for row in rows) / len(rows),
    }


def resident_mebibytes() -> float:
    """Give this process's resident memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def certify_part(place: Place, name: str, r: float, part: slice, step: int) -> dict[str, Any]:
    """Certify some images in this process by all that needs no draws; sample the memory after each step."""
    torch.set_num_threads(1)
    vae, images, options = place.load(name), place.images[part], CertifyOptions(methods=WITHOUT_DRAWS)
    known = ModelBounds(vae, images[:1], options)
    memory, positive = [], 0
    for chosen in slices(len(images), step):
        best: dict[int, float] = {}
        for row in certify(vae, images[chosen], r=r, options=options, known=known):
            best[row.sample_id] = max(best.get(row.sample_id, 0.0), row.margin or 0.0)
        positive += sum(value > 0 for value in best.values())
        memory.append(resident_mebibytes())
    return {"positive": positive, "mebibytes": memory, "cpu_seconds": time.process_time()}


def whole_portfolio(place: Place, name: str, r: float, count: int, step: int = STEP) -> dict[str, Any]:
    """Certify the images in two processes; the time is everything, their start included."""
    half = count // 2
    start = time.perf_counter()
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        halves = [
            pool.submit(certify_part, place, name, r, part, step) for part in (slice(0, half), slice(half, count))
        ]
        parts = [one.result() for one in halves]
    seconds = time.perf_counter() - start
    memory = [one["mebibytes"] for one in parts]
    settled = min(SETTLED, len(memory[0])) - 1
    return {
        "model": name,
        "methods": list(WITHOUT_DRAWS),
        "images": count,
        "seconds": seconds,
        "images_per_second": count / seconds,
        "cpu_seconds": [one["cpu_seconds"] for one in parts],
        "positive": sum(one["positive"] for one in parts) / count,
        "mebibytes_after_each_step": memory,
        "step": step,
        "growth_mebibytes": max(max(own[settled:]) - own[settled] for own in memory),
    }
