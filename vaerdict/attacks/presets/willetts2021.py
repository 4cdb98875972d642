"""Improving VAEs' Robustness to Adversarial Attack (Seatbelt-VAE): the latent attack, penalised or in a ball."""

from dataclasses import replace

from torch import Tensor

from vaerdict.attacks.objectives import TargetedLatent, WeightedSum
from vaerdict.attacks.optimisers.lbfgs import LBFGS
from vaerdict.attacks.presets.preset import Preset
from vaerdict.attacks.presets.terms import Shortness


def _soft(targets: Tensor | None, scale: float) -> WeightedSum:
    assert targets is not None
    return WeightedSum([(1.0, TargetedLatent(targets)), (1 / scale, Shortness())])


def _hard(targets: Tensor | None, scale: float) -> TargetedLatent:
    assert targets is not None
    return TargetedLatent(targets)


SOFT = Preset(
    name="willetts-2021",
    authors="Willetts, Camuto, Rainforth, Roberts and Holmes",
    venue="ICLR",
    year=2021,
    what="Least KL(q(.|x+delta) | q(.|x_t)) + |delta| in the box, by L-BFGS-B.",
    objective=_soft,
    optimiser=LBFGS(evaluations=1000, restarts=1, memory=25, factr=10.0, start=1e-8),
    corrections=(),
    differences=(
        "A search ends after about 1000 gradients.",
        "The stop by `factr` counts units of rounding in the images' type, so it comes earlier in single precision.",
    ),
    radius="box",
    targets="needed",
)
HARD = replace(
    SOFT,
    name="willetts-2021-hard",
    what="Least KL(q(.|x+delta) | q(.|x_t)) in an L2 ball, published for radii of 1, 3 and 5, by L-BFGS-B.",
    objective=_hard,
    corrections=(
        "The published code shortens the perturbation after the search and may leave the box; here ball and box both "
        "hold at the end.",
    ),
    radius="given",
)
