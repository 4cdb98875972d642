"""What a margin search hands on: candidates per sample, the most promising first."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

KEPT = 4
"""Candidates per sample that a trail keeps: the best was often lucky, and not all can be made larger by rescaling."""


@dataclass(frozen=True, kw_only=True)
class Trail:
    """What the search tried: the smallest perturbation that seemed to succeed, and every radius with its outcome."""

    delta: Float[Tensor, "batch ..."]
    found: Bool[Tensor, " batch"]
    fragile: Bool[Tensor, " batch"]
    """Samples whose clean reconstruction already seems to move by more than `r` too often: their margin is zero."""
    sane: Bool[Tensor, " batch"]
    radii: Float[Tensor, "levels batch"]
    success: Bool[Tensor, "levels batch"]
    spares: tuple[Float[Tensor, "batch ..."], ...] = ()
    """What to try where `delta` fails the judge, the most promising first; zero where a sample has none."""

    def largest_failure(self, margin: Float[Tensor, " batch"]) -> Float[Tensor, " batch"]:
        """Give the largest radius below `margin` that was tried without success, else zero."""
        failed = ~self.success & (self.radii < margin)
        return torch.where(failed, self.radii, 0).amax(0)


def in_order(
    candidates: Sequence[Float[Tensor, "batch ..."]], order: Int[Tensor, "candidates batch"]
) -> tuple[Float[Tensor, "batch ..."], ...]:
    """Rank candidates sample by sample; `order` holds each sample's places, the best first.

    >>> in_order([torch.zeros(1, 2), torch.ones(1, 2)], torch.tensor([[1], [0]]))[0]
    tensor([[1., 1.]])
    """
    stack = torch.stack(list(candidates))
    return stack.take_along_dim(order.reshape(*order.shape, *[1] * (stack.dim() - 2)), 0).unbind()
