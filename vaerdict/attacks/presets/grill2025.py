"""GRILL: Restoring Gradient Signal in Ill-Conditioned Layers for Attacks on Autoencoders."""

from torch import Tensor

from vaerdict.attacks.objectives import Layerwise, WeightedSum
from vaerdict.attacks.optimisers.adam import Adam
from vaerdict.attacks.presets.preset import Preset

LARGE = 1e6
"""A factor of the loss, whose gradients would otherwise be as small as what keeps Adam's divisor positive."""


def _layers(targets: Tensor | None, scale: float) -> WeightedSum:
    return WeightedSum([(LARGE, Layerwise())])


GRILL = Preset(
    name="grill",
    authors="Krishnamurthy Ramanaik et al.",
    venue="arXiv:2505.03646",
    year=2025,
    what="Largest product of the layers' changes, weighted by their conditioning, and the output's, by Adam.",
    objective=_layers,
    optimiser=Adam(steps=300, restarts=3, learning_rate=1e-3),
    corrections=(
        "The published image is stretched by the extremes of its whole batch, which changes every pixel beyond the "
        "stated radius; here each image is brought into ball and box.",
        "A start at zero gives 0 times infinity in the published code, and a loss without slope; starts are random.",
        "Fresh noise on both branches makes the published loss positive without an attack; here both are means.",
    ),
    differences=(
        "One perturbation per image, not one for all, from the best of 3 starts, since a single one may end in a poor "
        "maximum; steps are pixels' (300 of 0.001, not 1e-4 on a direction).",
        "The loss is multiplied by 1e6, since its gradients are as small as what keeps Adam's divisor positive.",
        "The variant for NVAE, with latent groups in place of the output, is not reproduced.",
    ),
    norm="inf",
    radius=0.05,
    reconstruction="mean",
)
