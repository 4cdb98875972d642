"""Generalised chi-square: against closed forms and series in 50 digits, quadrature, scipy, and at the edges."""

import math
from collections.abc import Sequence
from itertools import pairwise

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import chi2, ncx2

from vaerdict.certify.contour import find_contour
from vaerdict.certify.probability import CDF_SLACK
from vaerdict.certify.quadratic import MOST_NONCENTRAL, CentralTable, QuadraticForm

TENTH = CDF_SLACK / 10


def row(*numbers: float) -> torch.Tensor:
    return torch.tensor([numbers], dtype=torch.float64)


def bound(variances: Sequence[float], threshold: float, shifts: Sequence[float] | None = None) -> float:
    form = QuadraticForm.of(row(*variances), None if shifts is None else row(*shifts))
    return float(form.cdf(row(threshold)[0]))


def exact_pairs(variances: Sequence[float], threshold: float) -> mpmath.mpf:
    """Each variance twice: a sum of exponential variables, in closed form. Variances must differ."""
    with mpmath.workdps(60):
        v = [mpmath.mpf(x) for x in variances]
        total = mpmath.mpf(1)
        for j, own in enumerate(v):
            weight = mpmath.fprod(own / (own - other) for k, other in enumerate(v) if k != j)
            total -= weight * mpmath.exp(-mpmath.mpf(threshold) / (2 * own))
        return total


def exact_ruben(variances: Sequence[float], shifts: Sequence[float], threshold: float) -> mpmath.mpf:
    """Ruben (1962), Farebrother (AS 204), summed until the weights that are left cannot matter."""
    with mpmath.workdps(50):
        v, c = [mpmath.mpf(x) for x in variances], [mpmath.mpf(x) ** 2 for x in shifts]
        beta, d = min(v), len(v)
        gamma = [1 - beta / x for x in v]
        weights = [mpmath.exp(-mpmath.fsum(c) / 2) * mpmath.fprod(mpmath.sqrt(beta / x) for x in v)]
        powers, steps, missing = [mpmath.mpf(1)] * d, [], 1 - weights[0]
        x = mpmath.mpf(threshold) / (2 * beta)
        total = weights[0] * mpmath.gammainc(mpmath.mpf(d) / 2, 0, x, regularized=True)
        central = mpmath.gammainc(mpmath.mpf(d) / 2, 0, x, regularized=True)
        k = 0
        while missing * central > mpmath.mpf(10) ** -20:
            k += 1
            steps.append(mpmath.fsum(p * (g + k * n * (1 - g)) for p, g, n in zip(powers, gamma, c, strict=True)) / 2)
            powers = [p * g for p, g in zip(powers, gamma, strict=True)]
            weights.append(mpmath.fsum(steps[k - 1 - r] * weights[r] for r in range(k)) / k)
            a = mpmath.mpf(d) / 2 + k - 1
            central -= x**a * mpmath.exp(-x) / mpmath.gamma(a + 1)
            total += weights[-1] * central
            missing -= weights[-1]
        return total


def imhof(variances: Sequence[float], shifts: Sequence[float], threshold: float) -> float:
    """Numerical inversion (Imhof 1961)."""
    v, c = np.array(variances), np.array(shifts) ** 2

    def integrand(u: float) -> float:
        wave = (np.arctan(v * u) + c * v * u / (1 + (v * u) ** 2)).sum() / 2 - threshold * u / 2
        decay = np.prod((1 + (v * u) ** 2) ** 0.25) * np.exp((c * (v * u) ** 2 / (1 + (v * u) ** 2)).sum() / 2)
        return math.sin(wave) / (u * decay)

    pieces = np.concatenate([[1e-300], np.geomspace(0.1, 3000, 40) / v.max()])
    parts = (quad(integrand, low, high, epsabs=1e-11, epsrel=1e-11, limit=200)[0] for low, high in pairwise(pieces))
    return 0.5 - sum(parts) / math.pi


SPECTRA = {
    "even": [1.0, 1.1, 0.9, 1.2, 0.8],
    "geometric": [2.0**-k for k in range(8)],
    "collapsed": [2.0, 1.9, 1e-4, 1.1e-4, 1.2e-4],
    "far": [1.0, 1e-2, 1e-5, 1e-8],
    "one": [0.3],
}


@pytest.mark.parametrize("variances", SPECTRA.values(), ids=SPECTRA)
@pytest.mark.parametrize("part", [0.02, 0.3, 1.0, 1.7, 4.0, 12.0])
def test_central_form_in_closed_form(variances: list[float], part: float) -> None:
    threshold = part * 2 * sum(variances)
    exact = exact_pairs(variances, threshold)
    ours = bound([*variances, *variances], threshold)
    assert ours <= exact
    assert abs(exact - CDF_SLACK - ours) < TENTH or (exact < 2 * CDF_SLACK and ours >= 0)


@settings(max_examples=40, deadline=None)
@given(
    exponents=st.lists(st.floats(-8, 0), min_size=1, max_size=7, unique_by=lambda x: round(x, 2)),
    part=st.floats(1e-3, 20),
)
def test_never_above_the_truth(exponents: list[float], part: float) -> None:
    variances = [10.0**e for e in exponents]
    threshold = part * 2 * sum(variances)
    exact = exact_pairs(variances, threshold)
    ours = bound([*variances, *variances], threshold)
    assert max(0.0, float(exact) - CDF_SLACK - TENTH) <= ours <= exact
    table = float(CentralTable.of(row(*variances, *variances))(row(threshold)[0]))
    assert 0.99 * float(exact) - 1e-6 <= table <= exact


@settings(max_examples=12, deadline=None)
@given(
    squares=st.lists(st.tuples(st.floats(0.3, 1.0), st.floats(0, 3)), min_size=1, max_size=6),
    part=st.floats(0.1, 2.5),
)
def test_noncentral_form_in_fifty_digits(squares: list[tuple[float, float]], part: float) -> None:
    variances, shifts = zip(*squares, strict=True)
    threshold = part * sum(v * (1 + c * c) for v, c in squares)
    exact = exact_ruben(variances, shifts, threshold)
    ours = bound(variances, threshold, shifts)
    assert max(0.0, float(exact) - CDF_SLACK - TENTH) <= ours <= exact + mpmath.mpf(10) ** -19


@pytest.mark.parametrize(
    ("variances", "shifts"),
    [
        ([2.0, 0.5, 0.1], [0.0, 0.0, 0.0]),
        ([2.0, 0.5, 0.1], [1.0, -2.0, 3.0]),
        ([1.0, 0.7, 0.5, 0.2, 0.02], [4.0, 0.5, 0.0, 1.0, 6.0]),
        (np.geomspace(1, 0.01, 10).tolist(), np.linspace(0, 3, 10).tolist()),
    ],
)
@pytest.mark.parametrize("part", [0.4, 1.0, 1.6])
def test_against_imhof(variances: list[float], shifts: list[float], part: float) -> None:
    threshold = part * sum(v * (1 + c * c) for v, c in zip(variances, shifts, strict=True))
    assert bound(variances, threshold, shifts) == pytest.approx(imhof(variances, shifts, threshold), abs=1e-8)


@pytest.mark.parametrize("latent", [1, 2, 10, 64])
@pytest.mark.parametrize("noncentral", [0.0, 5.0, 100.0, 400.0])
def test_against_scipy_for_equal_variances(latent: int, noncentral: float) -> None:
    shifts = [math.sqrt(noncentral / latent)] * latent
    mean, spread = latent + noncentral, math.sqrt(2 * latent + 4 * noncentral)
    for threshold in (mean + k * spread for k in (-2.0, -0.5, 0.0, 1.0, 3.0)):
        if threshold > 0:
            exact = ncx2.cdf(threshold, latent, noncentral)
            ours = bound([0.37] * latent, 0.37 * threshold, shifts)
            assert exact - CDF_SLACK - (2 * TENTH if noncentral <= 100 else 1e-8) <= ours <= exact + 1e-12


def test_the_largest_noncentrality_is_still_sound_and_useful() -> None:
    shifts, mean = [math.sqrt(MOST_NONCENTRAL / 10)] * 10, 10 + MOST_NONCENTRAL
    for threshold in (0.9 * mean, mean, 1.1 * mean, 3 * mean, 1e9 * mean):
        exact = ncx2.cdf(threshold, 10, MOST_NONCENTRAL) if threshold < 1e6 else 1.0
        assert exact - 1e-6 <= bound([1.0] * 10, threshold, shifts) <= exact


@pytest.mark.parametrize("latent", [1, 10, 64, 300])
@pytest.mark.parametrize("ratio", [1.0, 2.0])
def test_what_the_contour_leaves_out(latent: int, ratio: float) -> None:
    """On spectra at the ends: all mass at 0 and one variance, for all thresholds that the nodes are meant for."""
    contour = find_contour(latent, 0.0, ratio)
    parts = np.array([1.0, 0.5 + 0.5 / ratio, 1 / ratio])
    for part, weights in zip(parts, contour.weights(parts).T, strict=True):
        rounding = contour.rounding(latent, 0.0)
        assert abs(weights.sum().real - 1) < TENTH + rounding * abs(weights).sum()
        for threshold in np.linspace(0.5, 1.2, 5) * latent:
            terms = weights * np.exp(-latent / 2 * np.log(1 + 2 * contour.squares * part / threshold))
            assert abs(terms.sum().real - chi2.cdf(threshold, latent)) < TENTH + rounding * abs(terms).sum()


def test_more_coordinates_than_a_contour_serves_are_refused() -> None:
    with pytest.raises(ValueError, match="expected fewer coordinates"):
        find_contour(10**6)


def test_edges() -> None:
    form = QuadraticForm.of(row(1.0, 4.0).expand(7, -1))
    values = form.cdf(torch.tensor([math.nan, -1.0, 0.0, 1e-320, 1e-3, 1e3, math.inf], dtype=torch.float64))
    assert values[:4].tolist() == [0.0, 0.0, 0.0, 0.0]
    assert 0 < values[4] < 1e-3
    assert ((values[5:] > 1 - 1e-8) & (values[5:] < 1)).all()
    assert bound([0.0, 0.0], 1.0) == pytest.approx(1.0, abs=1e-8)
    assert bound([0.0, 1.0], 1.0) == pytest.approx(chi2.cdf(1.0, 1), abs=1e-8)


@pytest.mark.parametrize("scale", [1e-280, 1e-30, 1e30, 1e280])
def test_units_do_not_matter(scale: float) -> None:
    assert bound([scale, 3 * scale], 2 * scale) == pytest.approx(bound([1.0, 3.0], 2.0), abs=1e-12)


def test_one_row_may_have_many_thresholds() -> None:
    form = QuadraticForm.of(row(1.0, 2.0, 3.0).expand(2, -1))
    table = form.cdf(row(1.0, 5.0, 20.0).expand(2, -1))
    single = [bound([1.0, 2.0, 3.0], threshold) for threshold in (1.0, 5.0, 20.0)]
    assert table.tolist() == [pytest.approx(single, abs=1e-12)] * 2


@pytest.mark.parametrize("variances", [[-1.0, 1.0], [math.nan, 1.0], [math.inf, 1.0]])
def test_variances_that_are_none(variances: list[float]) -> None:
    with pytest.raises(ValueError, match="expected finite `variances` >= 0"):
        QuadraticForm.of(row(*variances))


@pytest.mark.parametrize("shift", [math.nan, math.inf, 40.0])
def test_shifts_that_are_too_large(shift: float) -> None:
    with pytest.raises(ValueError, match="expected squared `shifts`"):
        QuadraticForm.of(row(1.0, 1.0), row(0.0, shift))


def test_reach_is_reached_as_seldom_as_it_says() -> None:
    assert float(QuadraticForm.of(row(2.0)).reach(5.0)) >= 2 * chi2.isf(math.exp(-5), 1)
    shifted = QuadraticForm.of(row(1.0, 1.0), row(2.0, 3.0)).reach(5.0)
    assert float(shifted) >= ncx2.isf(math.exp(-5), 2, 13.0)


@pytest.mark.parametrize("latent", [1, 2, 10, 64, 256])
def test_table_bounds_and_follows_the_distribution(latent: int) -> None:
    thresholds = latent * torch.logspace(-7, 3, 101, dtype=torch.float64)
    table = CentralTable.of(torch.full((101, latent), 0.5, dtype=torch.float64))(thresholds / 2)
    exact = torch.from_numpy(chi2.cdf(thresholds.numpy(), latent))
    assert (table <= exact).all()
    assert (table >= exact - 4e-3).all()
    assert (table.diff() >= -1e-12).all()
    assert (table < 1).all()


def test_table_at_the_edges() -> None:
    table = CentralTable.of(row(1.0, 1e-8).expand(5, -1))
    values = table(torch.tensor([math.nan, -1.0, 0.0, 1e-300, math.inf], dtype=torch.float64))
    assert values[:3].tolist() == [0.0, 0.0, 0.0]
    assert values[3] < 1e-100
    assert 1 - 1e-8 < values[4] < 1
    with pytest.raises(ValueError, match="expected a positive variance"):
        CentralTable.of(row(0.0, 0.0))
