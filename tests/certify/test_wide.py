"""Draws that were wider than the posterior: no event loses more than the bound says, and half of it would be beaten."""

import math

import mpmath
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.stats import ncx2, norm
from torch import Tensor

from vaerdict.certify.wide import ORDERS, Reached, renyi_reach, widening_roots

FAR = 1e6
SCALES = (1.0, 1.5, 2.5, 4.0)
RATIOS = (
    ([1.0] * 3, [1.0] * 3), ([0.8] * 3, [1.0] * 3), ([0.7, 1.0, 0.9], [1.1, 1.3, 1.0]), ([0.5] * 3, [1.05] * 3),
    ([1.1] * 3, [1.2] * 3),
)  # fmt: skip

Ends = tuple[list[float], list[float]]


def column(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def a_shape(seed: int, d: int = 3) -> Tensor:
    """An ellipsoid whose axes are none of the coordinates'."""
    turn = torch.linalg.qr(normal(seed, d, d)).Q
    return (turn * torch.linspace(0.1, 4.0, d, dtype=torch.float64)) @ turn.T


def reached(
    clean: float, root: Tensor, shape: Tensor, ends: Ends, p: float = 0.5, off: float = 0.0, radius: float = FAR
) -> Reached:
    low, high = (column(*end)[None] for end in ends)
    return renyi_reach(column(clean), p, root[None], column(radius), shape[None], (low, high), column(off))


def most_missed(clean: float, found: Reached, share: float = 1.0) -> float:
    """What the bound says of the event's complement after the move, by a share of the divergence."""
    s, divergence = float(found.orders), share * float(found.divergences)
    return math.exp((math.log1p(-clean) + divergence) * (s - 1) / s)


def moves(shape: Tensor, seed: int, count: int) -> Tensor:
    """The longest move of an ellipsoid, and others on its surface."""
    values, vectors = torch.linalg.eigh(shape)
    ways = torch.cat([torch.eye(len(shape), dtype=torch.float64)[-1:], normal(seed, count, len(shape))])
    return ways / ways.norm(dim=1, keepdim=True) * values.clamp(min=0.0).sqrt() @ vectors.T


def spreads(ends: Ends, seed: int) -> list[Tensor]:
    """Corners of a box of ratios, and a point inside."""
    low, high = ends
    share = torch.rand(3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    inside = column(*low) + share * (column(*high) - column(*low))
    return [column(*low), column(*high), column(low[0], *high[1:]), column(*low[:2], high[2]), inside]


# --- events with closed forms ---


@settings(max_examples=40)
@given(
    seed=st.integers(0, 10**6),
    scale=st.sampled_from(SCALES),
    ends=st.sampled_from(RATIOS),
    clean=st.floats(0.6, 1 - 1e-8),
    p=st.sampled_from([0.5, 0.9]),
    off=st.sampled_from([0.0, 0.1]),
)
def test_no_half_space_loses_more(seed: int, scale: float, ends: Ends, clean: float, p: float, off: float) -> None:
    shape = a_shape(seed)
    root = widening_roots(shape[None], scale)[0]
    rho = float(reached(clean, root, shape, ends, p, off).radii)
    assume(rho > 0)
    ways = normal(seed, 20, 3)
    for exact in rho * moves(shape, seed, 3):
        move = exact * (1 + off / exact.norm())
        towards = torch.stack([move, torch.linalg.solve(root @ root.T, move), *(move / q**2 for q in spreads(ends, 0))])
        some = torch.cat([ways, towards])
        edge = float(norm.ppf(clean)) * (some @ root).norm(dim=1)  # of {e : way . e <= edge}, with that probability
        for q in spreads(ends, seed):
            assert bool((torch.special.ndtr((edge - some @ move) / (some * q).norm(dim=1)) > p).all())


def ball_miss(clean: float, scale: float, q: float, move: float, d: int) -> float:
    """The most that any event with the probability `1 - clean` can have after the move: that of a ball.

    Of `N(m, q^2 I)` to `N(0, scale^2 I)`, `q < scale`, the likelihood ratio falls with the distance from `centre`.
    """
    centre = move * scale**2 / (scale**2 - q**2)
    radius = scale * math.sqrt(ncx2.ppf(1 - clean, d, (centre / scale) ** 2))
    return float(ncx2.cdf((radius / q) ** 2, d, ((centre - move) / q) ** 2))


@settings(max_examples=40)
@given(
    clean=st.floats(0.9, 1 - 1e-6),
    scale=st.sampled_from([1.25, 2.0, 4.0]),
    low=st.floats(0.5, 1.0),
    high=st.floats(1.0, 1.2),
    d=st.integers(1, 5),
    p=st.sampled_from([0.5, 0.7]),
)
def test_no_ball_loses_more(clean: float, scale: float, low: float, high: float, d: int, p: float) -> None:
    unit = torch.eye(d, dtype=torch.float64)
    rho = float(reached(clean, scale * unit, unit, ([low] * d, [high] * d), p).radii)
    for q in (low, high, (low + high) / 2):
        assert ball_miss(clean, scale, q, max(rho, 1e-6), d) < 1 - p or rho == 0


@pytest.mark.parametrize("scale", [1.25, 2.0, 4.0])
def test_half_the_divergence_would_be_beaten(scale: float) -> None:
    """The comparisons above and below have teeth; and the bound reaches most of what the worst event allows."""
    clean, unit = 0.9999, torch.eye(2, dtype=torch.float64)
    found = reached(clean, scale * unit, unit, ([1.0] * 2, [1.0] * 2))
    rho = float(found.radii)
    assert most_missed(clean, found, 0.5) < ball_miss(clean, scale, 1.0, rho, 2) < most_missed(clean, found)
    assert most_missed(clean, found) == pytest.approx(0.5, rel=1e-4)
    assert ball_miss(clean, scale, 1.0, 1.4 * rho, 2) > 0.5


# --- the worst events of all, by draws ---


def worst_miss(root: Tensor, move: Tensor, q: Tensor, rare: float) -> tuple[float, float, float]:
    """Draw from before and after; the event is where the likelihood ratio is largest.

    Returns:
        Its probability before, rounded up by 5 deviations; after, rounded down by as many; and after as counted.
    """
    precision = torch.linalg.inv(root @ root.T)

    def ratio(e: Tensor) -> Tensor:
        return (e @ precision * e).sum(1) / 2 - ((e - move) / q).square().sum(1) / 2

    count = 1_000_000
    noise = normal(0, count, len(move))
    pilot, certain = ratio(noise @ root.T).split(count // 2)
    edge = pilot.sort().values[-round(rare * count / 2)]  # chosen on draws of its own
    before = float((certain > edge).double().mean())
    after = float((ratio(move + q * noise) > edge).double().mean())
    return before + 5 * math.sqrt(before / (count // 2)), after - 5 * math.sqrt(0.25 / count), after


CASES = [
    (1, 1.0, 0, 0.99), (2, 1.5, 0, 0.999), (3, 2.5, 2, 0.9999), (4, 1.5, 3, 0.999), (5, 4.0, 1, 0.9999),
    (6, 2.5, 4, 0.999),
]  # fmt: skip


@pytest.mark.parametrize(("seed", "scale", "ratios", "clean"), CASES)
def test_no_likelihood_ratio_event_loses_more(seed: int, scale: float, ratios: int, clean: float) -> None:
    shape, ends = a_shape(seed), RATIOS[ratios]
    root = widening_roots(shape[None], scale)[0]
    found = reached(clean, root, shape, ends)
    rho = float(found.radii)
    assert rho > 0
    tightest = 0.0
    for q in (column(*end) for end in ends):
        before, after, counted = worst_miss(root, rho * moves(shape, seed, 0)[0], q, 1 - clean)
        most = most_missed(1 - before, found)  # the divergence holds for every event; this one is a little rarer or not
        assert after <= most
        tightest = max(tightest, counted / most)
    assert tightest > 0.25
    assert scale == 1 or tightest > most_missed(1 - before, found, 0.5) / most  # half the divergence is beaten


def test_the_bound_of_one_order_is_exact_in_the_mean_of_the_ratio() -> None:
    """`E_P[(dQ/dP)^s] = exp((s - 1) D_s)`, for a covariance that is not diagonal, at ratios that are known."""
    shape, q = a_shape(7), [0.9, 1.05, 0.7]
    root = widening_roots(shape[None], 1.5)[0]
    found = reached(0.99, root, shape, (q, q))
    s, move = float(found.orders), float(found.radii) * moves(shape, 0, 0)[0]
    noise = normal(1, 1_000_000, 3)
    half = math.log(abs(float(torch.linalg.det(root)))) - sum(map(math.log, q))
    e = noise @ root.T
    logs = half + noise.square().sum(1) / 2 - ((e - move) / column(*q)).square().sum(1) / 2
    powers = (s * logs).exp()
    mean, spread = float(powers.mean()), float(powers.std()) / 1000
    assert mean - 5 * spread <= math.exp((s - 1) * float(found.divergences))


# --- closed forms of the bound itself ---


def closed_form(
    s: mpmath.mpf, scale: mpmath.mpf, clean: float, p: float, d: int, q: tuple[float, float], off: float
) -> mpmath.mpf:
    """The radius by one order."""
    a, h = (s * scale**2 - (s - 1) * mpmath.mpf(end) ** 2 for end in (q[1], q[0]))
    if a <= 0:
        return mpmath.mpf(0)
    at_high, low = -mpmath.log(q[1]), -mpmath.log(q[0])
    at_low = low - mpmath.log(1 + (h - a) / h) / (2 * (s - 1))
    still = d * ((2 * s * mpmath.log(scale) - mpmath.log(a)) / (2 * (s - 1)) + max(at_low, at_high))
    both = [(2 * s * mpmath.log(scale) - mpmath.log(v)) / (2 * (s - 1)) for v in (a, h)]
    exact = d * max(one + other for one, other in zip(both, (at_high, low), strict=True))
    lost = d * (mpmath.log(h / a) - mpmath.log(2 - a / h)) / (2 * (s - 1))
    assert exact - 1e-30 <= still <= exact + lost + 1e-30
    left = s / (s - 1) * mpmath.log1p(-mpmath.mpf(p)) - mpmath.log1p(-mpmath.mpf(clean)) - still
    return max(mpmath.sqrt(2 * max(left, 0) * a / s) - off * mpmath.mpf(d) ** 0.25, mpmath.mpf(0))


@settings(max_examples=25)
@given(
    scale=st.sampled_from(SCALES),
    clean=st.floats(0.6, 1 - 1e-9),
    p=st.sampled_from([0.5, 0.9]),
    d=st.integers(1, 4),
    q=st.tuples(st.floats(0.4, 1.0), st.floats(1.0, 1.4)),
    off=st.sampled_from([0.0, 0.01]),
)
def test_with_one_width_for_all_it_is_the_closed_form(
    scale: float, clean: float, p: float, d: int, q: tuple[float, float], off: float
) -> None:
    """`K = k^2 I`, `V = I`: all is diagonal, and the bound can be compared with the divergence itself."""
    unit = torch.eye(d, dtype=torch.float64)
    found = reached(clean, scale * unit, unit, ([q[0]] * d, [q[1]] * d), p, off)
    with mpmath.workdps(40):
        best = max(closed_form(mpmath.mpf(s), mpmath.mpf(scale), clean, p, d, q, off) for s in ORDERS)
    assert float(found.radii) <= float(best) * (1 - 1e-8)
    assert float(found.radii) == pytest.approx(float(best), rel=1e-4, abs=2e-3)


def divergence(s: float, root: Tensor, move: Tensor, q: Tensor) -> mpmath.mpf:
    """The Renyi divergence of `N(move, diag(q^2))` from `N(0, root root^T)`, as it is; infinite where it is."""
    k = mpmath.matrix(root.tolist()) * mpmath.matrix(root.tolist()).T
    m = mpmath.matrix(move.tolist())
    after = mpmath.diag([mpmath.mpf(one) ** 2 for one in q.tolist()])
    matrix = s * k - (mpmath.mpf(s) - 1) * after
    if min(mpmath.eigsy(matrix, eigvals_only=True)) <= 0:
        return mpmath.inf
    logs = [mpmath.log(mpmath.det(one)) for one in (k, matrix, after)]
    mean = s * (m.T * mpmath.lu_solve(matrix, m))[0] / 2
    return mean + (s * logs[0] - logs[1]) / (2 * (mpmath.mpf(s) - 1)) - logs[2] / 2


@settings(max_examples=25)
@given(
    seed=st.integers(0, 10**6),
    scale=st.sampled_from(SCALES),
    high=st.floats(1.0, 3.0),
    edge=st.booleans(),
    s=st.sampled_from(ORDERS),
)
def test_no_divergence_is_larger_than_what_is_stated(
    seed: int, scale: float, high: float, edge: bool, s: float
) -> None:
    """In 40 digits, for moves and ratios within what was asked; `edge` brings a matrix near to being singular."""
    shape = a_shape(seed)
    root = widening_roots(shape[None], scale)[0]
    least = float(torch.linalg.eigvalsh(root @ root.T)[0])
    top = math.sqrt(s / (s - 1) * least) * (1 - 1e-7) if edge else high
    ends = [0.7, 0.9, 1.0], [1.0, 1.2, max(top, 1.2)]
    found = reached(1 - 1e-9, root, shape, ends)
    assume(float(found.radii) > 0)
    with mpmath.workdps(40):
        for q in spreads(ends, seed):
            for move in float(found.radii) * moves(shape, seed, 2):
                assert divergence(float(found.orders), root, move, q) <= float(found.divergences)


@given(seed=st.integers(0, 10**6), s=st.sampled_from(ORDERS), scale=st.sampled_from(SCALES))
def test_the_inequality_of_determinants(seed: int, s: float, scale: float) -> None:
    """`det S >= det A prod(1 + (s - 1) (h_i - v_i) g_i)`, `g` the diagonal of the inverse of `H`."""
    root = widening_roots(a_shape(seed)[None], scale)[0]
    wide = root @ root.T
    low, share, high = torch.rand(3, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    least = float(torch.linalg.eigvalsh(wide)[0])
    top = 0.999 * s / (s - 1) * least * high.clamp(min=0.05)
    low = low * top
    v = low + share * (top - low)
    a, middle, outer = (s * wide - (s - 1) * torch.diag(end) for end in (top, v, low))
    factors = 1 + (s - 1) * (top - v) * torch.linalg.inv(outer).diagonal()
    assert torch.linalg.slogdet(middle)[1] >= torch.linalg.slogdet(a)[1] + factors.log().sum() - 1e-9
    assert float(torch.linalg.eigvalsh(middle - a)[0]) > -1e-9
    if float(((top - v) * v).abs().max()) > 0.1:  # an inverse that is too large would not do
        generous = 1 + (s - 1) * (top - v) * torch.linalg.inv(a).diagonal() * 2
        assert torch.linalg.slogdet(middle)[1] < torch.linalg.slogdet(a)[1] + generous.log().sum()


# --- what is degenerate ---


@pytest.mark.parametrize(
    "change",
    [
        {"clean": 0.0}, {"clean": 0.4}, {"clean": math.nan}, {"low": 0.0}, {"low": math.nan}, {"high": math.inf},
        {"high": 1e200}, {"shape": math.inf}, {"shape": math.nan}, {"shape": 1e300}, {"off": math.inf},
        {"off": math.nan}, {"off": 100.0}, {"radius": 0.0}, {"p": 1 - 1e-6}, {"root": math.nan}, {"root": 0.0},
    ],
)  # fmt: skip
def test_what_is_not_known_gives_nothing(change: dict[str, float]) -> None:
    ask = {"clean": 0.999, "low": 1.0, "high": 1.0, "shape": 1.0, "off": 0.0, "radius": 1.0, "p": 0.5, "root": 2.0}
    given = {**ask, **change}
    shape = torch.diag(column(given["shape"], given["shape"]))
    ends = [given["low"]] * 2, [given["high"]] * 2
    root = torch.diag(column(given["root"], given["root"]))
    found = reached(given["clean"], root, shape, ends, given["p"], given["off"], given["radius"])
    assert [float(one) for one in (found.radii, found.orders, found.divergences)] == [0.0, 0.0, 0.0]


@pytest.mark.parametrize(("clean", "shape"), [(1.0, 1.0), (1 - 1e-16, 1.0), (0.999, 0.0), (0.999, 1e-300), (1.0, 0.0)])
def test_what_cannot_be_missed_reaches_as_far_as_is_known(clean: float, shape: float) -> None:
    unit = torch.eye(2, dtype=torch.float64)
    found = reached(clean, unit, shape * unit, ([1.0] * 2, [1.0] * 2), radius=0.5)
    assert float(found.radii) == pytest.approx(0.5, rel=1e-6)
    assert float(found.radii) <= 0.5
    assert math.isfinite(float(found.divergences))


@pytest.mark.parametrize("square", [2.0, 2.0 * (1 - 1e-15), 2.0 * (1 - 1e-9), 4 / 3])
def test_orders_at_the_edge_are_left_out(square: float) -> None:
    """At `q^2 = s / (s - 1)` the divergence of order `s` from the unit is infinite, and a matrix is singular."""
    unit, end = torch.eye(2, dtype=torch.float64), [math.sqrt(square)] * 2
    found = reached(1 - 1e-9, unit, 0 * unit, (end, end), radius=1.0)
    assert 0 < float(found.orders) < square / (square - 1) - 1e-3
    assert float(found.radii) > 0.99


@settings(max_examples=12)
@given(seed=st.integers(0, 10**6), ends=st.sampled_from(RATIOS), scale=st.sampled_from(SCALES))
def test_rises_with_the_clean_probability_and_falls_with_all_else(seed: int, ends: Ends, scale: float) -> None:
    shape = a_shape(seed)
    root = widening_roots(shape[None], scale)[0]
    radii = [float(reached(clean, root, shape, ends).radii) for clean in (0.6, 0.9, 0.99, 0.9999, 1 - 1e-8)]
    assert radii == sorted(radii)
    low, high = ends
    wider = [0.95 * one for one in low], [1.05 * one for one in high]
    others = [
        reached(0.9999, root, shape, wider), reached(0.9999, root, 1.1 * shape, ends),
        reached(0.9999, root, shape, ends, off=0.01), reached(0.9999, root, shape, ends, p=0.6),
    ]  # fmt: skip
    assert all(float(one.radii) <= radii[3] for one in others)


def test_images_do_not_touch_each_other() -> None:
    shapes = torch.stack([a_shape(1), torch.full((3, 3), math.inf, dtype=torch.float64), a_shape(2)])
    roots, ones = widening_roots(shapes, 2.0), torch.ones(3, 3, dtype=torch.float64)
    clean = column(0.999, 0.999, 0.9999)
    found = renyi_reach(clean, 0.5, roots, FAR * ones[0], shapes, (ones, ones), 0 * ones[0])
    alone = reached(0.9999, roots[2], shapes[2], ([1.0] * 3, [1.0] * 3))
    assert float(found.radii[1]) == 0
    assert float(found.radii[2]) == pytest.approx(float(alone.radii), rel=1e-9)
    farther = found.or_farther(Reached(column(9.0, 9.0, 0.0), column(7.0, 7.0, 7.0), column(5.0, 5.0, 5.0)))
    assert farther.orders.tolist() == [7.0, 7.0, float(found.orders[2])]


# --- how wide ---


@given(seed=st.integers(0, 10**6), scale=st.sampled_from(SCALES), d=st.integers(1, 6))
def test_draws_are_wide_where_moves_are(seed: int, scale: float, d: int) -> None:
    shape = a_shape(seed, d)
    root = widening_roots(shape[None], scale)[0]
    values, vectors = torch.linalg.eigh(shape)
    expected = 1 + (scale**2 - 1) * values / values[-1]
    torch.testing.assert_close(root @ root.T @ vectors, expected * vectors, rtol=0.0, atol=1e-5)
    assert torch.equal(root, root.float().double())
    torch.testing.assert_close(root, root.T, rtol=0.0, atol=1e-6)


@pytest.mark.parametrize("value", [0.0, 1e-310, 1e199, 1e300, math.inf, math.nan])
def test_roots_are_finite_and_the_unit_without_a_width(value: float) -> None:
    unit = torch.eye(2, dtype=torch.float64)
    shape = torch.diag(column(value, value))[None]
    found = widening_roots(shape, 3.0)[0]
    torch.testing.assert_close(found, (3.0 if value == 1e199 else 1.0) * unit, rtol=1e-6, atol=0.0)
    assert torch.equal(widening_roots(a_shape(3)[None, :2, :2], 1.0)[0], unit)
