"""A Grey-box Attack against Latent Diffusion Model-based Image Editing by Posterior Collapse: PCA- and PCA+."""

from dataclasses import replace

from torch import Tensor

from vaerdict.attacks.objectives import PosteriorCollapse
from vaerdict.attacks.optimisers.sgd import SGD
from vaerdict.attacks.presets.preset import Preset


def _minus(targets: Tensor | None, scale: float) -> PosteriorCollapse:
    return PosteriorCollapse(variance=1e-8, direction=-1)


def _plus(targets: Tensor | None, scale: float) -> PosteriorCollapse:
    return PosteriorCollapse(variance=1.0, direction=1)


MINUS = Preset(
    name="pca-minus",
    authors="Guo et al.",
    venue="arXiv:2408.10901",
    year=2024,
    what="Least KL from N(0, 1e-8), which collapses the posterior, by 40 signed steps from zero.",
    objective=_minus,
    optimiser=SGD(steps=40, learning_rate=2 / 255, direction="steepest", schedule="constant", start=0.0),
    corrections=(
        "The published images are saved as JPEG, so that those evaluated are not those found; here the judge sees the "
        "very pixels, which ball and box hold.",
    ),
    differences=("The best iterate counts, not the last.",),
    norm="inf",
    radius=16 / 255,
)
PLUS = replace(
    MINUS,
    name="pca-plus",
    what="Largest KL from N(0, 1), which drives the posterior away from the prior, by 40 signed steps from zero.",
    objective=_plus,
)
