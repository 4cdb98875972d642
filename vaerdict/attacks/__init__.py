"""Attacks: objective x optimiser x threat model, an independent witness that margins are bounded from above."""

from vaerdict.attacks.evaluate import Evaluation
from vaerdict.attacks.margin import MarginSearch
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
from vaerdict.attacks.pgd import PGD
from vaerdict.attacks.run import attack, attack_margin
from vaerdict.attacks.threat import Ball

__all__ = [
    "PGD",
    "Ball",
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
    "PosteriorCollapse",
    "ReconstructionTarget",
    "TargetedLatent",
    "WeightedSum",
    "attack",
    "attack_margin",
]
