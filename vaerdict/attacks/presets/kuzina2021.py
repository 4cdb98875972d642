"""Diagnosing Vulnerability of Variational Auto-Encoders to Adversarial Attacks."""

from torch import Tensor

from vaerdict.attacks.objectives import LatentDivergence, TargetedLatent, WeightedSum
from vaerdict.attacks.optimisers.adam import Adam
from vaerdict.attacks.optimisers.singular import Singular
from vaerdict.attacks.presets.preset import Preset
from vaerdict.attacks.presets.terms import Shortness


def _targeted(targets: Tensor | None, scale: float) -> WeightedSum:
    assert targets is not None
    return WeightedSum([(1.0, TargetedLatent(targets, "kl-symmetric")), (1 / scale, Shortness())])


def _untargeted(targets: Tensor | None, scale: float) -> LatentDivergence:
    return LatentDivergence("l2")


SUPERVISED = Preset(
    name="kuzina-2021-supervised",
    authors="Kuzina, Welling and Tomczak",
    venue="ICLR Workshop RobustML",
    year=2021,
    what="Least symmetric KL to the target's posterior + |delta| in the box, by Adam from zero.",
    objective=_targeted,
    optimiser=Adam(steps=1000, restarts=1, learning_rate=0.1, start=0.0),
    corrections=("The published perturbation is not kept in the box, only images shown are; here every step is.",),
    differences=(
        "The step stays as it is, and the best iterate counts, instead of a step halved on plateaus.",
        "The settings for NVAE, with another optimiser and a perceptual term, are not reproduced; of a hierarchical "
        "model all levels count.",
    ),
    radius="box",
    targets="needed",
)
UNSUPERVISED = Preset(
    name="kuzina-2021-unsupervised",
    authors="Kuzina, Welling and Tomczak",
    venue="ICLR Workshop RobustML",
    year=2021,
    what="One step of length 0.9 along the direction in which the encoder's mean moves most, to first order.",
    objective=_untargeted,
    optimiser=Singular(iterations=10, restarts=1, of="encoder"),
    corrections=(
        "The published image is stretched to [0, 1] after the step, which changes every pixel; here it is clipped.",
        "The direction comes from power iteration, 10 products with the Jacobian and its transpose, in place of 300 "
        "gradient steps on a Jacobian made row by row; of its two signs the more harmful one is taken.",
    ),
    differences=("A single step, not 3 chains of two.",),
    radius=0.9,
)
