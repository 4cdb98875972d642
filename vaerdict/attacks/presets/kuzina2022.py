"""Alleviating Adversarial Attacks on Variational Autoencoders with MCMC."""

from dataclasses import replace

from torch import Tensor

from vaerdict.attacks.objectives import LatentDivergence, TargetedLatent
from vaerdict.attacks.optimisers.sgd import SGD
from vaerdict.attacks.presets.preset import Preset


def _targeted(targets: Tensor | None, scale: float) -> TargetedLatent:
    assert targets is not None
    return TargetedLatent(targets, "kl-symmetric")


def _untargeted(targets: Tensor | None, scale: float) -> LatentDivergence:
    return LatentDivergence("kl-symmetric")


_DESCENT = SGD(steps=50, restarts=10, learning_rate=1.0, direction="raw", schedule="plateau", patience=20)
_OTHER_RADIUS = "The paper also has the radius 0.2, which `radius` gives."

UNSUPERVISED = Preset(
    name="kuzina-2022-unsupervised",
    authors="Kuzina, Welling and Tomczak",
    venue="NeurIPS",
    year=2022,
    what="Largest symmetric KL from the clean posterior, by gradient steps halved on plateaus, from 10 random starts.",
    objective=_untargeted,
    optimiser=_DESCENT,
    corrections=(
        "The published L1 and L2 balls compare a norm with a mean, so that their budget is not the radius; a copy "
        "of the preset with another `norm` has the exact ball.",
        "The published box is the least and greatest pixel of each image; here it is the model's.",
    ),
    differences=(
        "Starts are uniform in the cube; the step's end below 1e-6 is not waited for.",
        _OTHER_RADIUS,
    ),
    norm="inf",
    radius=0.1,
)
SUPERVISED = replace(
    UNSUPERVISED,
    name="kuzina-2022-supervised",
    what="Least symmetric KL to the target's posterior, by gradient steps halved on plateaus, from zero.",
    objective=_targeted,
    optimiser=replace(_DESCENT, steps=500, restarts=1, start=0.0),
    differences=("The step's end below 1e-6 is not waited for.", _OTHER_RADIUS),
    targets="needed",
)
