"""Objectives that presets add: the length of the perturbation as a penalty, and any objective with its citation."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from vaerdict.attacks.batch import Batch
from vaerdict.attacks.objectives import Loss, Objective
from vaerdict.attacks.objectives.base import Uniform
from vaerdict.attacks.question import Question


@dataclass(frozen=True)
class Shortness(Uniform):
    """Keep the perturbation short: minimise `|delta|_2`, not its square; a term of a `WeightedSum`.

    >>> Shortness().name
    'shortness'
    """

    @property
    def name(self) -> str:
        """The end of the method's name in the results."""
        return "shortness"

    def loss(self, batch: Batch) -> Loss:
        """Give minus the length, in pixel units."""
        # Torch's norm has the gradient zero at zero; the root of a sum of squares would give NaN.
        return lambda images, noise: -torch.linalg.vector_norm((images - batch.images).flatten(1), dim=1)


@dataclass(frozen=True, eq=False)
class Cited:
    """An objective that goes by its preset's name in the results, and says where it comes from.

    Args:
        objective: what is maximised.
        name: the preset's.
        facts: what the rows' constants say of the preset.

    >>> Cited(Shortness(), "someone-2020", {"radius": 0.1}).describe(0)
    {'objective': 'shortness', 'preset': {'name': 'someone-2020', 'radius': 0.1}}
    """

    objective: Objective
    name: str
    facts: Mapping[str, Any]

    @property
    def departs(self) -> bool:
        """Whether the objective leads away from the clean image."""
        return getattr(self.objective, "departs", False)

    def check(self, vae: Any, images: Tensor) -> None:
        """Refuse what the objective refuses."""
        self.objective.check(vae, images)

    def part(self, chunk: slice) -> "Cited":
        """Give the objective of a chunk of the images, with the same citation."""
        return replace(self, objective=self.objective.part(chunk))

    def describe(self, index: int) -> dict[str, Any]:
        """Give what the objective says of itself, and the preset's facts."""
        return {**self.objective.describe(index), "preset": {"name": self.name, **self.facts}}

    def draws(self, question: Question) -> int:
        """Give as many draws as the objective needs."""
        return self.objective.draws(question)

    def loss(self, batch: Batch) -> Loss:
        """Give the objective's loss."""
        return self.objective.loss(batch)
