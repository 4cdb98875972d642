"""Exact binomials against rational arithmetic and enumerated coverage; margins against a closed form."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import Float64
from scipy.special import ndtri
from scipy.stats import binom, binomtest
from torch import Tensor

from vaerdict.certify.draws import draws_at_once, noise_pieces, number_samples
from vaerdict.certify.probability import gaussian_shift_probability
from vaerdict.certify.statistics import (
    MOST_TRIALS,
    clopper_pearson_lower,
    margins_from_counts,
    order_statistic_index,
    require_samples,
    samples_needed,
    split_confidence,
)

CONFIDENCES = st.sampled_from([0.5, 0.8, 0.95, 0.999, 1 - 1e-6])


def upper_tail(successes: int, trials: int, p: float) -> Fraction:
    """`P[Bin(trials, p) >= successes]`, exact."""
    q = Fraction(p)
    return sum(
        (math.comb(trials, k) * q**k * (1 - q) ** (trials - k) for k in range(successes, trials + 1)), Fraction(0)
    )


# --- Clopper and Pearson ---


@given(st.integers(1, 60).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))), CONFIDENCES)
@settings(max_examples=60, deadline=None)
def test_lower_bound_is_below_the_exact_one_and_hardly(counts: tuple[int, int], confidence: float) -> None:
    successes, trials = counts
    low, alpha = clopper_pearson_lower(successes, trials, confidence), 1 - Fraction(confidence)
    assert successes == 0 or upper_tail(successes, trials, low) <= alpha
    assert upper_tail(successes, trials, low * (1 + 1e-11) + 1e-15) > alpha


@pytest.mark.parametrize(("successes", "trials"), [(0, 10), (3, 10), (10, 10), (999, 1000)])
def test_lower_bound_is_the_one_of_scipys_test(successes: int, trials: int) -> None:
    interval = binomtest(successes, trials, alternative="greater").proportion_ci(0.99, "exact")
    assert clopper_pearson_lower(successes, trials, 0.99) == pytest.approx(interval.low, abs=1e-12)


@pytest.mark.parametrize("trials", [1000, 100_000, MOST_TRIALS])
@pytest.mark.parametrize("share", [1e-4, 0.5, 0.99])
def test_many_trials_stay_on_the_safe_side_of_the_binomial(trials: int, share: float) -> None:
    """The tail is summed here from logarithms, not by the routine that was inverted."""
    mpmath = pytest.importorskip("mpmath")
    successes, alpha = max(1, int(share * trials)), 1 - 0.999
    with mpmath.workdps(30):
        p = mpmath.mpf(clopper_pearson_lower(successes, trials, 0.999))
        log_term = mpmath.loggamma(trials + 1) - mpmath.loggamma(successes + 1)
        log_term += -mpmath.loggamma(trials - successes + 1) + successes * mpmath.log(p)
        term = mpmath.exp(log_term + (trials - successes) * mpmath.log(1 - p))
        total, k, odds = term, successes, p / (1 - p)
        while k < trials and term > total * 1e-25:
            term *= odds * (trials - k) / (k + 1)
            k, total = k + 1, total + term
        assert total <= alpha
        assert total > alpha * (1 - 1e-3)


@given(st.integers(1, 80), st.floats(0.01, 0.99), CONFIDENCES)
@settings(max_examples=60, deadline=None)
def test_lower_bound_covers_as_often_as_it_says(trials: int, truth: float, confidence: float) -> None:
    wrong = [k for k in range(trials + 1) if clopper_pearson_lower(k, trials, confidence) > truth]
    assert sum(binom.pmf(wrong, trials, truth)) <= (1 - confidence) * (1 + 1e-9)


@pytest.mark.parametrize(
    ("successes", "trials", "confidence", "said"),
    [
        (1, 0, 0.9, "`trials` from 1"),
        (1, MOST_TRIALS + 1, 0.9, "`trials` from 1"),
        (3, 2, 0.9, "`successes` from 0 to 2, got 3"),
        (-1, 2, 0.9, "`successes` from 0"),
        (1, 2, 1.0, "`confidence` in"),
        (1, 2, math.nan, "`confidence` in"),
    ],
)
def test_what_is_no_count_is_refused(successes: int, trials: int, confidence: float, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        clopper_pearson_lower(successes, trials, confidence)


# --- how many draws ---


@given(st.floats(0.0, 0.999), CONFIDENCES)
@settings(max_examples=60, deadline=None)
def test_needed_draws_are_the_fewest(p: float, confidence: float) -> None:
    needed, alpha = samples_needed(p, confidence), 1 - Fraction(confidence)
    assert Fraction(p) ** needed < alpha
    assert needed == 1 or Fraction(p * (1 + 1e-10)) ** (needed - 1) >= alpha


def test_too_few_draws_are_told_how_many_are_needed() -> None:
    require_samples("samples", 6905, 0.999, 0.999)
    with pytest.raises(ValueError, match=r"expected `samples` >= 6905 to show a probability above 0.999 .* got 6904"):
        require_samples("samples", 6904, 0.999, 0.999)
    with pytest.raises(ValueError, match="that 10000000 draws can exceed"):
        samples_needed(1 - 1e-9, 0.999)


# --- order statistics ---


@given(st.integers(1, 60), st.floats(0.0, 0.95), CONFIDENCES)
@settings(max_examples=60, deadline=None)
def test_order_statistic_is_the_last_that_the_binomial_allows(trials: int, share: float, confidence: float) -> None:
    if trials < samples_needed(share, confidence):
        with pytest.raises(ValueError, match="expected `trials` >= "):
            order_statistic_index(trials, share, confidence)
        return
    k = order_statistic_index(trials, share, confidence)
    assert 1 <= k <= trials
    # P[Bin(n, 1 - share) >= k] >= confidence, written with the complement
    assert upper_tail(trials - k + 1, trials, share) <= 1 - Fraction(confidence)
    # one more would be too many, but for what rounding takes off
    assert k == trials or upper_tail(trials - k, trials, share * (1 + 1e-10) + 1e-15) > 1 - Fraction(confidence)


@pytest.mark.parametrize("share", [0.25, 0.5, 0.9])
@pytest.mark.parametrize("trials", [50, 400])
def test_order_statistic_covers_distributions_with_ties(trials: int, share: float) -> None:
    """Coins with `P(1) = share` exactly: the value 1 is too large, since `P(X >= 1) > share` fails."""
    confidence = 0.9
    k = order_statistic_index(trials, share, confidence)
    failure = binom.cdf(k - 1, trials, 1 - share)  # the k-th smallest is 1: fewer than k zeros
    assert failure <= 1 - confidence
    assert failure > 0.2 * (1 - confidence)  # and not by being far too careful


@pytest.mark.parametrize("kind", ["continuous", "dice"])
def test_order_statistic_covers_in_simulation(kind: str) -> None:
    rng, share, confidence, trials, repeats = np.random.default_rng(0), 0.7, 0.8, 80, 4000
    draws = rng.random((repeats, trials)) if kind == "continuous" else rng.integers(0, 10, (repeats, trials)) / 10
    at = np.sort(draws, axis=1)[:, order_statistic_index(trials, share, confidence) - 1]
    probability = 1 - at  # P(X >= at): for the uniform, and for tenths with equal probabilities
    wrong = float(np.mean(probability <= share + 1e-12))
    assert wrong <= 0.2 + 4 * math.sqrt(0.16 / repeats)
    assert wrong > 0.05


# --- confidence that is shared ---


@given(st.floats(0.01, 1 - 1e-9), st.integers(1, 1000))
@settings(max_examples=100, deadline=None)
def test_parts_of_a_confidence_add_up(confidence: float, parts: int) -> None:
    each = split_confidence(confidence, parts)
    assert parts * (1 - Fraction(each)) <= 1 - Fraction(confidence)
    assert parts * (1 - Fraction(each) + Fraction(1, 2**51)) > 1 - Fraction(confidence)


def test_a_confidence_that_cannot_be_split_is_refused() -> None:
    with pytest.raises(ValueError, match="that can be split in 1000 parts"):
        split_confidence(1 - 1e-16, 1000)
    with pytest.raises(ValueError, match="`parts` >= 1"):
        split_confidence(0.9, 0)


# --- margins ---


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_margins_are_the_gaussian_shifts(scale: float) -> None:
    def shifted(clean: Float64[Tensor, " batch"], rho: Float64[Tensor, " batch"]) -> Float64[Tensor, " batch"]:
        return gaussian_shift_probability(clean, rho / scale)

    counts = [0, 500, 600, 999, 1000]
    clean, margins = margins_from_counts(counts, 1000, confidence=0.99, p=0.5, shifted=shifted)
    assert clean.tolist() == [clopper_pearson_lower(count, 1000, 0.99) for count in counts]
    exact = [scale * max(0.0, float(ndtri(low))) for low in clean.tolist()]
    assert margins.tolist() == pytest.approx(exact, rel=1e-6, abs=1e-12 * scale)
    assert all(margin <= limit for margin, limit in zip(margins.tolist(), exact, strict=True))
    assert bool((shifted(clean, margins)[2:] > 0.5).all())


def test_a_probability_that_never_falls_has_a_finite_margin() -> None:
    _, margins = margins_from_counts([90], 100, confidence=0.9, p=0.5, shifted=lambda clean, rho: clean)
    assert 1e20 < margins.item() < math.inf


def test_no_margin_from_nan_or_too_few_draws() -> None:
    with pytest.raises(FloatingPointError, match="not a number"):
        margins_from_counts([90], 100, confidence=0.9, p=0.5, shifted=lambda clean, rho: rho * math.nan)
    with pytest.raises(ValueError, match="expected `samples` >= 10 "):
        margins_from_counts([9], 9, confidence=0.999, p=0.5, shifted=lambda clean, rho: clean)


# --- draws ---


def test_pieces_cover_all_draws_and_never_repeat() -> None:
    whole = torch.cat(list(noise_pieces(0, 3, "test", 250, 4, at_once=100)))
    assert whole.shape == (250, 4)
    assert len(whole.unique(dim=0)) == 250
    other = torch.cat(list(noise_pieces(0, 3, "other", 250, 4, at_once=100)))
    assert not bool((whole == other).any())
    assert draws_at_once(10**9) == 1


def test_one_index_per_image() -> None:
    assert number_samples(2, [7, 5]) == [7, 5]
    with pytest.raises(ValueError, match="expected 2 sample ids, got 1"):
        number_samples(2, [7])
