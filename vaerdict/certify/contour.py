"""Where a Laplace transform is evaluated to bound the distribution function of a sum of squares (THEORY 4.3, 7.3).

`P(Q <= T)` of `Q = sum_i v_i (e_i + c_i)^2` is the inverse transform of `L(s)/s`, `L(s) = E exp(-s Q)`, taken here
along the parabola `s = depth (1 + i x)^2 / T` (Weideman and Trefethen, Math. Comp. 2007). All singularities of `L` lie
on the negative axis, for every spectrum, so a dozen nodes serve variances that differ by factors of 1e8, where
Ruben's series would need millions of terms. What the rule leaves out is bounded over all spectra at once.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Complex128, Float64

from vaerdict.options import require

_LEFT_OUT = math.log(1e-11)  # each of the three errors of the rule; with a factor of 2 they stay below CDF_SLACK / 10
_GRID = (np.arange(1000) + 0.5) * 0.04  # where the integrals that bound the rule's error are evaluated
_LEAST_STEP, _UNUSABLE = 1e-3, 10**9
_RIGHT, _LEFT = 1 + np.geomspace(0.3, 30, 24), np.linspace(0.15, 0.95, 17)  # parabolas to which the rule is shifted


@dataclass(frozen=True, kw_only=True)
class Contour:
    """Nodes `w = 1 + i x` with `P(Q <= part T) = Re sum weights(part) L(depth w^2 / T)`, but for what is left out."""

    depth: float
    step: float
    count: int

    @property
    def nodes(self) -> Complex128[np.ndarray, " node"]:
        """Give the nodes in the upper half-plane; those below are their mirror images."""
        return 1 + 1j * self.step * (np.arange(self.count) + 0.5)

    @property
    def squares(self) -> Complex128[np.ndarray, " node"]:
        """Give `depth w^2`: the arguments of `L`, times `T`."""
        return self.depth * self.nodes**2

    def weights(self, parts: Float64[np.ndarray, " part"]) -> Complex128[np.ndarray, "node part"]:
        """Give the weights for thresholds that are these parts of `T`."""
        nodes = self.nodes[:, None]
        return 2 * self.step / math.pi * np.exp(self.squares[:, None] * parts) / nodes

    def rounding(self, latent: int, noncentral: float) -> float:
        """Bound a term's relative rounding error: of its exponents, and of the sums of logarithms in them."""
        return 2.0**-53 * (8 * abs(self.squares[-1]) + 2 * (latent + 8) * (latent + noncentral))


def _log_envelope(x: np.ndarray, c: np.ndarray, latent: int, noncentral: float) -> np.ndarray:
    """Bound `log |L / w|` on the parabola `w = c + i x` over all spectra.

    For `s` at the angle `a` left of the imaginary axis `|1 + 2 v s| >= sin(a)` for every `v`, and the real part of
    `1 / (1 + 2 v s)` is at most `(1 + 1 / sin(a)) / 2`; right of it `|L| <= 1`. Here `sin(a) = 2 x c / (x^2 + c^2)`.
    """
    rise = np.where(x > c, (x * x + c * c) / (2 * x * c), 1.0)
    return latent / 2 * np.log(rise) + noncentral / 4 * (rise - 1) - np.log(c * c + x * x) / 2


def _log_errors(depths: tuple[float, ...], c: np.ndarray, latent: int, noncentral: float) -> np.ndarray:
    """Give the largest `log M(c)`, `M` the integral of the integrand's modulus on the parabola through `c`.

    Moved to that parabola, the rule of step `h` errs by at most `M / (exp(2 pi |c - 1| / h) - 1)` (Trefethen and
    Weideman, SIAM Review 2014). `M` is log-convex in the depth, so the ends of a range of depths cover it.
    """
    envelope = _log_envelope(_GRID, c[:, None], latent, noncentral)
    exponents = [depth * (c[:, None] ** 2 - _GRID**2) + envelope for depth in depths]
    moduli = [np.logaddexp.reduce(e, axis=1) + math.log(0.04 * 2 / math.pi) for e in exponents]
    ended = np.all([e[:, -1] < e.max(axis=1) - 50 for e in exponents], axis=0)  # else the integrals go on
    return np.where(ended, np.max(moduli, axis=0), np.inf)


def _step(depths: tuple[float, ...], latent: int, noncentral: float) -> float:
    """Give the largest step for which both shifts of the parabola prove an error below `exp(_LEFT_OUT)`."""
    steps = []
    for c in (_RIGHT, _LEFT):
        decades = np.maximum(_log_errors(depths, c, latent, noncentral) - _LEFT_OUT, 1.0)
        steps.append((2 * math.pi * np.abs(c - 1) / decades).max())
    return float(min(steps))


def _count(step: float, depths: tuple[float, ...], latent: int, noncentral: float) -> int:
    """Give the number of nodes after which the rest of the sum is below `exp(_LEFT_OUT)`; huge where none is found."""
    if step < _LEAST_STEP:
        return _UNUSABLE
    x = step * (np.arange(math.ceil(40 / step)) + 0.5)
    envelope = _log_envelope(x, np.ones(1), latent, noncentral) + math.log(2 * step / math.pi)
    rests = [np.logaddexp.accumulate((depth * (1 - x * x) + envelope)[::-1])[::-1] for depth in depths]
    large = np.max(rests, axis=0) >= _LEFT_OUT - 20 * (x > 39)
    return _UNUSABLE if large[-1] else int(large.sum())


@lru_cache
def find_contour(latent: int, noncentral: float = 0.0, ratio: float = 1.0) -> Contour:
    """Choose the contour with the fewest nodes, for all `T` from `T_high / ratio` to `T_high`.

    Args:
        latent: number of squares.
        noncentral: upper bound of the sum of squared shifts.
        ratio: how many times the thresholds may fall below the one the nodes are scaled to.

    Raises:
        ValueError: there is none (with more than some hundreds of squares).

    >>> find_contour(10).count
    13
    """
    plans = []
    for depth in np.geomspace(2, 64, 16).tolist():
        depths = (depth / ratio, depth)
        step = _step(depths, latent, noncentral)
        plans.append((_count(step, depths, latent, noncentral), depth, step))
    count, depth, step = min(plans)
    require(count < _UNUSABLE, "fewer coordinates, or smaller shifts, for a contour", f"{latent} and {noncentral}")
    return Contour(depth=depth, step=step, count=count)
