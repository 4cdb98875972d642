"""Speed of the closed forms on one core, and peak memory against the number of images."""

import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from common import Target, finish, make_parser

from vaerdict.certify.closed_form import barrett_margins, isotropic_margins
from vaerdict.data import Images
from vaerdict.models import build_vae
from vaerdict.options import CertifyOptions, ModelOptions
from vaerdict.sweeps import Subject, certificate_units, run_units

NUMBERS = {"a": 5.0, "b": 5.0, "c": 0.1, "r": 8.0, "p": 0.5}
SIDE = 28


def closed_form_seconds(images: int) -> float:
    """Time both closed forms for images whose standard deviations all differ."""
    std = 0.05 + 0.1 * torch.rand(images, dtype=torch.float64)
    start = time.perf_counter()
    barrett_margins(std.unsqueeze(1).expand(-1, 10).contiguous(), **NUMBERS)
    isotropic_margins(std, latent=10, **NUMBERS)
    return time.perf_counter() - start


def certify_and_measure(images: int) -> None:
    """Certify random images by all methods into a temporary folder; print the peak memory in MiB."""
    vae = build_vae(ModelOptions(), name="memory", input_shape=(1, SIDE, SIDE), constrained=False).eval()
    pixels = torch.rand(images, 1, SIDE, SIDE)
    data = Images(
        pixels=pixels, labels=None, name="random", sha256="", input_range=(0.0, 1.0), sample_ids=range(images)
    )
    subject = Subject(vae=vae, images=data, r=4.0, r_relative=None, p=0.5, seed=0, device="cpu")
    with tempfile.TemporaryDirectory() as folder:
        run_units(Path(folder), certificate_units(subject, CertifyOptions(samples=50)), "certify")
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def peak_mebibytes(images: int) -> float:
    """Run `certify_and_measure` in a process of its own."""
    command = [sys.executable, __file__, "--measure", str(images)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    """Measure and compare with the targets."""
    if sys.argv[1:2] == ["--measure"]:
        certify_and_measure(int(sys.argv[2]))
        return
    options = make_parser(__doc__ or "").parse_args()
    torch.set_num_threads(1)
    closed_form_seconds(10)
    seconds = closed_form_seconds(1000)
    few, many = (200, 600) if options.quick else (500, 4000)
    memory = {count: peak_mebibytes(count) for count in (few, many)}
    own = (many - few) * SIDE * SIDE * 4 / 2**20  # the images themselves
    growth = memory[many] - memory[few] - own
    targets = [
        Target(
            name="closed forms of 1,000 images, seconds on one core", wanted="< 2", measured=seconds, met=seconds < 2
        ),
        Target(
            name=f"growth of peak memory from {few} to {many} images beyond the images themselves, MiB",
            wanted="< 30",
            measured=growth,
            met=growth < 30,
        ),
    ]
    finish("speed", options, targets, peak_mebibytes=memory)


if __name__ == "__main__":
    main()
