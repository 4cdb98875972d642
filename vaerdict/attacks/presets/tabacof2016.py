"""Adversarial Images for Variational Autoencoders: the first attack on VAEs."""

from torch import Tensor

from vaerdict.attacks.objectives import TargetedLatent
from vaerdict.attacks.optimisers.lbfgs import LBFGS
from vaerdict.attacks.presets.preset import Preset
from vaerdict.attacks.tradeoff.sweep import spaced_weights


def _latent(targets: Tensor | None, scale: float) -> TargetedLatent:
    assert targets is not None
    return TargetedLatent(targets)


TABACOF = Preset(
    name="tabacof-2016",
    authors="Tabacof, Tavares and Valle",
    venue="NIPS Workshop on Adversarial Training",
    year=2016,
    what="Least KL(q(.|x+delta) | q(.|x_t)) + C |delta|^2 in the box, by L-BFGS-B; C = 1, or swept over 100 values.",
    objective=_latent,
    optimiser=LBFGS(evaluations=1000, restarts=1, memory=25, factr=10.0, penalty=1.0, start=1e-8),
    corrections=(
        "The published divergence takes standard deviations for variances and lacks a factor of 1/2 on two terms; "
        "here it is the KL divergence.",
    ),
    differences=(
        "A search ends after about 1000 gradients, not 15000 steps.",
        "The stop by `factr` counts units of rounding in the images' type, so it comes earlier in single precision.",
    ),
    radius="box",
    targets="needed",
    weights=spaced_weights(100, zero=False),
)
