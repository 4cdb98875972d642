"""Balls and perturbations of all norms, for the tests of the threat models."""

import torch
from hypothesis import strategies as st

from vaerdict.attacks.threat import COUNTS, Ball

NORMS = ["0", "0-values", "1", "2", "inf"]
boxes = st.sampled_from([(0.0, 1.0), (-1.0, 1.0), (-100.0, 100.0)])
seeds = st.integers(0, 10_000)
norms = st.sampled_from(NORMS)
dtypes = st.sampled_from([torch.float32, torch.float64])
masks = st.sampled_from(["none", "shared", "own", "nothing"])


@st.composite
def norms_and_radii(draw) -> tuple[str, float]:
    """Draw a norm and a radius of its kind: a number of places, or a distance."""
    norm = draw(norms)
    return norm, float(draw(st.integers(1, 20))) if norm in COUNTS else draw(st.floats(1e-3, 20.0))


def make_ball(
    seed: int,
    norm: str,
    radius: float,
    box: tuple[float, float] = (0.0, 1.0),
    dtype: torch.dtype = torch.float32,
    mask: str = "none",
) -> tuple[Ball, torch.Tensor]:
    """Give a ball around three images of 2 x 2 x 4 values, one of them in a corner of the box, and a perturbation."""
    generator = torch.Generator().manual_seed(seed)
    low, high = box
    center = low + (high - low) * torch.rand(3, 2, 2, 4, generator=generator, dtype=dtype)
    center[0] = high
    delta = torch.randn(3, 2, 2, 4, generator=generator, dtype=dtype) * radius
    chosen = torch.rand(1 if mask == "shared" else 3, 2, 2, 4, generator=generator) < (mask != "nothing") * 0.5
    return Ball(
        norm=norm,
        radius=torch.full((3,), radius, dtype=dtype),
        box=box,
        center=center,
        mask=None if mask == "none" else chosen,
    ), delta
