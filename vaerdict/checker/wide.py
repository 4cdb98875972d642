"""Draws that were wider than the posterior: what is concluded from them by a stated divergence (THEORY 4.5)."""

from flint import arb

from vaerdict.checker.balls import larger_at_most
from vaerdict.checker.case import Case
from vaerdict.checker.moving import Ends, spread_divergence
from vaerdict.checker.shares import Share
from vaerdict.checker.stated import Malformed

WIDEST = 4.0
"""Draws are at most so many times as wide as the posterior."""

_SLACK = 1e-6  # of stated shifts and widths, which were rounded up and to float32


def wide_order(case: Case) -> float:
    """Give the order of the divergence by which a row concludes; 0 where its draws were those of the posterior.

    Raises:
        Malformed: the order, the divergence and the width of the draws do not go together.
    """
    scale, order = case.number("scale", 1.0), case.number("order", 0.0)
    if not 1 <= scale <= WIDEST:
        raise Malformed(f"expected `scale` in [1, {WIDEST:g}], got {scale!r}")
    if order == 0 and scale != 1:
        raise Malformed("expected an `order` above 1 with draws that were wider, got 0")
    if order == 0 and case.number("divergence", 0.0) > 0:
        raise Malformed("expected no `divergence` without an `order`")
    if order and not order > 1:
        raise Malformed(f"expected an `order` above 1, got {order!r}")
    return order


def stays_above_widely(case: Case, share: Share, whitened: arb, ratios: Ends) -> bool:
    """Tell whether the miss's probability under the draws, and the divergence, leave the level.

    `Q(miss) <= (P(miss) exp(D))^((s - 1) / s) < 1 - p` is a bound from below of `P`. `D` is taken as stated, unless it
    is impossible.
    """
    s, divergence = arb(wide_order(case)), case.number("divergence")
    case.notes.state("the divergence of the moved posterior from the draws")
    least = least_divergence(s, arb(case.number("scale", 1.0)), whitened * (1 - arb(_SLACK)), ratios)
    case.at_least("divergence", divergence, least, _SLACK)
    return share.exceeds(1 - (s / (s - 1) * (1 - case.level).log() - divergence).exp())


def least_divergence(s: arb, scale: arb, whitened: arb, ratios: Ends) -> arb:
    """Bound from below what a true row states: the divergence from the kindest draws so wide.

    The covariance `K` of the draws has the eigenvalue `scale^2`, the others are in `[1, scale^2]`. What stands under
    the mean's part, `s K - (s - 1) diag(high^2)`, is at most `s scale^2 - (s - 1) high^2` at the least of those ratios.
    Of what the covariances add, ratios of 1 leave a sum over eigenvalues, of which the largest is known and no term is
    below 0; where `K` is the unit, all of it is known.

    >>> least_divergence(arb(2), arb(1), arb(3), [(arb(1), arb(1))]).contains(9)
    True
    """
    kindest = min((high for _, high in ratios), key=lambda high: float(high.lower()))
    under = s * scale**2 - (s - 1) * kindest**2
    if not (under > 0 and all(s - (s - 1) * high**2 > 0 for _, high in ratios if scale == 1)):
        raise Malformed("expected an `order` whose divergence is finite at these ratios")
    mean = s * whitened**2 / (2 * under)
    if scale == 1:
        return mean + sum((larger_at_most(*(spread_divergence(s, end) for end in ends)) for ends in ratios), arb(0))
    return mean + (2 * s * scale.log() - (s * scale**2 - s + 1).log()) / (2 * (s - 1))
