"""Attacks: objective x optimiser x threat model, an independent witness that margins are bounded from above."""

from vaerdict.attacks.bridge import FoolboxAttack
from vaerdict.attacks.judge.evaluate import Evaluation
from vaerdict.attacks.judge.indicators import diagnose, table_not_monotone
from vaerdict.attacks.levels import TopDown
from vaerdict.attacks.margins.bisection import MarginSearch
from vaerdict.attacks.margins.least import Bisection
from vaerdict.attacks.margins.minimum import DDN, FMN
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
from vaerdict.attacks.optimality import table_optimality
from vaerdict.attacks.optimisers.adam import Adam
from vaerdict.attacks.optimisers.apgd import APGD
from vaerdict.attacks.optimisers.common import Optimiser
from vaerdict.attacks.optimisers.lbfgs import LBFGS
from vaerdict.attacks.optimisers.noise import Noise
from vaerdict.attacks.optimisers.pgd import PGD
from vaerdict.attacks.optimisers.random_search import RandomSearch
from vaerdict.attacks.optimisers.sgd import SGD
from vaerdict.attacks.optimisers.singular import Singular
from vaerdict.attacks.optimisers.transfer import Transfer
from vaerdict.attacks.presets import Preset, find_preset, presets
from vaerdict.attacks.run import attack, attack_margin
from vaerdict.attacks.suite import Member, Suite, standard
from vaerdict.attacks.threat import Ball
from vaerdict.attacks.tradeoff.curve import Tradeoff
from vaerdict.attacks.tradeoff.sweep import spaced_weights, sweep_penalty

__all__ = [
    "APGD",
    "DDN",
    "FMN",
    "LBFGS",
    "PGD",
    "SGD",
    "Adam",
    "Ball",
    "Bisection",
    "Custom",
    "Downstream",
    "Evaluation",
    "Evidence",
    "FoolboxAttack",
    "LatentDivergence",
    "LatentNorm",
    "Layerwise",
    "MarginSearch",
    "MaximumDamage",
    "Member",
    "Noise",
    "Objective",
    "Optimiser",
    "PosteriorCollapse",
    "Preset",
    "RandomSearch",
    "ReconstructionTarget",
    "Singular",
    "Suite",
    "TargetedLatent",
    "TopDown",
    "Tradeoff",
    "Transfer",
    "WeightedSum",
    "attack",
    "attack_margin",
    "diagnose",
    "find_preset",
    "presets",
    "spaced_weights",
    "standard",
    "sweep_penalty",
    "table_not_monotone",
    "table_optimality",
]
