"""What objectives on posteriors share: of a hierarchical model they look at several, level by level."""

import functools
import math
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from vaerdict.attacks.batch import Batch
from vaerdict.attacks.levels import check_levels, count_levels, top_down
from vaerdict.attacks.objectives import reconstruct
from vaerdict.attacks.objectives.base import Uniform
from vaerdict.attacks.objectives.protocol import Objective
from vaerdict.attacks.objectives.weighted import WeightedSum
from vaerdict.attacks.question import Question
from vaerdict.options import require
from vaerdict.vae import Posterior


@dataclass(frozen=True, kw_only=True, eq=False)
class Levelled(Uniform):
    """An objective on the posterior, or of a hierarchical model on that of each level, summed over levels.

    A level's posterior depends on the latents above. Those are drawn where the question draws, from the attacked image
    for the attacked posterior and from the other image for that one's, both with the same noise (common random
    numbers); else they are the means. The sum is therefore no divergence of the joint laws, but what the level below
    would see (Kuzina et al. 2021).

    Args:
        levels: which ones count, 0 the first to be drawn; by default all.
        level_weights: one per level that counts; by default all 1.
    """

    levels: tuple[int, ...] | None = None
    level_weights: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        levels, weights = self.levels, self.level_weights
        if levels is not None:
            fits = bool(levels) and min(levels) >= 0 and len(set(levels)) == len(levels)
            require(fits, "distinct `levels` >= 0", levels)
        if weights is not None:
            require(all(0 < weight < math.inf for weight in weights), "finite `level_weights` > 0", weights)
            require(levels is None or len(levels) == len(weights), "as many `level_weights` as `levels`", weights)

    def check(self, vae: Any, images: Tensor) -> None:
        """Refuse levels that the model does not have, and weights that are not one per level."""
        check_levels(vae, self.levels, self.level_weights)
        super().check(vae, images)

    def describe(self, index: int) -> dict[str, Any]:
        """Give the objective's name and, where there are any, its levels and their weights."""
        chosen = {"levels": self.levels, "level_weights": self.level_weights}
        return {**super().describe(index), **{name: list(value) for name, value in chosen.items() if value is not None}}

    def draws(self, question: Question) -> int:
        """Give one draw where the question draws and a level depends on others, else none: posteriors are compared."""
        return min(1, question.draws) if self.levels is not None and max(self.levels) > 0 else 0

    def named(self, name: str) -> str:
        """Give a name that tells the levels, where they were chosen."""
        return name if self.levels is None else f"{name}-{_spelled(self.levels)}"

    def seen(self, batch: Batch, images: Float[Tensor, "batch ..."], noise: Tensor) -> list[Posterior]:
        """Give the posteriors that count, of any images.

        Raises:
            ValueError: a hierarchical model whose levels are not spelled out, so that its noise was never asked for.
        """
        given, view = batch.vae.encode(images), top_down(batch.vae)
        if view is None:
            return [given.drawn]
        levels = self.levels or (0,)
        require(self.levels is not None or len(view.levels) == 1, "`levels` of a hierarchical model", self.levels)
        drawn = reconstruct.latent_of(batch, given, noise) if self.draws(batch.question) else given.mean
        posteriors, _ = view.descend(drawn, max(levels) + 1)
        return [posteriors[level] for level in levels]

    def still(self, batch: Batch, images: Float[Tensor, "batch ..."]) -> Callable[[Tensor], list[Posterior]]:
        """Give what is seen of images that do not move, on any noise; encoded only once where none is drawn."""

        def look(noise: Tensor) -> list[Posterior]:
            with torch.no_grad():
                return self.seen(batch, images, noise)

        if self.draws(batch.question):
            return look
        known = images is batch.images and top_down(batch.vae) is None
        once = [batch.posterior.drawn] if known else look(images.new_empty(len(images), 0, batch.vae.latent))
        return lambda noise: once

    def total(self, terms: Sequence[Float[Tensor, " batch"]]) -> Float[Tensor, " batch"]:
        """Give the weighted sum of the levels' terms."""
        if self.level_weights is not None:
            terms = [weight * term for weight, term in zip(self.level_weights, terms, strict=True)]
        return functools.reduce(operator.add, terms)


def fitted(objective: Objective, vae: Any) -> Objective:
    """Give the objective for this model: where levels were left to choose, all of a hierarchical model's.

    >>> from vaerdict.attacks.objectives import LatentDivergence
    >>> fitted(LatentDivergence(), torch.nn.Identity())
    LatentDivergence(levels=None, level_weights=None, divergence='kl')
    """
    if isinstance(objective, WeightedSum):
        return replace(objective, terms=[(weight, fitted(term, vae)) for weight, term in objective.terms])
    count = count_levels(vae)
    if isinstance(objective, Levelled) and objective.levels is None and count > 1:
        return replace(objective, levels=tuple(range(count)))
    return objective


def _spelled(levels: tuple[int, ...]) -> str:
    """Spell levels in few letters: `level0`, `levels0to3` or `levels0and3`."""
    if len(levels) == 1:
        return f"level{levels[0]}"
    first, last = levels[0], levels[-1]
    return "levels" + (f"{first}to{last}" if levels == (*range(first, last + 1),) else "and".join(map(str, levels)))
