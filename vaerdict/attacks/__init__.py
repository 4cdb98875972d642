"""Attacks: objective x optimiser x threat model, an independent witness that margins are bounded from above."""

from vaerdict.attacks.adam import Adam
from vaerdict.attacks.apgd import APGD
from vaerdict.attacks.evaluate import Evaluation
from vaerdict.attacks.lbfgs import LBFGS
from vaerdict.attacks.least import Bisection
from vaerdict.attacks.margin import MarginSearch
from vaerdict.attacks.minimum import DDN, FMN
from vaerdict.attacks.objectives import (
    Custom,
    Downstream,
    Evidence,
    LatentDivergence,
    LatentNorm,
    Layerwise,
    MaximumDamage,
    Objective,
    PosteriorCollapse,
    ReconstructionTarget,
    TargetedLatent,
    WeightedSum,
)
from vaerdict.attacks.optimiser import Optimiser
from vaerdict.attacks.pgd import PGD
from vaerdict.attacks.run import attack, attack_margin
from vaerdict.attacks.singular import Singular
from vaerdict.attacks.threat import Ball

__all__ = [
    "APGD",
    "DDN",
    "FMN",
    "LBFGS",
    "PGD",
    "Adam",
    "Ball",
    "Bisection",
    "Custom",
    "Downstream",
    "Evaluation",
    "Evidence",
    "LatentDivergence",
    "LatentNorm",
    "Layerwise",
    "MarginSearch",
    "MaximumDamage",
    "Objective",
    "Optimiser",
    "PosteriorCollapse",
    "ReconstructionTarget",
    "Singular",
    "TargetedLatent",
    "WeightedSum",
    "attack",
    "attack_margin",
]
