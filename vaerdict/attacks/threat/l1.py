"""The L1 norm: the exact projection onto the ball within the box, sparse steps, uniform starts."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from vaerdict.attacks.threat.samples import Room, nonzero, ranks, scaled

_HUGE = 1e150
"""Pixels farther out than this are taken for as far: sums of them stay finite."""


class L1:
    """`|delta|_1`, the sum over all values.

    >>> L1().size(torch.tensor([[3.0, -4.0]]))
    tensor([7.])
    """

    counts = False

    def size(self, delta: Float[Tensor, "batch ..."]) -> Float[Tensor, " batch"]:
        """Give the sum of the absolute values."""
        return torch.linalg.vector_norm(delta.flatten(1), ord=1, dim=1)

    def project(
        self, delta: Float[Tensor, "batch ..."], radius: Float[Tensor, " batch"], room: Room
    ) -> Float[Tensor, "batch ..."]:
        """Give the nearest point of ball and room together.

        It has the signs of `delta` and the absolute values `clip(|delta| - t, 0, room)` with the smallest `t >= 0` at
        which their sum is at most the radius (`threshold_l1`).
        """
        lengths = delta.flatten(1).double().abs().clamp_max(_HUGE)
        room_there = room.towards(delta).flatten(1).double()
        most = radius.double()
        kept = (lengths - threshold_l1(lengths, room_there, most).unsqueeze(1)).clamp_min(0).minimum(room_there)
        # Where `delta` is huge, the threshold's own rounding exceeds the radius.
        kept = scaled(kept, (most / nonzero(kept.sum(1))).clamp_max(1))
        return kept.to(delta.dtype).reshape(delta.shape).copysign(delta)

    def direction(
        self,
        gradient: Float[Tensor, "batch ..."],
        radius: Float[Tensor, " batch"],
        room: Room,
        spread: Float[Tensor, " batch"] | None,
    ) -> Float[Tensor, "batch ..."]:
        """Give a sparse step of unit norm, along the values with the steepest gradients that have room.

        With `spread` that many values share it evenly. Without, the values are filled in their order, each up to its
        room, until the radius is used: `radius` times the step is then where a linear function is largest in ball and
        room together.
        """
        steepness = gradient.flatten(1).abs()
        lengths = room.towards(gradient).flatten(1).double() * (steepness > 0)
        order = ranks(torch.where(lengths > 0, steepness, -1))
        if spread is None:
            filled = _before(lengths, order)
            share = (radius.double().unsqueeze(1) - filled).clamp_min(0).minimum(lengths)
        else:
            share = ((order < spread.unsqueeze(1)) & (lengths > 0)).double()
        share = share / nonzero(share.sum(1, keepdim=True))
        return share.to(gradient.dtype).reshape(gradient.shape) * gradient.sign()

    def start(self, noise: Float[Tensor, "batch ..."], radius: Float[Tensor, " batch"], room: Room) -> Tensor:
        """Turn standard normal noise into points that are uniform on the sphere.

        Exponential lengths divided by their sum are uniform on the simplex.
        """
        exponential = -torch.special.log_ndtr(-noise.abs().clamp_max(30)) - math.log(2)
        start = torch.where(noise == 0, 0, exponential.clamp_min(0)) * noise.sign()
        return scaled(start, radius / nonzero(self.size(start)))

    def slack(self, delta: Float[Tensor, "batch ..."], half_ulp: float) -> Float[Tensor, " batch"]:
        """Bound what rounding `center + delta` adds to the norm: only values that move are rounded."""
        return (delta != 0).flatten(1).sum(1).to(delta.dtype) * half_ulp


def threshold_l1(
    lengths: Float[Tensor, "batch n"], room: Float[Tensor, "batch n"], radius: Float[Tensor, " batch"]
) -> Float[Tensor, " batch"]:
    """Give the smallest `t >= 0` with `f(t) = sum_i clip(lengths_i - t, 0, room_i) <= radius`.

    Every summand is continuous and never grows with `t`, so neither does `f`, and `f` is linear between the points
    where a value leaves its room's end (`lengths_i - room_i`) or reaches zero (`lengths_i`). With those sorted from the
    largest down, two cumulative sums give `f` at each; the answer lies on the first piece that reaches the radius
    (Duchi et al. 2008 for the ball alone). No loop, nothing waits for the device.

    >>> threshold_l1(torch.tensor([[3.0, 1.0]]), torch.tensor([[9.0, 9.0]]), torch.tensor([2.0]))
    tensor([1.])
    """
    room = room.minimum(lengths)
    points = torch.cat([lengths, lengths - room], 1)
    signs = torch.ones_like(lengths)
    points, order = points.sort(dim=1, descending=True)
    slopes = torch.cat([signs, -signs], 1).gather(1, order)
    count, total = slopes.cumsum(1), (slopes * points).cumsum(1)
    reached = total - count * points >= radius.unsqueeze(1)
    before = ((~reached).sum(1, keepdim=True) - 1).clamp_min(0)
    t = (total.gather(1, before).squeeze(1) - radius) / count.gather(1, before).squeeze(1).clamp_min(1)
    return t.clamp_min(0)  # where all fits, `t` is not positive


def _before(lengths: Tensor, order: Tensor) -> Tensor:
    """Give the sum of the lengths of all entries that come earlier in the order."""
    ordered = torch.zeros_like(lengths).scatter_(1, order, lengths)
    return (ordered.cumsum(1) - ordered).gather(1, order)
