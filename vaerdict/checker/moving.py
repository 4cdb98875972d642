"""The Gaussian shift where the standard deviations move, too: three bounds, any of which will do (THEORY 4.5)."""

from collections.abc import Sequence

from flint import arb

from vaerdict.checker.balls import larger_at_most, normal_cdf, normal_quantile
from vaerdict.checker.shares import Share

_ORDERS = (1.02, 1.05, 1.1, 1.17, 1.25, 1.35, 1.5, 1.75, 2.0, 2.5, 3.0, 4.0, 6.0, 10.0, 20.0)

Ends = Sequence[tuple[arb, arb]]
"""Per latent, least and greatest ratio of the moved to the unmoved standard deviation."""


def needed_probability(level: arb, whitened: arb) -> arb:
    """Give the clean probability that leaves the level after a move of so many standard deviations (THEORY 4.4).

    >>> needed_probability(arb(0.5), arb(0)).contains(0.5)
    True
    """
    return normal_cdf(normal_quantile(level) + whitened) if level < 1 else arb(1)


def stays_above(level: arb, share: Share, whitened: arb, ratios: Ends) -> bool:
    """Tell whether one of the three bounds proves the moved probability to be above the level."""
    spread = sum((larger_at_most(*map(_divergence, ends)) for ends in ratios), arb(0))
    if share.exceeds(needed_probability(level + (spread / 2).sqrt(), whitened)):  # total variation, by Pinsker
        return True
    clean = share.lower()
    if not level < clean < 1:
        return False
    if _binary_divergence(level, clean) > spread + whitened**2 / 2:  # of Kullback and Leibler, for the whole move
        return True
    return any(_renyi(arb(order), clean, whitened, ratios) > level for order in _ORDERS)


def _divergence(q: arb) -> arb:
    """Give the divergence of `N(0, q^2)` from `N(0, 1)`, convex in `q`: on an interval it is largest at an end."""
    return (q * q - 1 - 2 * q.log()) / 2


def _binary_divergence(q: arb, p: arb) -> arb:
    return q * (q / p).log() + (1 - q) * ((1 - q) / (1 - p)).log()


def _renyi(order: arb, clean: arb, whitened: arb, ratios: Ends) -> arb:
    """Bound the moved probability by Hoelder: `Q(E) <= (P(E) exp(D))^((s - 1) / s)` for the complement `E`.

    The divergence `D` of order `s` of `N(m, q^2)` from `N(0, 1)` is that of `N(0, q^2)` and `s m^2 / (2 v)`, with
    `v = s + (1 - s) q^2`; it is convex in `q^2`.
    """
    narrow = [order + (1 - order) * high * high for _, high in ratios]
    if not all(one > 0 for one in narrow):
        return arb(0)
    least = min(narrow, key=lambda one: float(one.lower()))
    spread = sum((larger_at_most(*(spread_divergence(order, end) for end in ends)) for ends in ratios), arb(0))
    divergence = order * whitened**2 / (2 * least) + spread
    return 1 - (((1 - clean).log() + divergence) * (order - 1) / order).exp()


def spread_divergence(order: arb, q: arb) -> arb:
    """Give the Renyi divergence of `N(0, q^2)` from `N(0, 1)`: `-ln v / (2 (s - 1)) - ln q`, `v = s + (1 - s) q^2 > 0`.

    >>> spread_divergence(arb(2), arb(1)).contains(0)
    True
    """
    return -(order + (1 - order) * q * q).log() / (2 * (order - 1)) - q.log()
