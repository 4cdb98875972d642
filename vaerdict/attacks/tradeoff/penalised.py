"""An objective with the price of the perturbation, as the penalised attacks on VAEs have it."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from vaerdict.attacks.batch import Batch
from vaerdict.attacks.objectives import Loss, Objective
from vaerdict.attacks.objectives.base import Uniform
from vaerdict.attacks.question import Question
from vaerdict.options import require


@dataclass(frozen=True, eq=False)
class Penalised(Uniform):
    """An objective less `C |delta|_2^2`, with one weight `C` per image; so any optimiser can work on many at once.

    Args:
        objective: of the same images.
        weights: `[B]`, in the objective's units per squared pixel unit.

    >>> from vaerdict.attacks.objectives import MaximumDamage
    >>> Penalised(MaximumDamage(), torch.ones(1)).name
    'damage-penalised'
    """

    departs: ClassVar[bool] = False
    """Whatever the objective does: with a price, the best perturbation need not be as large as allowed."""

    objective: Objective
    weights: Float[Tensor, " batch"]

    @property
    def name(self) -> str:
        """The end of the method's name in the results."""
        return f"{self.objective.name}-penalised"

    def check(self, vae: Any, images: Tensor) -> None:
        """Refuse weights that are not one per image, not finite or negative, and what the objective refuses."""
        shape = tuple(self.weights.shape)
        require(shape == (len(images),), f"`weights` of shape ({len(images)},)", shape)
        bad = self.weights[~(self.weights.isfinite() & (self.weights >= 0))].tolist()
        require(not bad, "finite `weights` >= 0", bad)
        self.objective.check(vae, images)

    def part(self, chunk: slice) -> "Penalised":
        """Give the objective and the weights of a chunk of the images."""
        return Penalised(self.objective.part(chunk), self.weights[chunk])

    def describe(self, index: int) -> dict[str, Any]:
        """Give what the objective says, and the weight."""
        return {**self.objective.describe(index), "penalty": float(self.weights[index])}

    def draws(self, question: Question) -> int:
        """Give as many draws as the objective needs."""
        return self.objective.draws(question)

    def loss(self, batch: Batch) -> Loss:
        """Give the objective's loss less the penalty."""
        loss, weights = self.objective.loss(batch), self.weights.to(batch.images)
        return lambda images, noise: loss(images, noise) - weights * (images - batch.images).flatten(1).square().sum(1)


def with_price(objective: Objective, weight: float, images: Float[Tensor, "batch ..."]) -> Objective:
    """Give the objective less `weight |delta|_2^2` on all images; the objective itself where the weight is zero.

    >>> from vaerdict.attacks.objectives import MaximumDamage
    >>> with_price(MaximumDamage(), 2.0, torch.zeros(3, 4)).weights.tolist()
    [2.0, 2.0, 2.0]
    """
    if not weight:
        return objective
    # Of this type whatever the images' is, at which nobody has looked yet.
    return Penalised(objective, torch.full((len(images),), weight, dtype=torch.float64, device=images.device))
