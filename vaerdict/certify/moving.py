"""The Gaussian shift where standard deviations move, too: three bounds, of which the largest counts (THEORY 4.5)."""

import torch
from jaxtyping import Float64
from torch import Tensor

from vaerdict.certify.probability import CDF_SLACK, gaussian_shift_probability

_ORDERS = (1.02, 1.05, 1.1, 1.17, 1.25, 1.35, 1.5, 1.75, 2.0, 2.5, 3.0, 4.0, 6.0, 10.0, 20.0)
_BISECTIONS = 50

Row = Float64[Tensor, " batch"]
Ratios = Float64[Tensor, "batch latent"]


def moving_probability(clean: Row, whitened: Row, low: Ratios, high: Ratios) -> Row:
    """Bound the probability of any event after mean and standard deviations of a Gaussian moved.

    Args:
        clean: lower bound of the event's probability before the move.
        whitened: bound of the mean's move, in unmoved standard deviations.
        low: lower bounds of the ratios of moved to unmoved standard deviations.
        high: upper bounds of them.

    Returns:
        The largest of three bounds: the mean first and then the total variation of the covariance, the inverse of the
        Kullback-Leibler divergence, and the Renyi divergences. 0 where a standard deviation may vanish.

    >>> ones = torch.ones(1, 2, dtype=torch.float64)
    >>> clean, still = torch.tensor([0.99]).double(), torch.zeros(1).double()
    >>> bool((moving_probability(clean, still, 0.9 * ones, 1.1 * ones) > 0.8).all())
    True
    """
    possible = (low > 0).all(1) & torch.isfinite(high).all(1) & torch.isfinite(whitened)
    low, high = (torch.where(possible[:, None], one, 1.0) for one in (low, high))
    whitened = torch.where(possible, whitened, 0.0)
    bounds = (
        gaussian_shift_probability(clean, whitened) - (_divergence(low, high) / 2).sqrt(),
        _inverse_divergence(clean, _divergence(low, high) + whitened.square() / 2),
        _by_renyi(clean, whitened, low, high),
    )
    best = torch.stack(bounds).amax(0).clamp(min=0.0) - CDF_SLACK
    return torch.where(possible, best, 0.0)


def _divergence(low: Ratios, high: Ratios) -> Row:
    """Bound the sum of `(q^2 - 1 - 2 ln q) / 2`, convex in `q`: the Kullback-Leibler divergence of the covariances."""
    terms = [(q.square() - 1 - 2 * q.log()) / 2 for q in (low, high)]
    return torch.maximum(*terms).sum(1).clamp(min=0.0)


def _inverse_divergence(clean: Row, divergence: Row) -> Row:
    """Give the least `q` with `kl(q | clean) <= divergence`, rounded down: where `kl` was found to be larger."""
    low, high = torch.zeros_like(clean), clean.clone()
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        beyond = _binary_divergence(middle, clean) > divergence
        low, high = torch.where(beyond, middle, low), torch.where(beyond, high, middle)
    return low


def _binary_divergence(q: Row, p: Row) -> Row:
    return torch.xlogy(q, q / p) + torch.xlogy(1 - q, (1 - q) / (1 - p))


def _by_renyi(clean: Row, whitened: Row, low: Ratios, high: Ratios) -> Row:
    """Bound the complement by Hoelder's inequality: `Q(E) <= (P(E) exp(D_s(Q | P)))^((s - 1) / s)` for every `s > 1`.

    For `Q = N(m, q^2)` and `P = N(0, 1)`, `D_s = s m^2 / (2 v) - (ln v - (1 - s) ln q^2) / (2 (s - 1))` with
    `v = s + (1 - s) q^2 > 0` is convex in `q^2`, so that its largest value on an interval is at an end.
    """
    missed = (1 - clean).log()
    best = torch.zeros_like(clean)
    for s in _ORDERS:
        spreads = [s + (1 - s) * q.square() for q in (low, high)]
        valid = (spreads[1] > 0).all(1)
        narrow = torch.where(valid, spreads[1].amin(1), 1.0)  # high ratios give the smallest `v`
        terms = [
            -(torch.where(v > 0, v, 1.0).log() - (1 - s) * 2 * q.log()) / (2 * (s - 1))
            for v, q in zip(spreads, (low, high), strict=True)
        ]
        divergence = s * whitened.square() / (2 * narrow) + torch.maximum(*terms).sum(1)
        bound = -torch.expm1((s - 1) / s * (missed + divergence))
        best = torch.maximum(best, torch.where(valid, bound, 0.0))
    return best
