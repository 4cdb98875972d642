import math
from collections.abc import Sequence

import numpy as np
import pytest
from flint import arb
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import simpson
from scipy.stats import ncx2

from vaerdict.checker.quadratic import Quadratic, coordinate_probability, reflection_probability


def imhof(variances: Sequence[float], shifts: Sequence[float], x: float) -> float:
    """Imhof's inversion of the characteristic function (1961) by Simpson's rule: another contour than the checker's."""
    u = np.linspace(1e-12, 600.0, 2_000_001)
    angle, log_size = -x * u / 2, np.zeros_like(u)
    for v, c in zip(variances, shifts, strict=True):
        y = v * u
        angle += (np.arctan(y) + c * c * y / (1 + y * y)) / 2
        log_size += np.log1p(y * y) / 4 + c * c * y * y / (2 * (1 + y * y))
    return 0.5 - float(simpson(np.sin(angle) / u * np.exp(-log_size), x=u)) / math.pi


@pytest.mark.parametrize(
    ("variances", "shifts", "x"),
    [
        ([1.0, 4.0, 0.3, 0.5, 0.6, 0.9], [0.0] * 6, 7.0),
        ([1.0, 4.0, 0.3, 0.5, 0.6, 0.9], [1.0, 0.5, 2.0, 0.0, 1.5, 0.3], 12.0),
    ],
)
def test_the_cdf_is_imhofs(variances: list[float], shifts: list[float], x: float) -> None:
    form = Quadratic(variances, shifts)
    assert math.isclose(float(form.cdf(arb(x))), imhof(variances, shifts, x), abs_tol=2e-10)


@settings(max_examples=15, deadline=None)
@given(
    first=st.floats(1e-8, 10),
    ratio=st.floats(1.01, 1e6),
    share=st.floats(0.01, 8),
)
def test_pairs_of_equal_variances_are_sums_of_exponentials(first: float, ratio: float, share: float) -> None:
    second = first * ratio
    x = share * (first + second)
    slow, fast = second * math.exp(-x / (2 * second)), first * math.exp(-x / (2 * first))
    exact = 1 - (slow - fast) / (second - first)
    found = Quadratic([first, first, second, second]).cdf(arb(x))
    assert found.rad() < 1e-12
    assert math.isclose(float(found), exact, abs_tol=1e-11 * ratio / (ratio - 1))


@pytest.mark.parametrize(
    ("d", "v", "c", "x"), [(1, 0.5, 0.0, 0.3), (10, 0.01, 3.0, 0.9), (40, 2.0, 0.1, 90.0), (4, 1e-4, 50.0, 1.0)]
)
def test_equal_variances_are_a_chi_square(d: int, v: float, c: float, x: float) -> None:
    found = float(Quadratic([v] * d, [c] * d).cdf(arb(x)))
    assert math.isclose(found, ncx2.cdf(x / v, d, d * c * c), abs_tol=1e-11)


def test_collapsed_latents_beside_sharp_ones() -> None:
    found = Quadratic([2.0] * 2 + [1e-8] * 5).cdf(arb(4))
    assert found.rad() < 1e-12
    assert 1 - math.exp(-1) - 1e-7 < float(found) < 1 - math.exp(-1)


def test_nothing_is_within_a_negative_distance() -> None:
    assert Quadratic([1.0]).cdf(arb(-1)) == 0
    assert Quadratic([1.0]).cdf(arb(0)) == 0


@pytest.mark.parametrize("spectrum", [[0.04] * 4, [0.01, 0.02, 0.2], [2.0, 2.0, 1e-4, 1e-4], [0.3]])
@pytest.mark.parametrize("shift", [0.0, 0.2, 0.7])
def test_reflection_is_below_every_direction_and_above_the_triangle(spectrum: list[float], shift: float) -> None:
    t = 1.5 * math.sqrt(sum(spectrum)) + shift
    found = reflection_probability(Quadratic(spectrum), arb(t), arb(shift), 1.0)
    for i in range(len(spectrum)):
        moves = [shift / math.sqrt(v) if i == j else 0.0 for j, v in enumerate(spectrum)]
        if moves[i] ** 2 < 1000:
            assert found < Quadratic(spectrum, moves).cdf(arb(t) ** 2) + 1e-14
    assert found > Quadratic(spectrum).cdf((arb(t) - shift) ** 2) - 1e-14


def test_too_large_a_shift_leaves_nothing() -> None:
    assert reflection_probability(Quadratic([1.0]), arb(1), arb(1), 0.5) == 0
    assert coordinate_probability([arb(1), arb(1)], [3.0, 0.0], arb(-1)) == 0


def test_crowded_coordinates_are_below_the_truth_and_near() -> None:
    """One coordinate is moved by 50 of its standard deviations: nearly a plain length."""
    variances, shifts, t = [0.0001, 0.04, 0.04], [0.5, 0.0, 0.0], 0.8
    found = coordinate_probability([arb(v) for v in variances], shifts, arb(t))
    within = 1 - math.exp(-(t * t - 0.25) / (2 * 0.04))
    assert within - 0.1 < float(found) < within
