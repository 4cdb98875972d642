"""Certificates for posteriors whose standard deviations differ: reflection, and coordinate-wise shifts (THEORY 4.3)."""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float64
from torch import Tensor

from vaerdict.certify.margin import solve_margin
from vaerdict.certify.quadratic import MOST_NONCENTRAL, CentralTable, QuadraticForm

Radii = Float64[Tensor, " batch"]

_GUESSES = 3
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
    moving: bool,
    steps: int = 30,
) -> Radii:
    """Give the radii up to which reflection proves the level `p`.

    Where the standard deviations move, the covariance at a guessed radius stands for all, scaled by the largest ratio
    of a variance to its value there. Any guess gives a verified margin; they halve the interval between those and the
    guesses that failed.

    Args:
        variances: bounds of the covariance's diagonal, non-decreasing in the radius; infinite where unknown.
        t: distance that is allowed in latent space.
        shift: bound of the mean's move, non-decreasing in the radius.
        p: level.
        upper: where the search ends, in input units.
        moving: whether the variances depend on the radius.
        steps: bisections.
    """

    def solve(guess: Radii, grows: bool) -> Radii:
        reference = variances(guess)
        known = torch.isfinite(reference).all(1)
        table = CentralTable.of(torch.where(known[:, None], reference, 1.0))

        def probability(rho: Radii) -> Radii:
            scale = (variances(rho) / reference).amax(1) if grows else torch.ones_like(rho)
            certain = known & torch.isfinite(scale)
            bound = reflection_probability(table, t, shift(rho), torch.where(certain, scale, 1.0))
            return torch.where(certain, bound, 0.0)

        return solve_margin(probability, p, upper, steps)

    margins = torch.zeros_like(t)
    failed = solve(margins, grows=False)  # no covariance is smaller: only a guess if it grows
    if not moving:
        return failed
    for _ in range(_GUESSES):
        guess = (margins + failed) / 2
        found = solve(guess, grows=True)
        failed = torch.where(found < guess, guess, failed)
        margins = torch.maximum(margins, found)
    return margins


def reflection_margins(
    std: Float64[Tensor, "batch latent"],
    *,
    a: float,
    b: float,
    c: float | Float64[Tensor, " latent"],
    r: float,
    p: float,
    anchored: bool = False,
) -> Radii:
    """Give the reflection margins (THEORY 4.3), in input units.

    Args:
        std: posterior standard deviations.
        a: Lipschitz constant of the decoder.
        b: Lipschitz constant of the posterior mean.
        c: Lipschitz constants of the standard deviations, or one that holds for each.
        r: allowed distance between reconstructions.
        p: level.
        anchored: compare a sample with the reconstruction of the clean mean, not with a clean sample.

    >>> reflection_margins(torch.tensor([[0.1, 0.2]], dtype=torch.float64), a=5, b=5, c=0.0, r=8, p=0.5)
    tensor([0.3039], dtype=torch.float64)
    """
    if len(std) > 1 and bool((std == std[:1]).all()):  # a constant spread has one margin for all images
        return reflection_margins(std[:1], a=a, b=b, c=c, r=r, p=p, anchored=anchored).expand(len(std))
    growth = torch.as_tensor(c, dtype=std.dtype, device=std.device).expand(std.shape[1])
    fastest = float(growth.max())
    t = torch.full_like(std[:, 0], r / a)
    upper = t / max(b, fastest / 2)  # with a standard deviation of 2 t less than half of all samples are within t

    def variances(rho: Radii) -> Float64[Tensor, "batch latent"]:
        moved = std + growth * rho.unsqueeze(1)
        return moved.square() if anchored else moved.square() + std.square()

    return solve_reflection(variances, t=t, shift=lambda rho: b * rho, p=p, upper=upper, moving=fastest > 0)


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
    for limit in _LIMITS:
        best = torch.maximum(best, _split_probability(variances, shifts, t, limit))
    return best


def _split_probability(
    variances: Float64[Tensor, "batch latent"], shifts: Float64[Tensor, "batch latent"], t: Radii, limit: float
) -> Radii:
    """Bound the probability by a form whose non-centrality is at most `limit`, and the rest aside of it.

    With `|m + e| <= far` for the coordinates aside but for a chance of `exp(-16)`, independently of the others, these
    may use `t^2 - far^2`.
    """
    moved = torch.where(shifts == 0, 0.0, shifts / variances.sqrt()).square()
    crowded = moved.sum(dim=1, keepdim=True) > limit
    aside = crowded & (moved > 0.9 * limit / moved.shape[1])
    form = QuadraticForm.of(torch.where(aside, 0.0, variances), torch.where(aside, 0.0, moved).sqrt())
    noise = QuadraticForm(variances=torch.where(aside, variances, 0.0)).reach(_SURPRISE)
    far = torch.where(aside, shifts, 0.0).norm(dim=1) + noise.sqrt()
    chance = torch.where(aside.any(dim=1), -math.expm1(-_SURPRISE), 1.0)
    return chance * form.cdf((t - far) * (t + far))
