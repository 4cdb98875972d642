"""Towards a Theoretical Understanding of the Robustness of VAEs: the attack of largest damage, and the margin R^r."""

from torch import Tensor

from vaerdict.attacks.objectives import MaximumDamage
from vaerdict.attacks.optimisers.lbfgs import LBFGS
from vaerdict.attacks.presets.preset import Preset


def _damage(targets: Tensor | None, scale: float) -> MaximumDamage:
    return MaximumDamage()


CAMUTO = Preset(
    name="camuto-2021",
    authors="Camuto, Willetts, Roberts, Holmes and Rainforth",
    venue="AISTATS",
    year=2021,
    what="Largest distance of two sampled reconstructions in an L2 ball, by L-BFGS-B from 5 starts; and by it the "
    "margin R^r, up to a radius of 10 (also Barrett et al., AISTATS 2022).",
    objective=_damage,
    optimiser=LBFGS(evaluations=200, restarts=5, memory=100, factr=10.0, pgtol=1e-20, samples=8),
    corrections=(
        "A line search cannot work on a loss that changes at each look: the noise of a climb is drawn once, 8 draws.",
        "The square of the distance is maximised, since the distance has no gradient at zero.",
        "The published rescaling onto the sphere comes last and may leave the box; here both hold at the end.",
        "R^r is found by bisection in place of a downward scan by steps of 0.5, and success is decided by an exact "
        "interval on fresh draws instead of 40 pairs seen once.",
    ),
    differences=(
        "Starts lie on the sphere, not at random depths, and a search ends after about 200 gradients, each of 8 draws.",
        "The stop by `factr` counts units of rounding in the images' type, so it comes earlier in single precision.",
    ),
    power=2,
    reach=10.0,
)
