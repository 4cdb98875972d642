"""Exact binomial statements, and the margins that they give (THEORY 7.4)."""

import math
from collections.abc import Callable, Sequence
from fractions import Fraction

import torch
from jaxtyping import Float64
from scipy.stats import beta
from torch import Tensor

from vaerdict.certify.margin import solve_margin
from vaerdict.options import require

Shifted = Callable[[Float64[Tensor, " batch"], Float64[Tensor, " batch"]], Float64[Tensor, " batch"]]
"""From lower bounds of clean probabilities and radii to lower bounds of the probabilities anywhere within the radii."""

MOST_TRIALS = 10_000_000
"""More trials are refused: up to here, tests show that what is taken off scipy's quantile outweighs its error."""

_DOUBLINGS = 100


def clopper_pearson_lower(successes: int, trials: int, confidence: float) -> float:
    """Give the exact one-sided lower confidence bound of a probability (Clopper and Pearson 1934), rounded down.

    Raises:
        ValueError: `trials` outside [1, 10^7], `successes` outside [0, `trials`], `confidence` outside (0, 1).

    >>> round(clopper_pearson_lower(1000, 1000, 0.999), 4)
    0.9931
    """
    require(1 <= trials <= MOST_TRIALS, f"`trials` from 1 to {MOST_TRIALS}", trials)
    require(0 <= successes <= trials, f"`successes` from 0 to {trials}", successes)
    require(0 < confidence < 1, "`confidence` in (0, 1)", confidence)
    if successes == 0:
        return 0.0
    quantile = float(beta.ppf(1 - confidence, successes, trials - successes + 1))
    return quantile * (1 - 1e-14 - 5e-16 * trials)


def samples_needed(p: float, confidence: float) -> int:
    """Give the fewest draws that can show a probability above `p`: the least `n` with `(1 - confidence)^(1/n) > p`.

    Raises:
        ValueError: `p` outside [0, 1) or so close to 1 that 10^7 draws cannot show it.

    >>> samples_needed(0.5, 0.999)
    10
    """
    require(0 <= p < 1, "`p` in [0, 1)", p)
    few, enough = 0, MOST_TRIALS
    require(clopper_pearson_lower(enough, enough, confidence) > p, f"`p` that {enough} draws can exceed", p)
    while enough - few > 1:
        middle = (few + enough) // 2
        if clopper_pearson_lower(middle, middle, confidence) > p:
            enough = middle
        else:
            few = middle
    return enough


def require_samples(name: str, trials: int, p: float, confidence: float) -> None:
    """Refuse a number of draws with which even successes only would not show a probability above `p`.

    Raises:
        ValueError: says how many draws are needed.

    >>> require_samples("samples", 9, 0.5, 0.999)
    Traceback (most recent call last):
    ValueError: expected `samples` >= 10 to show a probability above 0.5 with confidence 0.999, got 9
    """
    needed = samples_needed(p, confidence)
    why = f"to show a probability above {p:g} with confidence {confidence:.6g}"
    require(trials >= needed, f"`{name}` >= {needed} {why}", trials)


def order_statistic_index(trials: int, share: float, confidence: float) -> int:
    """Give the largest `k` such that `P(X >= X_(k)) > share` with the confidence, `X_(k)` the k-th smallest draw.

    It is the largest `k` with `P[Bin(n, 1 - share) >= k] >= confidence`, and holds for every distribution, ties
    included. Proof: `P(X >= q)` falls in `q` and is left-continuous, so the good `q`, those with `P(X >= q) > share`,
    are all `q <= s` or all `q < s` for some `s`. In the first case `P(X > s) <= share` (the limit from above), and
    `X_(k) > s` means that fewer than `k` draws are `<= s`, each of which is so with probability `>= 1 - share`. In the
    second `P(X >= s) <= share`, and `X_(k) >= s` means that fewer than `k` draws are `< s`, with the same probability.
    So the failure has at most the probability `P[Bin(n, 1 - share) < k]`.

    `P[Bin(n, 1 - share) < k] = P[Bin(n, share) >= n - k + 1] <= alpha` says that Clopper and Pearson's bound for the
    `n - k + 1` draws that are at least `X_(k)` reaches `share`; that is how `k` is found.

    Raises:
        ValueError: no `k` exists; says how many draws are needed.

    >>> order_statistic_index(1000, 0.5, 0.999)
    451
    """
    require_samples("trials", trials, share, confidence)
    few, enough = 0, trials  # of draws that are at least X_(k)
    while enough - few > 1:
        middle = (few + enough) // 2
        if clopper_pearson_lower(middle, trials, confidence) > share:
            enough = middle
        else:
            few = middle
    return trials - enough + 1


def split_confidence(confidence: float, parts: int) -> float:
    """Give the confidence that each of `parts` statements needs for all to hold with `confidence` (Bonferroni).

    Rounded up: `parts * (1 - result) <= 1 - confidence` exactly.

    Raises:
        ValueError: `confidence` outside (0, 1), `parts` < 1, or nothing below 1 is enough.

    >>> round(split_confidence(0.99, 10), 12)
    0.999
    """
    require(0 < confidence < 1, "`confidence` in (0, 1)", confidence)
    require(parts >= 1, "`parts` >= 1", parts)
    wrong = 1 - Fraction(confidence)
    each = float(1 - wrong / parts)
    while parts * (1 - Fraction(each)) > wrong:
        each = math.nextafter(each, math.inf)
    require(each < 1, f"`confidence` that can be split in {parts} parts", confidence)
    return each


def margins_from_counts(
    successes: Sequence[int], trials: int, *, confidence: float, p: float, shifted: Shifted
) -> tuple[Float64[Tensor, " batch"], Float64[Tensor, " batch"]]:
    """Turn counts of an event at the unmoved inputs into verified radii within which it has a probability above `p`.

    Args:
        successes: draws in which the event happened, one number per input.
        trials: draws per input.
        confidence: of each input's statement.
        p: the level.
        shifted: lower bound of the probability at a distance; see `Shifted`.

    Returns:
        Lower bounds of the clean probabilities, and the largest radii found at which `shifted > p` was evaluated and
        true, 0 where there is none. Both are statements with the confidence.

    Raises:
        ValueError: with so few trials no count can show a probability above `p`.
        FloatingPointError: `shifted` gives NaN.

    >>> clean, rho = margins_from_counts([990], 1000, confidence=0.9, p=0.5, shifted=lambda clean, rho: clean - rho)
    >>> bool(rho < clean - 0.5), bool(rho > clean - 0.5001)
    (True, True)
    """
    require_samples("samples", trials, p, confidence)
    bounds = [clopper_pearson_lower(count, trials, confidence) for count in successes]
    clean = torch.tensor(bounds, dtype=torch.float64)

    def probability(rho: Float64[Tensor, " batch"]) -> Float64[Tensor, " batch"]:
        values = shifted(clean, rho)
        if torch.isnan(values).any():
            raise FloatingPointError("the probability at a distance is not a number")
        return values

    upper = torch.ones_like(clean)
    for _ in range(_DOUBLINGS):
        holds = probability(upper) > p
        if not holds.any():
            break
        upper = torch.where(holds, 2 * upper, upper)
    return clean, solve_margin(probability, p, upper)
