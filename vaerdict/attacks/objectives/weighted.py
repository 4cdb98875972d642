"""Several objectives at once."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from vaerdict.attacks.batch import Batch
from vaerdict.attacks.objectives.protocol import Loss, Objective
from vaerdict.attacks.question import Question
from vaerdict.options import require


@dataclass(frozen=True, eq=False)
class WeightedSum:
    """Maximise a weighted sum of objectives, all on the same draws; a negative weight minimises.

    Each term encodes by itself. Terms have units of their own (squared pixels, nats), which the weights should level.

    Args:
        terms: pairs of a weight and an objective.

    >>> from vaerdict.attacks.objectives import LatentDivergence, MaximumDamage
    >>> WeightedSum([(1.0, MaximumDamage()), (0.1, LatentDivergence())]).name
    'damage+divergence'
    """

    terms: Sequence[tuple[float, Objective]]

    def __post_init__(self) -> None:
        require(len(self.terms) > 0, "at least one of `terms`", "none")
        bad = [weight for weight, _ in self.terms if not (math.isfinite(weight) and weight)]
        require(not bad, "finite weights other than 0 in `terms`", bad)

    @property
    def departs(self) -> bool:
        """Whether all terms lead away from the clean image."""
        return all(weight > 0 and getattr(objective, "departs", False) for weight, objective in self.terms)

    @property
    def name(self) -> str:
        """The end of the method's name in the results."""
        return "+".join(("minus-" if weight < 0 else "") + objective.name for weight, objective in self.terms)

    def check(self, vae: Any, images: Tensor) -> None:
        """Refuse terms that do not fit the images."""
        for _, objective in self.terms:
            objective.check(vae, images)

    def part(self, chunk: slice) -> "WeightedSum":
        """Give the sum of the terms for a chunk of the images."""
        return WeightedSum([(weight, objective.part(chunk)) for weight, objective in self.terms])

    def describe(self, index: int) -> dict[str, Any]:
        """Give the objective's name, and each term with its weight."""
        terms = [{"weight": weight, **objective.describe(index)} for weight, objective in self.terms]
        return {"objective": self.name, "terms": terms}

    def draws(self, question: Question) -> int:
        """Give as many draws as the most demanding term needs."""
        return max(objective.draws(question) for _, objective in self.terms)

    def loss(self, batch: Batch) -> Loss:
        """Give the weighted sum of the terms' losses."""
        parts = [(weight, one.loss(batch), one.draws(batch.question)) for weight, one in self.terms]

        def total(images: Tensor, noise: Tensor) -> Tensor:
            weight, first, draws = parts[0]
            value = weight * first(images, noise[:, :draws])
            for weight, loss, draws in parts[1:]:
                value = value + weight * loss(images, noise[:, :draws])
            return value

        return total
