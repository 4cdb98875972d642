"""How far posteriors can move when their inputs do, as functions of the radius (THEORY 2)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

import torch
from jaxtyping import Float64
from torch import Tensor

_UP = 1 + 2.0**-48  # for the products of float64 numbers here


@dataclass(frozen=True, kw_only=True)
class Source:
    """One way to bound a change: on each of some balls a slope, or the change itself.

    Attributes:
        name: `global`, `local` or `box`.
        radii: of the balls, increasing, in input units; beyond the last nothing is claimed.
        slopes: change per unit of radius, one per ball.
        most: change on the whole ball, one per ball.
        trusted: whether it is proved here, rather than by a backend that is not controlled.
    """

    name: str
    radii: Float64[Tensor, "batch balls"]
    slopes: Float64[Tensor, "batch balls ..."]
    most: Float64[Tensor, "batch balls ..."]
    trusted: bool = True

    def at(self, rho: Float64[Tensor, " batch"]) -> Float64[Tensor, "batch ..."]:
        """Bound the change for input changes up to `rho`, by the smallest ball that holds them; infinite beyond."""
        shape = (-1, *[1] * (self.slopes.ndim - 2))
        inside = rho <= self.radii[:, -1]
        if self.radii.shape[1] == 1:
            slopes, most = self.slopes[:, 0], self.most[:, 0]
        else:
            index = torch.searchsorted(self.radii.contiguous(), rho[:, None].contiguous())[:, 0]
            rows, index = torch.arange(len(rho), device=rho.device), index.clamp(max=self.radii.shape[1] - 1)
            slopes, most = self.slopes[rows, index], self.most[rows, index]
        change = torch.minimum((slopes * rho.reshape(shape)).nan_to_num(math.inf) * _UP, most)
        return torch.where(inside.reshape(shape), change, math.inf)


def slope_source(
    name: str, radii: Float64[Tensor, "batch balls"], slopes: Float64[Tensor, "batch balls ..."]
) -> Source:
    """Make a source of slopes. What holds on a ball holds on the smaller ones.

    >>> radii, slopes = torch.tensor([[1.0, 2.0]]).double(), torch.tensor([[3.0, 2.0]]).double()
    >>> source = slope_source("local", radii, slopes)
    >>> [round(float(source.at(torch.tensor([rho]).double())), 6) for rho in (0.5, 1.5, 2.5)]
    [1.0, 3.0, inf]
    """
    return Source(name=name, radii=radii, slopes=_from_above(slopes), most=torch.full_like(slopes, math.inf))


def box_source(name: str, radii: Float64[Tensor, "batch balls"], most: Float64[Tensor, "batch balls ..."]) -> Source:
    """Make a source of changes on whole balls, by a backend that is not controlled."""
    slopes = torch.full_like(most, math.inf)
    return Source(name=name, radii=radii, slopes=slopes, most=_from_above(most), trusted=False)


def _from_above(bounds: Tensor) -> Tensor:
    return bounds.nan_to_num(math.inf, math.inf).flip(1).cummin(1).values.flip(1)


@dataclass(frozen=True, kw_only=True)
class Change:
    """A quantity's change, by several sources: the smallest bound counts, plus what rounding adds.

    Attributes:
        sources: at least one.
        rounding: added to every bound, one per image.
    """

    sources: Sequence[Source]
    rounding: Float64[Tensor, " batch"]

    def trusted(self) -> "Change":
        """Leave out what is not proved here."""
        return Change(sources=[one for one in self.sources if one.trusted], rounding=self.rounding)

    def at(self, rho: Float64[Tensor, " batch"]) -> Float64[Tensor, "batch ..."]:
        """Bound the change for input changes up to `rho`."""
        least = reduce(torch.minimum, [one.at(rho) for one in self.sources])
        return (least + self.rounding.reshape(-1, *[1] * (least.ndim - 1))) * _UP

    def winners(self, rho: Float64[Tensor, " batch"]) -> list[str]:
        """Name the source with the smallest bound at each radius, the first of equals; of several values, of most."""
        bounds = torch.stack(
            [one.at(rho).flatten(1) if one.slopes.ndim > 2 else one.at(rho)[:, None] for one in self.sources]
        )
        index = bounds.argmin(0).mode(1).values
        return [self.sources[i].name for i in index.tolist()]
