"""Sets of inputs: L2 balls and boxes."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float64
from torch import Tensor

from vaerdict.options import require

_OUTWARD = 1e-12  # relative; covers the float64 rounding in the region's own ends


@dataclass(frozen=True)
class Ball:
    """L2 balls with one radius.

    Attributes:
        centers: `[batch, ...]`.
        radius: in input units.
    """

    centers: Float64[Tensor, "batch ..."]
    radius: float

    def rows(self, start: int, stop: int) -> "Ball":
        """Give some of the balls."""
        return Ball(self.centers[start:stop], self.radius)

    def shaped(self, shape: tuple[int, ...]) -> "Ball":
        """Give the same balls with other axes."""
        return Ball(self.centers.reshape(-1, *shape), self.radius)

    def largest_norm(self) -> float:
        """Bound the L2 norm of every point."""
        return (float(self.centers.flatten(1).norm(dim=1).max()) + self.radius) * (1 + _OUTWARD)

    def perturbation(self, library: Any) -> Any:
        """Give the region in the library's words, slightly larger."""
        return library.PerturbationLpNorm(norm=2, eps=self.radius * (1 + _OUTWARD))

    def points(self, noise: Float64[Tensor, "probes batch ..."]) -> Float64[Tensor, "probes batch ..."]:
        """Turn normal noise into points on the sphere."""
        flat = noise.flatten(2)
        return self.centers + self.radius * (flat / flat.norm(dim=2, keepdim=True)).view_as(noise) * (1 - _OUTWARD)


@dataclass(frozen=True)
class Box:
    """Boxes `lower <= x <= upper`, each `[batch, ...]`."""

    lower: Float64[Tensor, "batch ..."]
    upper: Float64[Tensor, "batch ..."]

    @property
    def centers(self) -> Float64[Tensor, "batch ..."]:
        """Give the middles."""
        return (self.lower + self.upper) / 2

    def rows(self, start: int, stop: int) -> "Box":
        """Give some of the boxes."""
        return Box(self.lower[start:stop], self.upper[start:stop])

    def shaped(self, shape: tuple[int, ...]) -> "Box":
        """Give the same boxes with other axes."""
        return Box(self.lower.reshape(-1, *shape), self.upper.reshape(-1, *shape))

    def largest_norm(self) -> float:
        """Bound the L2 norm of every point."""
        largest = torch.maximum(self.lower.abs(), self.upper.abs())
        return float(largest.flatten(1).norm(dim=1).max()) * (1 + _OUTWARD)

    def perturbation(self, library: Any) -> Any:
        """Give the region in the library's words, slightly larger: equal ends send 0.3 into code of its own."""
        pad = _OUTWARD * (1 + torch.maximum(self.lower.abs(), self.upper.abs()))
        return library.PerturbationLpNorm(norm=float("inf"), x_L=self.lower - pad, x_U=self.upper + pad)

    def points(self, noise: Float64[Tensor, "probes batch ..."]) -> Float64[Tensor, "probes batch ..."]:
        """Turn normal noise into corners."""
        return torch.where(noise > 0, self.upper, self.lower)


Region = Ball | Box


def make_region(centers: Tensor, radius: float, norm: str) -> Region:
    """Give the balls around centers `[batch, ...]`, in the L2 or the L-infinity norm.

    Raises:
        ValueError: the radius is not positive and finite, the norm is unknown, or a center is not finite.

    >>> make_region(torch.zeros(1, 2), 0.5, "inf").upper
    tensor([[0.5000, 0.5000]], dtype=torch.float64)
    """
    require(0 < radius < float("inf"), "a finite `radius` > 0", radius)
    require(norm in ("2", "inf"), "`norm` 2 or inf", norm)
    exact = centers.detach().cpu().double()
    require(bool(torch.isfinite(exact).all()), "finite centers", "NaN or infinity")
    return Ball(exact, radius) if norm == "2" else make_box(exact - radius, exact + radius)


def make_box(lower: Tensor, upper: Tensor) -> Box:
    """Give boxes in float64 on the CPU.

    Raises:
        ValueError: the shapes differ, an end is not finite, or `lower` exceeds `upper`.

    >>> make_box(torch.zeros(1, 2), torch.ones(1, 2)).largest_norm() > 1.41
    True
    """
    require(lower.shape == upper.shape, "ends of one shape", f"{tuple(lower.shape)} and {tuple(upper.shape)}")
    box = Box(lower.detach().cpu().double(), upper.detach().cpu().double())
    ordered = bool(
        torch.isfinite(box.lower).all() and torch.isfinite(box.upper).all() and (box.lower <= box.upper).all()
    )
    require(ordered, "finite `lower` <= `upper`", "NaN, infinity, or ends in the wrong order")
    return box
