"""What an attack maximises, per sample: small frozen objects that turn a batch into a differentiable loss."""

from vaerdict.attacks.objectives.custom import Custom
from vaerdict.attacks.objectives.damage import MaximumDamage, ReconstructionTarget
from vaerdict.attacks.objectives.divergences import divergence_kl
from vaerdict.attacks.objectives.downstream import Downstream
from vaerdict.attacks.objectives.latent import LatentDivergence, LatentNorm, TargetedLatent
from vaerdict.attacks.objectives.layerwise import Layerwise
from vaerdict.attacks.objectives.levelled import fitted
from vaerdict.attacks.objectives.prior import Evidence, PosteriorCollapse
from vaerdict.attacks.objectives.protocol import Loss, Objective
from vaerdict.attacks.objectives.weighted import WeightedSum

__all__ = [
    "Custom",
    "Downstream",
    "Evidence",
    "LatentDivergence",
    "LatentNorm",
    "Layerwise",
    "Loss",
    "MaximumDamage",
    "Objective",
    "PosteriorCollapse",
    "ReconstructionTarget",
    "TargetedLatent",
    "WeightedSum",
    "divergence_kl",
    "fitted",
]
