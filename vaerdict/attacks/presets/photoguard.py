"""Raising the Cost of Malicious AI-Powered Image Editing: the encoder attack."""

from torch import Tensor

from vaerdict.attacks.objectives import LatentNorm
from vaerdict.attacks.optimisers.sgd import SGD
from vaerdict.attacks.presets.preset import Preset


def _norm(targets: Tensor | None, scale: float) -> LatentNorm:
    return LatentNorm(targets)


PHOTOGUARD = Preset(
    name="photoguard",
    authors="Salman et al.",
    venue="ICML",
    year=2023,
    what="Least distance of the posterior mean from zero, or from a target's, by 1000 signed steps.",
    objective=_norm,
    optimiser=SGD(steps=1000, learning_rate=0.02, direction="steepest", schedule="linear", last=0.01),
    corrections=(
        "The radius 0.06 belongs to pixels in [-1, 1], though it is often read as one in [0, 1]; it is converted to "
        "the model's range.",
        "The published code searches in half precision, where small gradients vanish, and returns the last iterate; "
        "here the model's own precision is used and the best iterate counts.",
    ),
    norm="inf",
    radius=0.06,
    pixel_range=(-1.0, 1.0),
    targets="optional",
)
