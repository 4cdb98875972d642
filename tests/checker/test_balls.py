import math

import mpmath
import pytest
from flint import arb
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, chi2, ncx2

from vaerdict.checker import balls
from vaerdict.checker.balls import noncentral_cdf, normal_cdf, normal_quantile, tail_of_binomial


def exact_central(d: int, x: float) -> mpmath.mpf:
    return mpmath.gammainc(mpmath.mpf(d) / 2, 0, mpmath.mpf(x) / 2, regularized=True)


def exact_noncentral(d: int, x: float, noncentrality: float) -> mpmath.mpf:
    rate = mpmath.mpf(noncentrality) / 2

    def term(j: mpmath.mpf) -> mpmath.mpf:
        weight = mpmath.exp(j * mpmath.log(rate) - rate - mpmath.loggamma(j + 1)) if rate else mpmath.mpf(j == 0)
        return weight * exact_central(d + 2 * int(j), x)

    return mpmath.fsum(term(mpmath.mpf(j)) for j in range(int(noncentrality) + 200))


@settings(max_examples=30, deadline=None)
@given(d=st.integers(1, 60), x=st.floats(1e-6, 400))
def test_the_central_cdf_is_below_the_exact_one_and_near(d: int, x: float) -> None:
    with mpmath.workdps(40):
        exact = exact_central(d, x)
        found = mpmath.mpf(float(noncentral_cdf(d, arb(x), arb(0)).lower()))
    assert found <= exact * (1 + 1e-15)
    assert found >= exact - 1e-11


@pytest.mark.parametrize(
    ("d", "x", "noncentrality"), [(1, 0.3, 0.0), (2, 9.0, 4.0), (10, 130.0, 110.0), (30, 5.0, 0.2)]
)
def test_the_noncentral_cdf_is_below_the_exact_one_and_near(d: int, x: float, noncentrality: float) -> None:
    with mpmath.workdps(40):
        exact = exact_noncentral(d, x, noncentrality)
        found = mpmath.mpf(float(noncentral_cdf(d, arb(x), arb(noncentrality)).lower()))
    assert exact - 1e-11 <= found <= exact + 1e-16


@settings(max_examples=20, deadline=None)
@given(d=st.integers(1, 40), length=st.floats(0.1, 300), gap=st.floats(-3, 6))
def test_the_noncentral_cdf_is_scipys(d: int, length: float, gap: float) -> None:
    x = max(0.01, length + gap) ** 2
    found = float(noncentral_cdf(d, arb(x), arb(length) ** 2))
    assert math.isclose(found, ncx2.cdf(x, d, length**2), abs_tol=1e-10)


@pytest.mark.parametrize("d", [1024, 2048])
@pytest.mark.parametrize("noncentrality", [0.0, 50.0])
@pytest.mark.parametrize("gap", [-2.0, 0.5, 3.0])
def test_many_latents_lose_nothing(d: int, noncentrality: float, gap: float) -> None:
    x = d + noncentrality + gap * math.sqrt(2 * d)
    found = float(noncentral_cdf(d, arb(x), arb(noncentrality)))
    assert math.isclose(found, ncx2.cdf(x, d, noncentrality) if noncentrality else chi2.cdf(x, d), abs_tol=1e-10)


@pytest.mark.parametrize("d", [1, 4, 128])
@pytest.mark.parametrize("gap", [-1.0, 0.5, 2.0])
def test_a_mean_far_out_has_a_bound_by_cells(d: int, gap: float, monkeypatch: pytest.MonkeyPatch) -> None:
    length = 1000.0
    x = (math.sqrt(length**2 + d - 1) + gap) ** 2
    exact = noncentral_cdf(d, arb(x), arb(length) ** 2)
    monkeypatch.setattr(balls, "_LARGE", 10.0)
    found = noncentral_cdf(d, arb(x), arb(length) ** 2)
    assert exact - 2e-3 < found < exact + 1e-9


@pytest.mark.parametrize(("d", "x", "length"), [(4, 1e20, 1.0), (2048, (1e7 + 1.0) ** 2, 1e7), (3, 1.01e30, 1e15)])
def test_huge_distances_take_no_time(d: int, x: float, length: float) -> None:
    assert noncentral_cdf(d, arb(x), arb(length) ** 2) > 0.5


def test_nothing_is_within_a_negative_distance() -> None:
    assert noncentral_cdf(2, arb(-1), arb(1)) == 0


def test_normal_probabilities() -> None:
    with mpmath.workdps(30):
        assert abs(float(normal_cdf(arb(-3))) - float(mpmath.ncdf(-3))) < 1e-18
    assert (normal_cdf(normal_quantile(arb(0.9))) - arb(0.9)).contains(0)


@pytest.mark.parametrize(
    ("k", "n", "share"), [(0, 5, 0.3), (5, 5, 0.3), (1990, 2000, 0.98), (6, 5, 0.5), (5100, 10_000, 0.5)]
)
def test_the_tail_of_the_binomial(k: int, n: int, share: float) -> None:
    assert math.isclose(
        float(tail_of_binomial(k, n, arb(share))), binom.sf(k - 1, n, share), rel_tol=1e-9, abs_tol=1e-15
    )
