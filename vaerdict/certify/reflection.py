"""Certificates for posteriors whose standard deviations differ: reflection, and coordinate-wise shifts (THEORY 4.3)."""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float64
from torch import Tensor

from vaerdict.certify.margin import solve_margin
from vaerdict.certify.quadratic import MOST_NONCENTRAL, CentralTable, QuadraticForm

Radii = Float64[Tensor, " batch"]
Growth = Callable[[Float64[Tensor, "batch latent"], Float64[Tensor, "batch latent"]], Radii]

_PREDICTIONS = 2
_SAME = 1 + 1e-9
_SURPRISE = 16.0
_LIMITS = (32.0, 256.0, MOST_NONCENTRAL)
_TINY = 1e-300
_UP = 1 + 2.0**-50  # what `shift` is rounded up by; it covers the rounding of `t - shift` as well


def reflection_probability(table: CentralTable, t: Radii, shift: Radii, scale: float | Radii = 1.0) -> Radii:
    """Bound `P(|m + e| <= t)` over all `|m| <= shift`, `e` normal with `|e|^2 = scale Q` (THEORY 4.3).

    Half of it is `P(scale Q <= t^2 - shift^2)`, for `m` that point away from `e`. The other half is the better of the
    triangle inequality and, for any `u`, `P(scale Q <= u) P(2 m.e <= t^2 - shift^2 - u)` (Royen 2014).

    Args:
        table: of the form `Q`.
        t: distance that is allowed.
        shift: bound of the mean's move.
        scale: factor of all variances.

    >>> table = CentralTable.of(torch.tensor([[1.0, 4.0]], dtype=torch.float64))
    >>> reflection_probability(table, torch.tensor([4.0]).double(), torch.tensor([1.0]).double()) > 0.8
    tensor([True])
    """
    shift = shift * _UP
    room = (t - shift) * (t + shift) / scale
    triangle = table((t - shift).clamp(min=0.0).square() / scale)
    spread = math.sqrt(8) * shift * (table.largest / scale).sqrt()  # of `2 m.e / scale`, times the root of 2
    rest = (room.unsqueeze(1) - table.levels).clamp(min=0.0)
    aside = torch.special.erf(rest / spread.clamp(min=_TINY).unsqueeze(1))
    royen = (table.at_levels * aside).amax(dim=1)
    probability = (table(room) + torch.maximum(triangle, royen)) / 2
    return torch.where(shift < t, probability, 0.0)


def solve_reflection(
    variances: Callable[[Radii], Float64[Tensor, "batch latent"]],
    *,
    t: Radii,
    shift: Callable[[Radii], Radii],
    p: float,
    upper: Radii,
) -> Radii:
    """Give the radii up to which reflection proves the level `p`.

    The covariance at one radius stands for all, scaled by the largest ratio of a variance to its value there. Any such
    radius gives a verified margin. The best is the margin itself: it is predicted by scaling with the ratio of the
    sums of the variances, unless all variances grow by the same ratio, where every radius gives the same margin.

    Args:
        variances: bounds of the covariance's diagonal, non-decreasing in the radius; infinite where unknown.
        t: distance that is allowed in latent space.
        shift: bound of the mean's move, non-decreasing in the radius.
        p: level.
        upper: where the search ends, in input units.

    >>> def variances(rho):
    ...     return (1 + rho[:, None] * torch.tensor([[0.1, 0.3]]).double()).square()
    >>> t, upper = torch.tensor([4.0]).double(), torch.tensor([9.0]).double()
    >>> solve_reflection(variances, t=t, shift=lambda rho: 2 * rho, p=0.5, upper=upper)
    tensor([1.5843], dtype=torch.float64)
    """

    def solve(radius: Radii, growth: Growth) -> Radii:
        reference = variances(radius)
        known = torch.isfinite(reference).all(1)
        table = CentralTable.of(torch.where(known[:, None], reference, 1.0))

        def probability(rho: Radii) -> Radii:
            scale = growth(variances(rho), reference)
            certain = known & torch.isfinite(scale)
            bound = reflection_probability(table, t, shift(rho), torch.where(certain, scale, 1.0))
            return torch.where(certain, bound, 0.0)

        return solve_margin(probability, p, upper)

    radius = torch.zeros_like(t)
    ratios = variances(upper) / variances(radius)
    if not bool((ratios.amax(1) <= ratios.amin(1) * _SAME).all()):
        for _ in range(_PREDICTIONS):
            radius = solve(radius, lambda moved, reference: moved.sum(1) / reference.sum(1))
    return solve(radius, lambda moved, reference: (moved / reference).amax(1))


def coordinate_probability(
    variances: Float64[Tensor, "batch latent"], shifts: Float64[Tensor, "batch latent"], t: Radii
) -> Radii:
    """Bound `P(|m + e| <= t)` over all `|m_i| <= shifts_i`, `e` normal with these variances (THEORY 4.3).

    The probability falls in each `|m_i|`, so the worst case is one non-central form. Coordinates that move by very many
    of their standard deviations are left to the triangle inequality; the best of some limits counts, none included.

    Raises:
        ValueError: a variance is negative or not finite, or a shift is NaN.

    >>> ones = torch.ones(1, 3, dtype=torch.float64)
    >>> coordinate_probability(ones, ones, torch.tensor([3.0], dtype=torch.float64))
    tensor([0.7945], dtype=torch.float64)
    """
    shifts = shifts.abs() * _UP
    rest = (t - shifts.norm(dim=1)).clamp(min=0.0)
    best = QuadraticForm.of(variances).cdf(rest.square())
    moved = torch.where(shifts == 0, 0.0, shifts / variances.sqrt()).square()
    for limit in _LIMITS:
        best = torch.maximum(best, _split_probability(variances, shifts, moved, t, limit))
        if bool((moved.sum(dim=1) <= limit).all()):  # nothing was left aside, nor will be
            break
    return best


def _split_probability(
    variances: Float64[Tensor, "batch latent"],
    shifts: Float64[Tensor, "batch latent"],
    moved: Float64[Tensor, "batch latent"],
    t: Radii,
    limit: float,
) -> Radii:
    """Bound the probability by a form whose non-centrality, a sum of `moved`, is at most `limit`, the rest aside of it.

    With `|m + e| <= far` for the coordinates aside but for a chance of `exp(-16)`, independently of the others, these
    may use `t^2 - far^2`.
    """
    crowded = moved.sum(dim=1, keepdim=True) > limit
    aside = crowded & (moved > 0.9 * limit / moved.shape[1])
    form = QuadraticForm.of(torch.where(aside, 0.0, variances), torch.where(aside, 0.0, moved).sqrt())
    noise = QuadraticForm(variances=torch.where(aside, variances, 0.0)).reach(_SURPRISE)
    far = torch.where(aside, shifts, 0.0).norm(dim=1) + noise.sqrt()
    chance = torch.where(aside.any(dim=1), -math.expm1(-_SURPRISE), 1.0)
    return chance * form.cdf((t - far) * (t + far))
