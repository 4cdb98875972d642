"""Lower bounds of `P(sum_i v_i (e_i + c_i)^2 <= T)` for standard normal `e`: a generalised chi-square (THEORY 4.3)."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Complex128, Float64
from torch import Tensor

from vaerdict.certify.contour import find_contour
from vaerdict.certify.probability import CDF_SLACK
from vaerdict.options import require

MOST_NONCENTRAL = 1024.0
"""Largest sum of squared shifts, in standard deviations, that a contour is made for."""

_NEAREST = 1e-60  # smaller thresholds, relative to where the form ends, count as 0, so that nothing overflows
_OCTAVES, _POINTS = 12, 32  # the table spans a factor of 2^12, with 32 points to each 2
_STEP = math.log(2) / _POINTS  # their distance in `log T`
_WIDE, _NARROW = 3, 1  # octaves that share nodes; a wide contour for many coordinates would drown in its rounding
_NEVER = -1e9  # below the logarithm of any probability that can occur here
_LEVELS = torch.linspace(-2.5, 5.0, 31, dtype=torch.float64)  # normal quantiles of the `P(Q <= u)` that are tried


def log_laplace(
    variances: Float64[Tensor, "batch latent"],
    shifts: Float64[Tensor, "batch latent"] | None,
    s: Complex128[Tensor, " batch *points"],
) -> tuple[Float64[Tensor, " batch *points"], Float64[Tensor, " batch *points"]]:
    """Give log-modulus and angle of `E exp(-s Q)` in the upper half-plane, on the branch that is 1 at 0.

    In real arithmetic, which torch vectorises; complex logarithms take ten times as long.

    >>> log_laplace(torch.ones(1, 2).double(), None, torch.ones(1, 1).to(torch.complex128))[0].exp()
    tensor([[0.3333]], dtype=torch.float64)
    """
    twice_real, twice_imaginary = 2 * s.real, 2 * s.imag
    modulus, angle = torch.zeros_like(twice_real), torch.zeros_like(twice_real)
    for i in range(variances.shape[1]):
        variance = _column(variances[:, i], s)
        real, imaginary = 1 + variance * twice_real, variance * twice_imaginary
        square = real.square().addcmul_(imaginary, imaginary)
        modulus.sub_(square.log(), alpha=0.25)
        angle.sub_(torch.atan2(imaginary, real), alpha=0.5)
        if shifts is not None:
            half = _column(shifts[:, i], s).square() / 2
            modulus -= half * (1 - real / square)
            angle -= half * (imaginary / square)
    return modulus, angle


@dataclass(frozen=True, kw_only=True)
class QuadraticForm:
    """`Q = sum_i variances_i (e_i + shifts_i)^2` of independent standard normal `e`, one per row.

    Attributes:
        variances: non-negative; zeros add nothing.
        shifts: in standard deviations; None for a central form. Their squares sum to `MOST_NONCENTRAL` or less.
        noncentral: upper bound of that sum over the batch.
    """

    variances: Float64[Tensor, "batch latent"]
    shifts: Float64[Tensor, "batch latent"] | None = None
    noncentral: float = 0.0

    @classmethod
    def of(
        cls, variances: Float64[Tensor, "batch latent"], shifts: Float64[Tensor, "batch latent"] | None = None
    ) -> "QuadraticForm":
        """Check the numbers, and round the largest non-centrality up to a power of 2 (contours are kept for reuse).

        Raises:
            ValueError: a variance is negative or not finite, or the shifts are too large.

        >>> QuadraticForm.of(torch.ones(1, 2).double()).cdf(torch.ones(1).double())
        tensor([0.3935], dtype=torch.float64)
        """
        fine = bool(((variances >= 0) & (variances < torch.inf)).all())
        require(fine, "finite `variances` >= 0", "others")
        if shifts is None:
            return cls(variances=variances)
        largest = float(shifts.square().sum(dim=1).amax()) if len(shifts) else 0.0
        require(largest <= MOST_NONCENTRAL, f"squared `shifts` that sum to {MOST_NONCENTRAL} or less", largest)
        bound = 2.0 ** math.ceil(math.log2(max(largest, 8.0)))
        return cls(variances=variances, shifts=shifts, noncentral=bound)

    def reach(self, surprise: float = 24.0) -> Float64[Tensor, " batch"]:
        """Give a `T` with `P(Q > T) <= exp(-surprise)` (Birgé 2001; Laurent and Massart 2000)."""
        squares = torch.zeros_like(self.variances) if self.shifts is None else self.shifts.square()
        mean = (self.variances * (1 + squares)).sum(dim=1)
        largest = self.variances.amax(dim=1)
        relative = self.variances / torch.where(largest > 0, largest, 1.0).unsqueeze(1)  # its square does not underflow
        spread = largest * (relative.square() * (1 + 2 * squares)).sum(dim=1).sqrt()
        return mean + 2 * math.sqrt(surprise) * spread + 2 * surprise * largest

    def cdf(self, thresholds: Float64[Tensor, " batch *points"]) -> Float64[Tensor, " batch *points"]:
        """Bound `P(Q <= T)` from below, in [0, 1); 0 where `T` is not positive (or NaN).

        Below the true value by little more than `CDF_SLACK`. From `reach` on it is constant: farther out the sum's
        terms grow, and their rounding with them.
        """
        reach = self.reach()
        relative = thresholds / _column(reach, thresholds)
        inside = relative > _NEAREST
        safe = torch.where(inside, relative.clamp(max=1.0), 1.0)
        scaled = self.variances / torch.where(reach > 0, reach, 1.0).unsqueeze(1)
        contour = find_contour(self.variances.shape[1], self.noncentral)
        squares = torch.as_tensor(contour.squares, device=safe.device)
        weights = torch.as_tensor(contour.weights(np.ones(1))[:, 0].copy(), device=safe.device)
        modulus, angle = log_laplace(scaled, self.shifts, squares / safe.unsqueeze(-1))
        sizes = modulus.exp() * weights.abs()
        total = (sizes * (angle + weights.angle()).cos()).sum(dim=-1)
        rounding = contour.rounding(self.variances.shape[1], self.noncentral) * sizes.sum(dim=-1)
        lower = total - CDF_SLACK - rounding
        return torch.where(inside, lower, 0.0).clamp(0.0, 1 - CDF_SLACK)


@dataclass(frozen=True, kw_only=True)
class CentralTable:
    """`P(Q <= T)` of a central form, tabulated once, so that a search can look it up.

    `P(Q <= T)` is log-concave in `log T` (the B-theorem of Cordero-Erausquin, Fradelizi and Maurey 2004), so that lines
    between points of the table, in these logarithms, are lower bounds. Below the table it falls no faster than
    `T^(latent / 2)`; above, it rises.

    Attributes:
        log_cdf: logarithms of lower bounds at `low exp(step k)`, `k = 0, 1, ...`.
        low: least threshold of the table.
        largest: largest variance.
        latent: number of squares.
        levels: some thresholds of the table, spread evenly over the normal quantiles of their probabilities.
        at_levels: the bounds there.
    """

    log_cdf: Float64[Tensor, "batch grid"]
    low: Float64[Tensor, " batch"]
    largest: Float64[Tensor, " batch"]
    latent: int
    levels: Float64[Tensor, "batch level"]
    at_levels: Float64[Tensor, "batch level"]

    @classmethod
    def of(cls, variances: Float64[Tensor, "batch latent"]) -> "CentralTable":
        """Tabulate the form with these variances, at least one of a row positive.

        Raises:
            ValueError: a variance is negative or not finite, or all of a row are 0.

        >>> CentralTable.of(torch.ones(1, 2).double())(torch.ones(1).double()).round(decimals=3)
        tensor([0.3930], dtype=torch.float64)
        """
        largest = QuadraticForm.of(variances).variances.amax(dim=1)
        require(bool((largest > 0).all()), "a positive variance in each row", "none")
        spectra = variances / largest.unsqueeze(1)
        same = bool((spectra == spectra[:1]).all())  # up to a factor: one row is enough
        form = QuadraticForm.of(spectra[:1] if same else spectra)
        cdf = _tabulate(form).cummax(dim=1).values
        low = form.reach() * math.exp((1 - cdf.shape[1]) * _STEP)
        positive = cdf > 0
        log_cdf = torch.where(positive, torch.where(positive, cdf, 1.0).log(), _NEVER)
        wanted = torch.special.ndtr(_LEVELS.to(cdf.device)).expand(len(cdf), -1).contiguous()
        index = torch.searchsorted(cdf, wanted).clamp(max=cdf.shape[1] - 1)
        levels = low.unsqueeze(1) * (index * _STEP).exp()
        return cls(
            log_cdf=log_cdf.expand(len(variances), -1),
            low=low * largest,
            largest=largest,
            latent=variances.shape[1],
            levels=levels * largest.unsqueeze(1),
            at_levels=cdf.gather(1, index).expand(len(variances), -1),
        )

    def __call__(self, thresholds: Float64[Tensor, " batch"]) -> Float64[Tensor, " batch"]:
        """Bound `P(Q <= T)` from below; 0 where `T` is not positive (or NaN)."""
        positive = thresholds > 0
        position = (torch.where(positive, thresholds, self.low) / self.low).log() / _STEP
        position = position.clamp(max=self.log_cdf.shape[1] - 1.0)
        cell = position.clamp(min=0.0).floor().clamp(max=self.log_cdf.shape[1] - 2.0)
        left = self.log_cdf.gather(1, cell.long().unsqueeze(1)).squeeze(1)
        right = self.log_cdf.gather(1, cell.long().unsqueeze(1) + 1).squeeze(1)
        inside = torch.lerp(left, right, (position - cell).clamp(min=0.0))
        below = left + self.latent / 2 * _STEP * position
        return torch.where(positive, torch.where(position < 0, below, inside).exp(), 0.0)


def _tabulate(form: QuadraticForm) -> Float64[Tensor, "batch grid"]:
    """Bound `P(Q <= T)` at all points of the table: nodes are shared within a panel, so a matrix product does it."""
    octaves = _WIDE if form.variances.shape[1] <= 32 else _NARROW
    contour = find_contour(form.variances.shape[1], 0.0, 2.0**octaves)
    device = form.variances.device
    tops = 2.0 ** torch.arange(octaves - _OCTAVES, 1, octaves, dtype=torch.float64, device=device)
    points = torch.as_tensor(contour.squares, device=device) / tops.unsqueeze(-1)
    scaled = form.variances / form.reach().unsqueeze(1)
    modulus, angle = log_laplace(scaled, None, points.expand(len(scaled), -1, -1))
    weights = contour.weights(np.exp(_STEP * np.arange(1 - _POINTS * octaves, 1)))
    real, imaginary, size = (
        torch.as_tensor(part.copy(), device=device) for part in (weights.real, weights.imag, np.abs(weights))
    )
    sizes = modulus.exp()
    cdf = (sizes * angle.cos()) @ real - (sizes * angle.sin()) @ imaginary
    rounding = contour.rounding(scaled.shape[1], 0.0) * (sizes @ size)
    return (cdf - CDF_SLACK - rounding).flatten(1).clamp(0.0, 1 - CDF_SLACK)


def _column(values: Float64[Tensor, " batch"], like: Tensor) -> Float64[Tensor, " batch *ones"]:
    return values.view(-1, *[1] * (like.ndim - 1))
