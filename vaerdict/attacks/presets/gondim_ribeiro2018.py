"""Adversarial Attacks on Variational Autoencoders: latent and output attacks by Adam, and the AUDDC."""

from dataclasses import replace

from torch import Tensor

from vaerdict.attacks.objectives import ReconstructionTarget, TargetedLatent
from vaerdict.attacks.optimisers.adam import Adam
from vaerdict.attacks.presets.preset import Preset
from vaerdict.attacks.tradeoff.sweep import spaced_weights


def _latent(targets: Tensor | None, scale: float) -> TargetedLatent:
    assert targets is not None
    return TargetedLatent(targets)


def _output(targets: Tensor | None, scale: float) -> ReconstructionTarget:
    assert targets is not None
    return ReconstructionTarget(targets)


LATENT = Preset(
    name="gondim-ribeiro-2018-latent",
    authors="Gondim-Ribeiro, Tabacof and Valle",
    venue="arXiv:1806.04646",
    year=2018,
    what="Least KL(q(.|x+delta) | q(.|x_t)) + C |delta|^2 in the box, by Adam; C = 1, or swept over 0 and 50 values.",
    objective=_latent,
    optimiser=Adam(steps=3000, restarts=1, learning_rate=1e-3, penalty=1.0, start=1e-8),
    corrections=(
        "The published code clips the gradient of all images together, to a norm of 3, and then each entry; images are "
        "independent here and nothing is clipped, which Adam does not need.",
        "Pixels beyond the box are brought back after each step; clamped inside the loss, as published, they are seen "
        "by the penalty alone.",
    ),
    radius="box",
    reconstruction="mean",
    targets="needed",
    weights=spaced_weights(50),
)
OUTPUT = replace(
    LATENT,
    name="gondim-ribeiro-2018-output",
    what="Least |g(mu(x+delta)) - x_t|^2 + C |delta|^2 in the box, by Adam; C = 1, or swept over 0 and 50 values.",
    objective=_output,
    power=2,
)
