"""The threat model: which perturbations are allowed."""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from vaerdict.attacks.question import AttackNorm
from vaerdict.attacks.threat.l0 import L0
from vaerdict.attacks.threat.l1 import L1
from vaerdict.attacks.threat.l2 import L2, nearest_l2
from vaerdict.attacks.threat.linf import Linf
from vaerdict.attacks.threat.samples import Room, nonzero, scaled


@runtime_checkable
class Geometry(Protocol):
    """What a norm must know; `room` is how far each pixel may move, and perturbations have the images' shape."""

    @property
    def counts(self) -> bool:
        """Whether the radius is a number of pixels rather than a distance."""
        ...

    def size(self, delta: Tensor) -> Tensor:
        """Give the norm of each perturbation."""
        ...

    def project(self, delta: Tensor, radius: Tensor, room: Room) -> Tensor:
        """Bring each perturbation into ball and room."""
        ...

    def direction(self, gradient: Tensor, radius: Tensor, room: Room, spread: Tensor | None) -> Tensor:
        """Give the steepest step of unit norm; zero stays zero."""
        ...

    def start(self, noise: Tensor, radius: Tensor, room: Room) -> Tensor:
        """Turn standard normal noise into points of the ball."""
        ...

    def slack(self, delta: Tensor, half_ulp: float) -> Tensor | float:
        """Bound what rounding `center + delta` adds to the norm."""
        ...


GEOMETRY: dict[AttackNorm, Geometry] = {
    "0": L0(),
    "0-values": L0(places=False),
    "1": L1(),
    "2": L2(),
    "inf": Linf(),
}
COUNTS = frozenset(norm for norm, geometry in GEOMETRY.items() if geometry.counts)
"""Norms whose radius is a number of pixels or values."""


def size(delta: Float[Tensor, "batch ..."], norm: AttackNorm) -> Float[Tensor, " batch"]:
    """Give the norm of each perturbation, in pixel units; for "0" the number of pixels that change.

    >>> size(torch.tensor([[3.0, 4.0]]), "2"), size(torch.tensor([[3.0, 4.0]]), "inf")
    (tensor([5.]), tensor([4.]))
    """
    return GEOMETRY[norm].size(delta)


@dataclass(frozen=True, kw_only=True)
class Ball:
    """Perturbations `delta` with `|delta| <= radius`, zero outside the mask, every pixel of `center + delta` in `box`.

    Args:
        norm: "1", "2" or "inf"; "0" counts pixels, all channels of a place together, "0-values" single values.
        radius: one radius per image, in pixel units; for "0" and "0-values" a number.
        box: least and greatest pixel value; `center` lies within.
        center: the clean images.
        mask: which pixels may change, one mask per image or one for all; by default all.

    >>> ball = Ball(norm="2", radius=torch.ones(1), box=(-9.0, 9.0), center=torch.zeros(1, 2))
    >>> ball.project(torch.tensor([[3.0, 4.0]]))
    tensor([[0.6000, 0.8000]])
    """

    norm: AttackNorm
    radius: Float[Tensor, " batch"]
    box: tuple[float, float]
    center: Float[Tensor, "batch ..."]
    mask: Bool[Tensor, "masks ..."] | None = None

    @classmethod
    def widest(
        cls,
        norm: AttackNorm,
        box: tuple[float, float],
        center: Float[Tensor, "batch ..."],
        mask: Bool[Tensor, "masks ..."] | None = None,
    ) -> "Ball":
        """Give the smallest ball that holds every image in the box: its radius reaches each image's farthest corner."""
        ball = cls(norm=norm, radius=center.new_zeros(len(center)), box=box, center=center, mask=mask)
        return ball.with_radius(size(ball.room.widest, norm))

    @cached_property
    def room(self) -> Room:
        """How far each pixel may move, whatever the radius."""
        low, high = self.box
        return Room(self._masked(low - self.center), self._masked(high - self.center))

    def with_radius(self, radius: Float[Tensor, " batch"]) -> "Ball":
        """Give the ball of another radius around the same images; a number of pixels is rounded down."""
        return replace(self, radius=radius.floor() if self._geometry.counts else radius)

    def select(self, keep: Bool[Tensor, " batch"]) -> "Ball":
        """Give the ball around the images marked in `keep`."""
        shared = self.mask is None or len(self.mask) == 1
        mask = self.mask if shared or self.mask is None else self.mask[keep]
        return replace(self, radius=self.radius[keep], center=self.center[keep], mask=mask)

    def project(self, delta: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch ..."]:
        """Bring `delta` into ball and box: to the nearest point, except for "2", where the box comes after the ball.

        Zero outside the mask. Infinite values count as very large ones.
        """
        return self._geometry.project(self._masked(delta), self.radius, self.room)

    def nearest(self, delta: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch ..."]:
        """Give the nearest point of ball and box, for "2" at the cost of a sort."""
        if self.norm == "2":
            return nearest_l2(self._masked(delta), self.radius, self.room)
        return self.project(delta)

    def stretch(self, delta: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch ..."]:
        """Rescale `delta` to the ball's surface, then bring it into the box; zero stays zero, counts do not grow."""
        if self._geometry.counts:
            return self.project(delta)
        delta = self._masked(delta)
        return self.project(scaled(delta, self.radius / nonzero(size(delta, self.norm))))

    def apply(self, delta: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch ..."]:
        """Give the images `center + delta`, in the box and, despite rounding, in the ball.

        The sum moves each pixel by at most half a unit in the last place, so `delta` is first brought into a ball that
        is smaller by as much.
        """
        half_ulp = torch.finfo(delta.dtype).eps / 2 * max(map(abs, self.box))
        inside = self.project(delta) if self.norm == "1" else delta
        smaller = self.radius if self._geometry.counts else self.radius * (1 - 1e-6)
        smaller = (smaller - self._geometry.slack(inside, half_ulp)).clamp_min(0)
        return (self.center + replace(self, radius=smaller).project(delta)).clamp(*self.box)

    def ascent_direction(
        self, gradient: Float[Tensor, "batch ..."], spread: Float[Tensor, " batch"] | None = None
    ) -> Float[Tensor, "batch ..."]:
        """Give the steepest direction for each gradient; zero stays zero.

        Of unit norm: normalised ("2"), its sign ("inf"), or sparse ("1"): `radius` times it is then the point of ball
        and box at which the gradient's linear function is largest. For counts a length has no meaning, and `radius`
        times the direction is a step that, projected, is nearly that point.

        Args:
            gradient: of the loss.
            spread: over how many values ("1", "0-values") or pixels ("0") a step is spread; others ignore it.
        """
        return self._geometry.direction(self._masked(gradient), self.radius, self.room, spread)

    def random_start(self, noise: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch ..."]:
        """Turn standard normal noise into starts: uniform on the sphere ("1", "2"), in the cube, over the pixels ("0").

        A pixel that would leave the box goes to the side with more room: cut off, an image in a corner could start at
        zero.
        """
        start = self._geometry.start(self._masked(noise), self.radius, self.room)
        low, high = self.box
        moved = self.center + start
        roomy = torch.where(high - self.center >= self.center - low, start.abs(), -start.abs())
        return self.project(torch.where((moved < low) | (moved > high), roomy, start))

    @property
    def _geometry(self) -> Geometry:
        return GEOMETRY[self.norm]

    def _masked(self, values: Tensor) -> Tensor:
        return values if self.mask is None else torch.where(self.mask, values, 0)
