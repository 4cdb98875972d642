"""How far each coordinate of the posterior mean can move, by bound propagation (THEORY 2)."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from vaerdict.certify.propagation.adapter import BoundedMap
from vaerdict.options import Norm, require


def box_shifts(
    bounded_mean: BoundedMap,
    centers: Float[Tensor, "batch ..."],
    radii: Sequence[float],
    norm: Norm,
    methods: Sequence[str] | None = None,
) -> Float64[Tensor, "batch radii latent"]:
    """Bound `|mu_i(x + delta) - mu_i(x)|` for every coordinate at several radii of `delta`.

    What holds on a larger ball holds on a smaller one, so that the bounds never fall along the radii. They hold for
    any evaluation of the clean mean in the arithmetic that the map covers, in whatever batch.

    Args:
        bounded_mean: the posterior mean.
        centers: images `[batch, *input_shape]`.
        radii: increasing, in input units.
        norm: of the input change.
        methods: as in `BoundedMap.box`.

    Raises:
        NoSoundBound: bound propagation fails.
        ValueError: the radii do not increase.

    >>> from vaerdict.certify.propagation import unavailable
    >>> if unavailable() is None:
    ...     assert box_shifts(BoundedMap(torch.nn.Flatten(), (1,)), torch.ones(1, 1), [2.0], "2") >= 2.0
    """
    require(len(radii) > 0 and all(a < b for a, b in pairwise(radii)), "increasing `radii`", list(radii))
    low, high = bounded_mean.point(centers)
    shifts = []
    for radius in radii:
        lower, upper = bounded_mean.box(centers, radius, norm, methods)
        shifts.append(largest_gap(lower, upper, low, high))
    return torch.stack(shifts, 1).flip(1).cummin(1).values.flip(1)


def largest_gap(
    lower: Float64[Tensor, "..."],
    upper: Float64[Tensor, "..."],
    low: Float64[Tensor, "..."],
    high: Float64[Tensor, "..."],
) -> Float64[Tensor, "..."]:
    """Bound the distance between a value in `[lower, upper]` and one in `[low, high]`, rounded up.

    >>> ends = (torch.tensor([[end]]).double() for end in (-1.0, 2.0, 0.0, 0.0))
    >>> float(largest_gap(*ends)) >= 2.0
    True
    """
    return torch.maximum(upper - low, high - lower) * (1 + 2.0**-50)
