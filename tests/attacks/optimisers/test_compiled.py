"""Compiled steps find what the others find at the same cost, and what cannot be compiled is refused."""

import shutil
import subprocess
import sys

import pytest
import torch

SAME = """
import torch
from vaerdict.attacks import PGD, MarginSearch, attack, attack_margin
from vaerdict.models import build_vae
from vaerdict.options import ModelOptions

torch.manual_seed(0)
options = ModelOptions(family="plain", hidden=(8,), latent=2, spread="log_variance")
vae = build_vae(options, name="toy", input_shape=(1, 4, 4)).eval().to("DEVICE")
images = torch.rand(5, 1, 4, 4).to("DEVICE")

def found(compiled):
    search = PGD(steps=6, restarts=2, batch_size=3, compiled=compiled)
    least = MarginSearch(start=search, levels=3, steps=4, batch_size=5)
    yield from attack(vae, images, radius=0.4, r=0.1, options=search)
    yield from attack_margin(vae, images, r=0.05, reconstruction="mean", options=least)

for one, other in zip(found(False), found(True), strict=True):
    assert abs(one.damage - other.damage) <= 1e-4 * one.damage
    assert abs(one.margin - other.margin) <= 1e-3 * one.margin
    assert (one.n_forward, one.n_backward) == (other.n_forward, other.n_backward)
"""

REFUSED = """
import torch
from vaerdict.attacks import PGD, attack
from vaerdict.vae import Posterior

class Asking(torch.nn.Module):
    name, input_shape, input_range, latent = "asking", (4,), (-1.0, 1.0), 4
    def encode(self, images):
        return Posterior(images * (2 if float(images.sum()) > 0 else 1), torch.full_like(images, 0.1))
    def decode(self, latents):
        return latents

try:
    attack(Asking(), torch.zeros(2, 4), radius=0.5, r=0.4, options=PGD(steps=3, restarts=1, compiled=True))
except ValueError as error:
    assert str(error).startswith("expected what torch.compile can compile, or `compiled=False`, got: "), error
else:
    raise AssertionError("nothing was refused")
"""


def run_apart(program: str) -> None:
    """Run a program where no argument's type is checked at each call: such checks cannot be compiled."""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs g++ on the CPU")
def test_compiled_steps_find_the_same_at_the_same_cost() -> None:
    run_apart(SAME.replace("DEVICE", "cpu"))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_compiled_steps_find_the_same_on_a_gpu() -> None:
    run_apart(SAME.replace("DEVICE", "cuda"))


def test_a_model_that_cannot_be_compiled_is_refused() -> None:
    run_apart(REFUSED)
