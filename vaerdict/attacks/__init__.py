"""Attacks: objective x optimiser x threat model, an independent witness that margins are bounded from above."""

from vaerdict.attacks.evaluate import Evaluation
from vaerdict.attacks.margin import MarginSearch
from vaerdict.attacks.objectives import MaximumDamage, Objective, TargetedLatent
from vaerdict.attacks.pgd import PGD
from vaerdict.attacks.run import attack, attack_margin
from vaerdict.attacks.threat import Ball

__all__ = [
    "PGD",
    "Ball",
    "Evaluation",
    "MarginSearch",
    "MaximumDamage",
    "Objective",
    "TargetedLatent",
    "attack",
    "attack_margin",
]
