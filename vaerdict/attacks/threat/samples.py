"""What is done to each sample by itself: its own factor, its own choice, its own ranking."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor


def spread(values: Shaped[Tensor, " batch"], like: Float[Tensor, "batch ..."]) -> Shaped[Tensor, "batch ..."]:
    """Give one value per sample the shape in which it meets each of the sample's.

    >>> spread(torch.ones(2), torch.zeros(2, 1, 8, 8)).shape
    torch.Size([2, 1, 1, 1])
    """
    return values.reshape(-1, *[1] * (like.dim() - 1))


def scaled(delta: Float[Tensor, "batch ..."], factor: Float[Tensor, " batch"]) -> Float[Tensor, "batch ..."]:
    """Multiply each perturbation by its own factor.

    >>> scaled(torch.ones(2, 1), torch.tensor([2.0, 3.0])).flatten()
    tensor([2., 3.])
    """
    return delta * spread(factor, delta)


def where(
    mask: Bool[Tensor, " batch"], one: Float[Tensor, "batch ..."], other: Float[Tensor, "batch ..."]
) -> Float[Tensor, "batch ..."]:
    """Take whole samples from `one` where the mask says so, else from `other`.

    >>> where(torch.tensor([True, False]), torch.ones(2, 1), torch.zeros(2, 1)).flatten()
    tensor([1., 0.])
    """
    return torch.where(spread(mask, one), one, other)


def nonzero(lengths: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Give divisors: 1 in place of 0, so that zero stays zero.

    >>> nonzero(torch.tensor([0.0, 2.0]))
    tensor([1., 2.])
    """
    return torch.where(lengths > 0, lengths, 1)


def ranks(scores: Float[Tensor, "batch n"]) -> Int[Tensor, "batch n"]:
    """Give each entry's place in its row's order, the largest first; of equal ones the earlier comes first.

    >>> ranks(torch.tensor([[0.5, 2.0, 0.5]]))
    tensor([[1, 0, 2]])
    """
    order = scores.argsort(dim=1, descending=True, stable=True)
    places = torch.arange(scores.shape[1], device=scores.device).expand_as(order)
    return torch.empty_like(order).scatter_(1, order, places)


@dataclass(frozen=True)
class Room:
    """How far each pixel may move: down to `low` <= 0 and up to `high` >= 0; both are zero where it may not move.

    >>> Room(torch.tensor([[-0.5, 0.0]]), torch.tensor([[0.5, 0.0]])).clamp(torch.ones(1, 2))
    tensor([[0.5000, 0.0000]])
    """

    low: Float[Tensor, "batch ..."]
    high: Float[Tensor, "batch ..."]

    def clamp(self, delta: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch ..."]:
        """Bring each pixel into its room."""
        return torch.clamp(delta, self.low, self.high)

    def towards(self, direction: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch ..."]:
        """Give the room, as a length >= 0, on the side that each pixel of `direction` points to."""
        return torch.where(direction < 0, -self.low, self.high)

    @property
    def widest(self) -> Float[Tensor, "batch ..."]:
        """The room of each pixel, as a length, on its larger side."""
        return torch.maximum(-self.low, self.high)
