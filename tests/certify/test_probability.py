"""The probability bounds against exact values: mpmath, simulation, and each other."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mpmath import mp, mpf
from scipy.stats import chi2, norm

from vaerdict.certify.probability import (
    CDF_SLACK,
    barrett_probability,
    barrett_tail,
    gaussian_shift_probability,
    isotropic_probability,
)


def tensor(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def exact_ncx2(x: float, d: int, noncentrality: float) -> float:
    """Compute the non-central chi-square CDF at 50 digits as its Poisson mixture, around the heaviest terms."""
    with mp.workdps(50):
        half, center = mpf(noncentrality) / 2, int(noncentrality / 2)
        reach = int(30 * math.sqrt(center + 1)) + 60
        total = mpf(0)
        for j in range(max(0, center - reach), center + reach):
            weight = mp.exp(-half + j * mp.log(half) - mp.loggamma(j + 1)) if half else mpf(j == 0)
            total += weight * mp.gammainc(mpf(d) / 2 + j, 0, mpf(x) / 2, regularized=True)
        return float(total)


@pytest.mark.parametrize("d", [1, 2, 10, 32, 128])
@pytest.mark.parametrize("ratio", [0.3, 2.0, 8.0, 30.0])
@pytest.mark.parametrize("share", [0.0, 0.5, 0.9, 1.0])
def test_the_chi_square_used_is_within_a_tenth_of_its_slack(d: int, ratio: float, share: float) -> None:
    """`ratio` is t / s; the shift is a share of t."""
    truth = exact_ncx2(ratio**2, d, (share * ratio) ** 2)
    bound = float(isotropic_probability(d, ratio, tensor(share * ratio), tensor(1.0)))
    assert bound <= truth
    assert bound == pytest.approx(max(truth - CDF_SLACK, 0.0), abs=CDF_SLACK / 10)


@settings(max_examples=100, deadline=None)
@given(d=st.integers(1, 20), t=st.floats(0.1, 5), shift=st.floats(0, 6), std=st.floats(0.02, 2), more=st.floats(1, 1.5))
def test_isotropic_falls_with_shift_and_spread(d: int, t: float, shift: float, std: float, more: float) -> None:
    here = float(isotropic_probability(d, t, tensor(shift), tensor(std)))
    assert float(isotropic_probability(d, t, tensor(more * shift), tensor(std))) <= here + 1e-12
    assert float(isotropic_probability(d, t, tensor(shift), tensor(more * std))) <= here + 1e-12
    assert 0 <= here <= 1 - CDF_SLACK


@pytest.mark.parametrize("scale", [1e-160, 1e-6, 1e6, 1e150])
def test_the_unit_of_length_does_not_matter(scale: float) -> None:
    one = isotropic_probability(3, 2.0, tensor(0.7), tensor(0.8))
    assert float(isotropic_probability(3, 2.0 * scale, tensor(0.7 * scale), tensor(0.8 * scale))) == pytest.approx(
        float(one), rel=1e-9
    )


def test_far_shifts_keep_a_bound_where_the_exact_cdf_gives_up() -> None:
    assert float(isotropic_probability(3, 1.001, tensor(1.0), tensor(1e-6))) == pytest.approx(1.0, abs=2e-9)


@pytest.mark.parametrize("d", [2, 3, 10, 128])
def test_barretts_tail_is_above_the_chi_squares(d: int) -> None:
    u = torch.linspace(0.01, 5.0 * d + 50, 400, dtype=torch.float64)
    tail = barrett_tail(d, u).numpy()
    assert (tail >= chi2.sf(u.numpy(), d) * (1 - 1e-12)).all()
    assert (np.diff(tail) <= 1e-15).all()


def test_barretts_tail_says_nothing_in_one_dimension() -> None:
    assert barrett_tail(1, tensor(50.0)).item() == 1.0


@settings(max_examples=100, deadline=None)
@given(
    d=st.integers(1, 30),
    t=st.floats(0.1, 5),
    shift=st.floats(0, 6),
    sigma=st.floats(0.01, 2),
)
def test_barrett_is_never_above_the_exact_probability(d: int, t: float, shift: float, sigma: float) -> None:
    exact = float(isotropic_probability(d, t, tensor(shift), tensor(math.sqrt(2) * sigma)))
    theirs = barrett_probability(d, t, tensor(shift), tensor(2 * math.sqrt(d) * sigma), tensor(math.sqrt(2) * sigma))
    assert float(theirs) <= exact + 2 * CDF_SLACK


def test_barrett_holds_for_anisotropic_moving_posteriors_by_simulation() -> None:
    rng = np.random.default_rng(0)
    for _ in range(30):
        d = int(rng.integers(2, 6))
        sigma, t, c_rho = rng.uniform(0.01, 0.5, d), rng.uniform(0.5, 3), rng.uniform(0, 0.3)
        direction, change = rng.normal(size=d), np.abs(rng.normal(size=d))
        shift = rng.uniform(0, t)
        moved = sigma + c_rho * change / np.linalg.norm(change)
        mean = shift * direction / np.linalg.norm(direction)
        distance = np.linalg.norm(mean + rng.normal(size=(20_000, d)) * np.sqrt(sigma**2 + moved**2), axis=1)
        scale = tensor(c_rho + 2 * np.linalg.norm(sigma))
        bound = float(barrett_probability(d, t, tensor(shift), scale, scale))
        assert bound <= (distance <= t).mean() + 4 * math.sqrt(0.25 / 20_000)


def test_gaussian_shift_is_attained_by_half_spaces() -> None:
    threshold, move = 0.7, 1.3
    truth = norm.cdf(threshold - move)
    bound = gaussian_shift_probability(tensor(norm.cdf(threshold)), tensor(move))
    assert float(bound) == pytest.approx(truth, abs=2 * CDF_SLACK)
    assert float(bound) <= truth
