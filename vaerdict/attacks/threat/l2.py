"""The L2 norm: radial projection, normalised steps, uniform starts; and the exact projection onto ball and box."""

import torch
from jaxtyping import Float
from torch import Tensor

from vaerdict.attacks.threat.samples import Room, nonzero, scaled

TINY = torch.finfo(torch.float32).tiny
"""Lengths below the smallest normal number count as zero."""


class L2:
    """`|delta|_2`, the root of the sum of squares.

    >>> L2().size(torch.tensor([[3.0, -4.0]]))
    tensor([5.])
    """

    counts = False

    def size(self, delta: Float[Tensor, "batch ..."]) -> Float[Tensor, " batch"]:
        """Give the Euclidean length."""
        return torch.linalg.vector_norm(delta.flatten(1), ord=2, dim=1)

    def project(
        self, delta: Float[Tensor, "batch ..."], radius: Float[Tensor, " batch"], room: Room
    ) -> Float[Tensor, "batch ..."]:
        """Bring `delta` into the ball, then into the room; the second step shortens only, so both hold at the end."""
        most = (torch.finfo(delta.dtype).max / delta[0].numel()) ** 0.5 / 2  # squares of more would overflow
        delta = delta.clamp(-most, most)
        return room.clamp(scaled(delta, (radius / self.size(delta).clamp_min(TINY)).clamp_max(1)))

    def direction(
        self,
        gradient: Float[Tensor, "batch ..."],
        radius: Float[Tensor, " batch"],
        room: Room,
        spread: Float[Tensor, " batch"] | None,
    ) -> Float[Tensor, "batch ..."]:
        """Give the gradient at unit length."""
        # In float64, since the square of a tiny gradient would vanish.
        length = torch.linalg.vector_norm(gradient.flatten(1), dim=1, dtype=torch.float64)
        return scaled(gradient, torch.where(length > TINY, 1 / length, 0).to(gradient.dtype))

    def start(self, noise: Float[Tensor, "batch ..."], radius: Float[Tensor, " batch"], room: Room) -> Tensor:
        """Turn standard normal noise into points that are uniform on the sphere."""
        return scaled(noise, radius / nonzero(self.size(noise)))

    def slack(self, delta: Float[Tensor, "batch ..."], half_ulp: float) -> float:
        """Bound what rounding `center + delta` adds to the norm."""
        return half_ulp * delta[0].numel() ** 0.5


def nearest_l2(
    delta: Float[Tensor, "batch ..."], radius: Float[Tensor, " batch"], room: Room
) -> Float[Tensor, "batch ..."]:
    """Give the nearest point of ball and room together: `clip(s delta)` with the largest `s <= 1` that fits the ball.

    `|clip(s delta)|` never falls with `s`; its square is quadratic between the `s` at which a value reaches its room's
    end. With those sorted, two cumulative sums give it at each, and the answer lies on the first piece that leaves the
    ball. Radial projection followed by clipping uses less of the radius.

    >>> room = Room(torch.full((1, 2), -0.5), torch.full((1, 2), 0.5))
    >>> nearest_l2(torch.tensor([[9.0, 0.3]]), torch.tensor([0.55]), room)
    tensor([[0.5000, 0.2291]])
    """
    lengths = delta.flatten(1).double().abs()
    ends = room.towards(delta).flatten(1).double()
    most = lengths.amax(1, keepdim=True)
    lengths = torch.where(most.isinf(), lengths.isinf().double(), lengths / nonzero(most))  # no square overflows
    points, order = torch.where(lengths > 0, ends / nonzero(lengths), torch.inf).sort(dim=1)
    squares, stops = lengths.gather(1, order).square(), ends.gather(1, order).square()
    moving = squares.flip(1).cumsum(1).flip(1)
    stopped = torch.cat([torch.zeros_like(stops[:, :1]), torch.where(points.isinf(), 0, stops).cumsum(1)[:, :-1]], 1)
    square = radius.double().square().unsqueeze(1)
    fits = torch.where(moving > 0, stopped + points.square() * moving, stopped) < square
    piece = fits.sum(1, keepdim=True).clamp_max(lengths.shape[1] - 1)
    left, rest = (square - stopped.gather(1, piece)).clamp_min(0), moving.gather(1, piece)
    factor = torch.where(rest > 0, (left / nonzero(rest)).sqrt(), torch.inf).minimum(most)
    return room.clamp((lengths * factor).nan_to_num(0).to(delta.dtype).reshape(delta.shape).copysign(delta))
