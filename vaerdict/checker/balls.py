"""Probabilities in ball arithmetic (python-flint): every number is an interval that holds the true one.

Compare with `>`, which is true only where it holds for the whole ball.
"""

import math
from collections.abc import Callable

from flint import arb, ctx

PRECISION = 128
ctx.prec = PRECISION

_LARGE = 1e9  # squared mean, above which the mixture has more than some 300,000 terms
_CELLS = 256


def normal_cdf(x: arb) -> arb:
    """Enclose `Phi(x)`.

    >>> normal_cdf(arb(0)).str(3, radius=False)
    '0.500'
    """
    return (-x / arb(2).sqrt()).erfc() / 2


def normal_quantile(p: arb) -> arb:
    """Enclose the `x` with `Phi(x) = p`, for `p` in (0, 1).

    >>> normal_quantile(arb(0.5)).contains(0)
    True
    """
    return arb(2).sqrt() * (2 * p - 1).erfinv()


def noncentral_cdf(d: int, x: arb, noncentrality: arb) -> arb:
    """Bound `P(|N(m, I_d)|^2 <= x)` with `|m|^2 = noncentrality` from below.

    It is a mixture of central chi-squares with Poisson weights, `sum_k w_k P(chi^2_(d + 2k) <= x)`, and with `h = x/2`
    `P(chi^2_(d + 2k) <= x) = sum over j >= k of h^(d/2 + j) e^-h / Gamma(d/2 + j + 1)`. All terms are >= 0, so that
    leaving some out keeps the sum below: those far from the largest ones.

    >>> noncentral_cdf(2, 2 * arb(2).log(), arb(0)).str(3, radius=False)  # 1 - exp(-ln 2)
    '0.500'
    """
    # Beyond `(|m| + sqrt(d) + u)^2` lies less than exp(-u^2/2), which for u = 12 is below the digits of any level.
    most = (noncentrality.sqrt() + arb(d).sqrt() + 12) ** 2
    x = most if x > most else x
    if not x > 0:
        return arb(0)
    if noncentrality > _LARGE:
        return _far_cdf(d, x, noncentrality.sqrt())
    h, rate, half = x / 2, noncentrality / 2, arb(d) / 2
    first, last = _window(float(rate.mid()))
    spread = float(h.mid())
    top = max(last, math.ceil(spread - d / 2 + 8 * math.sqrt(spread)) + 60)
    term = ((half + top) * h.log() - h - (half + top + 1).lgamma()).exp()
    weight = (last * rate.log() - rate - arb(last + 1).lgamma()).exp() if rate > 0 else arb(0)
    central, total = arb(0), arb(0)
    for k in range(top, first - 1, -1):
        central += term
        term *= (half + k) / h
        if k <= last and rate > 0:
            total += weight * central
            weight *= k / rate
    return total if rate > 0 else central


def _far_cdf(d: int, x: arb, length: arb) -> arb:
    """Bound the same for a mean far out, where the mixture has too many terms.

    With `e` along the mean and `q` the square of the rest, `|N(m, I)|^2 <= x` where `e <= sqrt(x - q) - |m|`; in a cell
    of values of `q` its upper end is taken.
    """
    if d == 1:
        return normal_cdf(x.sqrt() - length)
    middle, width = d - 1, 10 * math.sqrt(2 * (d - 1)) + 60
    low = max(0.0, middle - width)
    ends = [arb(low + (middle + width - low) * k / _CELLS) for k in range(_CELLS + 1)]
    shares = [noncentral_cdf(d - 1, end, arb(0)) for end in ends]
    total = arb(0)
    for below, share, end in zip([arb(0), *shares], shares, ends, strict=False):
        if x > end:
            # The shares are lower bounds of a CDF, and the factor falls with `q`: summed by parts, so are the terms.
            total += (share - below) * normal_cdf((x - end).sqrt() - length)
    return total


def _window(middle: float) -> tuple[int, int]:
    """Give the numbers about the mean of a Poisson law beyond which it has less than 1e-11 of its mass."""
    width = math.ceil(7 * math.sqrt(middle)) + 60
    return max(0, math.floor(middle) - width), math.floor(middle) + width


def larger(first: arb, second: arb) -> arb:
    """Give the one of two proved numbers whose lower end is larger.

    >>> larger(arb(1), arb(2)) == 2
    True
    """
    return second if second.lower() > first.lower() else first


def larger_at_most(first: arb, second: arb) -> arb:
    """Give the one of two numbers whose upper end is larger: an upper bound of both.

    >>> larger_at_most(arb(1), arb(2)) == 2
    True
    """
    return second if second.upper() > first.upper() else first


def tail_of_binomial(successes: int, trials: int, share: arb) -> arb:
    """Enclose `P(Bin(trials, share) >= successes)`, the incomplete beta function `I_share(k, n - k + 1)`.

    >>> tail_of_binomial(1, 2, arb(0.5)).str(3, radius=False)
    '0.750'
    """
    if successes <= 0:
        return arb(1)
    if successes > trials:
        return arb(0)
    return decided(lambda: share.beta_lower(successes, trials - successes + 1, 1))


def decided(compute: Callable[[], arb]) -> arb:
    """Evaluate with more and more bits, until the ball is small or 4096 bits are reached.

    >>> decided(lambda: arb(2).sqrt()).rad() < 1e-30
    True
    """
    value = compute()
    bits = 2 * PRECISION
    while not value.rad() < 1e-18 and bits <= 4096:
        with ctx.workprec(bits):
            value = compute()
        bits *= 2
    return value
