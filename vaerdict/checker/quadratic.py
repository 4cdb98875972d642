"""Weighted sums of squares of normal numbers: their distribution by a contour integral, enclosed by FLINT."""

import math
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
from flint import acb, arb, ctx
from jaxtyping import Float64

from vaerdict.checker.balls import PRECISION, larger, normal_cdf

_TAIL = 1e-16
"""A contour ends where what is left of it is proved to be smaller."""

_GOLDEN = (math.sqrt(5) - 1) / 2


class Quadratic:
    """The law of `Q = sum_i v_i (e_i + c_i)^2` with independent standard normal `e_i`.

    Its Laplace transform is `L(s) = prod_i (1 + 2 v_i s)^(-1/2) exp(-c_i^2/2 (1 - 1 / (1 + 2 v_i s)))`; it is inverted
    along a contour on which its singularities, all on the negative axis, stay to the left.

    Args:
        variances: `v_i` > 0.
        shifts: `c_i`, in standard deviations; none for the centred law.

    >>> float(Quadratic([2.0, 2.0]).cdf(arb(4))).__round__(6)  # 1 - 1/e
    0.632121
    """

    def __init__(self, variances: Sequence[arb | float], shifts: Sequence[arb | float] | None = None) -> None:
        shifts = [0.0] * len(variances) if shifts is None else shifts
        pairs = [(arb(v), arb(c) ** 2 / 2) for v, c in zip(variances, shifts, strict=True)]
        # Equal coordinates are one factor to a power; balls have no hash, and are told apart by their print.
        names = [f"{v.repr()} {half_square.repr()}" for v, half_square in pairs]
        counts, of = Counter(names), dict(zip(names, pairs, strict=True))
        self.factors = [(*of[name], count) for name, count in counts.items()]
        self.largest = max((v for v, _, _ in self.factors), key=lambda v: float(v.upper()))
        self.latent = len(variances)
        self.half_squares = sum((count * half_square for _, half_square, count in self.factors), arb(0))

    def laplace(self, s: acb, analytic: bool = False) -> acb:
        """Enclose `L(s)`; on request nothing finite for a ball that touches a cut of the root."""
        product, exponent = acb(1), acb(0)
        for v, half_square, count in self.factors:
            base = 1 + 2 * v * s
            product *= base.rsqrt(analytic) ** count
            if not half_square.is_zero():
                exponent -= count * half_square * (1 - 1 / base)
        return product * exponent.exp()

    def cdf(self, x: arb) -> arb:
        """Enclose `P(Q <= x)`."""
        if not x > 0:
            return arb(0)
        depth = self._depth(float(x.mid()))
        end = self._end_of_line(depth, x)
        if end is not None:
            return self._along_line(depth, x, end)
        return self._along_parabola(depth, x)

    def _along_line(self, depth: float, x: arb, end: arb) -> arb:
        """Integrate `1/pi Re[exp(s x) L(s) / s]` over `s = (depth + i y) / x`, `y` from 0 to the end."""

        def integrand(y: acb, analytic: bool) -> acb:
            s = depth + acb(0, 1) * y
            return s.exp() * self.laplace(s / x, analytic) / s

        return _integral(integrand, end) / arb.pi() + arb(0, _TAIL)

    def _end_of_line(self, depth: float, x: arb) -> arb | None:
        """Choose where the line may end; None where only the parabola ends early, as it does for small shifts.

        On the line `|exp(s x)|` is constant, and the modulus of the exponential in `L` falls. From `y` on that of the
        roots is at most `(2 v y / x)^(-1/2)` for the largest `v`, so that the rest is at most
        `exp(depth - sum c^2/2 Re(1 - 1/(1 + 2 v s))) (2 v y / x)^(-1/2) 2 / pi`.
        """
        if not self.half_squares > 50:
            return None
        end = 1e-6 * depth
        for _ in range(200):
            end *= 1.25
            s = acb(depth, end) / x
            exponent = sum((count * h * (1 - 1 / (1 + 2 * v * s)).real for v, h, count in self.factors), arb(0))
            if (depth - exponent).exp() * (x / (2 * self.largest * end)).sqrt() * 2 / arb.pi() < _TAIL:
                return arb(end)
        return None

    def _along_parabola(self, depth: float, x: arb) -> arb:
        """Integrate `2/pi Re[exp(depth w^2) L(depth w^2 / x) / w]` over `w = 1 + i y`, `y` from 0 to the end.

        This is the line bent to the left by `s = depth w^2 / x`, so that the integrand falls as `exp(-depth y^2)`.
        """

        def integrand(y: acb, analytic: bool) -> acb:
            w = 1 + acb(0, 1) * y
            square = depth * w * w
            return square.exp() * self.laplace(square / x, analytic) / w

        return 2 * _integral(integrand, self._end_of_parabola(depth)) / arb.pi() + arb(0, _TAIL)

    def _end_of_parabola(self, depth: float) -> arb:
        """Choose where the parabola may end.

        From `y >= 1` on it is left of the imaginary axis, at an angle `a` with `1/sin(a) = (1 + y^2) / (2 y) <= y`: so
        `|1 + 2 v s| >= sin(a)`, the real part of `1 / (1 + 2 v s)` is at most `(1 + 1/sin(a)) / 2`, and
        `|L| <= y^(d/2) exp(sum c^2/4 (y - 1))`. The logarithm of the integrand's bound falls at a rate of at least 1
        from `y` on, so that the rest is at most the bound's value there.
        """
        half, quarter_squares = self.latent / 2, float(self.half_squares.upper()) / 2
        end = 1.0
        while True:
            end *= 1.1
            falls = 2 * depth * end - half / end - quarter_squares
            logarithm = depth * (1 - end * end) + (half - 1) * math.log(end) + quarter_squares * (end - 1)
            if falls > 1 and logarithm < math.log(_TAIL) - 1:
                return arb(end)

    def estimate(self, xs: Float64[np.ndarray, " points"]) -> Float64[np.ndarray, " points"]:
        """Approximate `P(Q <= x)` of a centred law in float64: it proves nothing, and points at what to prove."""
        y = 0.04 * (np.arange(100) + 0.5)
        w = 1 + 1j * y
        depth = 8.0
        logarithm = np.zeros((len(xs), len(y)), complex)
        for v, _, count in self.factors:
            logarithm -= count / 2 * np.log1p(2 * float(v.mid()) * depth * w**2 / xs[:, None])
        return 0.08 / math.pi * (np.exp(depth * w**2 + logarithm) / w).real.sum(1)

    def _depth(self, x: float) -> float:
        """Choose where the contour crosses the real axis: near the saddle point, where the integrand is smallest."""
        low, high = math.log(2.0), math.log(1e9)

        def height(logarithm: float) -> float:
            depth = math.exp(logarithm)
            return depth - logarithm + float(self.laplace(acb(depth / x)).real.log())

        for _ in range(40):
            left, right = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
            low, high = (low, right) if height(left) < height(right) else (left, high)
        return math.exp(low)


def _integral(integrand: Callable[[acb, bool], acb], end: arb) -> arb:
    with ctx.workprec(PRECISION):
        return acb.integral(integrand, 0, end, abs_tol=arb(1e-16), rel_tol=arb(0), eval_limit=20_000).real


def reflection_probability(form: Quadratic, t: arb, shift: arb, p: float) -> arb:
    """Bound `P(|N(m, S)| <= t)` over all `|m| <= shift` from below by reflection (THEORY 4.3).

    `form` is the centred law of `|N(0, S)|^2`. Where the simpler parts already exceed `p`, no more is computed.

    >>> reflection_probability(Quadratic([1.0, 1.0]), arb(3), arb(1), 0.5) > 0.5
    True
    """
    room = t * t - shift * shift
    if not (room > 0 and t > shift):
        return arb(0)
    inside, triangle = form.cdf(room), form.cdf((t - shift) ** 2)
    start = larger((inside + triangle) / 2, triangle)
    if start > p or not shift > 0:
        return larger(start, inside) if not shift > 0 else start
    width = 2 * shift * form.largest.sqrt()
    u = room * _best_share(form, float(room.mid()), float(width.mid()))
    slab = form.cdf(u) * (2 * normal_cdf((room - u) / width) - 1)
    return larger(start, (inside + slab) / 2)


def _best_share(form: Quadratic, room: float, width: float) -> float:
    """Look for the best `u / room` in plain float64; any value gives a true bound."""
    best, around = 0.5, 0.5
    for _ in range(3):
        shares = np.clip(best + around * np.linspace(-1, 1, 65), 1e-6, 1 - 1e-6)
        normal = np.array([math.erf((1 - share) * room / width / math.sqrt(2)) for share in shares.tolist()])
        best = float(shares[np.argmax(form.estimate(shares * room) * normal)])
        around /= 20
    return best


def coordinate_probability(variances: Sequence[arb], shifts: Sequence[float], t: arb) -> arb:
    """Bound `P(|m + e| <= t)` over all `|m_i| <= shifts_i` from below, `e` with these constant variances (THEORY 4.3).

    The probability falls in each `|m_i|`. Where the integral gives up, the triangle inequality is left.

    >>> coordinate_probability([arb(1), arb(1)], [0.0, 0.0], arb(2)) > 0.86
    True
    """
    whole = sum((arb(one) ** 2 for one in shifts), arb(0)).sqrt()
    if not t > 0:
        return arb(0)
    moves = [d / v.sqrt() for d, v in zip(shifts, variances, strict=True)]
    exact = Quadratic(variances, moves).cdf(t * t)
    return larger(exact, Quadratic(variances).cdf((t - whole) ** 2) if t > whole else arb(0))
