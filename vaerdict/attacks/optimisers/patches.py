"""Squares at random places of an image, whose size falls with the queries (Andriushchenko et al., ECCV 2020)."""

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vaerdict.attacks.threat import Ball

HALVINGS = (10, 50, 200, 1000, 2000, 4000, 6000, 8000)
"""Queries, of 10,000, after which the area is halved, as in the paper."""


def shrinking(first: float, query: int, queries: int) -> float:
    """Give the share of an image that a square covers at a query.

    >>> shrinking(0.8, 1, 10_000), shrinking(0.8, 100, 10_000), shrinking(0.8, 99, 100)
    (0.8, 0.2, 0.003125)
    """
    return float(first / 2 ** sum(query * 10_000 > halving * queries for halving in HALVINGS))


def sides(share: float, height: int, width: int) -> tuple[int, int]:
    """Give height and width of the rectangle with that share of the area, as square as fits, at least one pixel.

    >>> sides(0.25, 28, 28), sides(0.25, 1, 12), sides(0.0, 28, 28)
    ((14, 14), (1, 3), (1, 1))
    """
    area = share * height * width
    rows = min(height, max(1, round(max(math.sqrt(area), area / width))))
    return rows, min(width, max(1, round(area / rows)))


class Canvas:
    """A ball's inputs as `[channels, height, width]`; those of other shapes are taken as a row of values.

    >>> ball = Ball(norm="2", radius=torch.ones(1), box=(0.0, 1.0), center=torch.zeros(1, 1, 1, 4))
    >>> Canvas(ball).patch(torch.tensor([[-9.0, 0.3]]), 0.5)
    tensor([[[[1., 1., 0., 0.]]]])
    """

    def __init__(self, ball: Ball) -> None:
        shape = tuple(ball.center.shape[1:])
        self.channels, self.height, self.width = _planes(shape)
        self.shape = ball.center.shape
        free = (ball.room.widest > 0).reshape(len(ball.center), self.channels, -1).any(1)
        self.until = free.cumsum(1)
        """How many of the places up to this one may change."""

    @property
    def numbers(self) -> int:
        """Normal numbers that a patch needs: one for its place, one for each channel's sign."""
        return 1 + self.channels

    def patch(self, numbers: Float[Tensor, "batch numbers"], share: float) -> Float[Tensor, "batch ..."]:
        """Give a square per image, 1 or -1 in each channel, 0 around it.

        Its middle is any place that may change, all as likely; at the border the square is cut off.
        """
        rows, columns = sides(share, self.height, self.width)
        middle = (self.until <= torch.special.ndtr(numbers[:, :1].float()) * self.until[:, -1:]).sum(1)
        down = _span(middle // self.width - (rows - 1) // 2, rows, self.height)
        across = _span(middle % self.width - (columns - 1) // 2, columns, self.width)
        inside = down[:, None, :, None] & across[:, None, None, :]
        sign = torch.where(numbers[:, 1:, None, None] < 0, -1, 1).to(numbers)
        return (sign * inside).reshape(self.shape)


def _planes(shape: tuple[int, ...]) -> tuple[int, int, int]:
    if len(shape) == 3:
        return shape[0], shape[1], shape[2]
    if len(shape) == 2:
        return 1, shape[0], shape[1]
    return 1, 1, math.prod(shape)


def _span(first: Int[Tensor, " batch"], length: int, size: int) -> Bool[Tensor, "batch size"]:
    steps = torch.arange(size, device=first.device) - first.unsqueeze(1)
    return (steps >= 0) & (steps < length)
