"""Reflection and coordinate-wise bounds: below the worst direction, not far below it, and sound at the edges."""

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2, ncx2, norm

from vaerdict.certify.closed_form import isotropic_margins
from vaerdict.certify.margin import solve_margin
from vaerdict.certify.quadratic import CentralTable, QuadraticForm
from vaerdict.certify.reflection import (
    coordinate_probability,
    reflection_probability,
    solve_reflection,
)

NODES, WEIGHTS = np.polynomial.legendre.leggauss(200)
SPECTRA = {
    "equal": [1.0] * 10,
    "two": [1.0, 0.2],
    "halves": [2.0**-k for k in range(6)],
    "tenths": [10.0**-k for k in range(6)],
    "linear": np.linspace(0.2, 2, 10).tolist(),
    "one large": [4.0] + [0.1] * 9,
    "one small": [1.0] * 4 + [1e-3],
    "collapsed": [2.0, 2.0] + [1e-4] * 8,
    "far": [1.0, 1e-8],
    "many": np.geomspace(0.05, 1, 32).tolist(),
}


def row(*numbers: float) -> torch.Tensor:
    return torch.tensor([numbers], dtype=torch.float64)


def reflect(variances: Sequence[float], t: float, shift: float, scale: float = 1.0) -> float:
    return float(reflection_probability(CentralTable.of(row(*variances)), row(t)[0], row(shift)[0], scale))


def margins_of(
    std: torch.Tensor, *, a: float, b: float, c: float | torch.Tensor, r: float, p: float, anchored: bool = False
) -> torch.Tensor:
    """Margins where the mean moves by `b` and each standard deviation by `c` per unit of the input."""
    t, growth = torch.full_like(std[:, 0], r / a), torch.as_tensor(c, dtype=std.dtype)

    def variances(rho: torch.Tensor) -> torch.Tensor:
        return (std + growth * rho[:, None]).square() + (0 if anchored else std.square())

    return solve_reflection(variances, t=t, shift=lambda rho: b * rho, p=p, upper=t / b)


def in_disc(variances: Sequence[float], mean: np.ndarray, t: float) -> float:
    """`P(|m + e| <= t)` in the plane, by quadrature over the first coordinate."""
    angle = NODES * math.pi / 2  # first coordinate t sin(angle): no square root is left at the ends
    height, (s1, s2) = t * np.cos(angle), np.sqrt(variances)
    second = norm.cdf((height - mean[1]) / s2) - norm.cdf((-height - mean[1]) / s2)
    density = norm.pdf((t * np.sin(angle) - mean[0]) / s1) / s1
    return float((WEIGHTS * math.pi / 2 * density * height * second).sum())


def directions_of(variances: Sequence[float], reach: float) -> torch.Tensor:
    """Unit vectors among which the worst is looked for: axes, and random ones that favour the large variances.

    Only those along which a move by `reach` is still few enough standard deviations for an exact probability.
    """
    std = row(*variances).sqrt()
    generator = torch.Generator().manual_seed(0)
    random = std * torch.randn(12, len(variances), generator=generator, dtype=torch.float64)
    directions = torch.cat([torch.eye(len(variances), dtype=torch.float64), random / random.norm(dim=1, keepdim=True)])
    return directions[(reach * directions / std).norm(dim=1) < 15]


def probability_in(
    directions: torch.Tensor, variances: Sequence[float], t: float, shift: float | torch.Tensor
) -> torch.Tensor:
    spread = row(*variances).expand(len(directions), -1)
    moved = directions * torch.as_tensor(shift, dtype=torch.float64).expand(len(directions)).unsqueeze(1)
    form = QuadraticForm.of(spread, moved / spread.sqrt())
    return form.cdf(torch.full((len(directions),), t * t, dtype=torch.float64))


@settings(max_examples=30, deadline=None)
@given(v1=st.floats(0.05, 4), v2=st.floats(0.05, 4), t=st.floats(0.3, 6), part=st.floats(0, 1.1))
def test_reflection_is_below_every_direction_in_the_plane(v1: float, v2: float, t: float, part: float) -> None:
    ours = reflect([v1, v2], t, part * t)
    angles = np.linspace(0, math.pi / 2, 31)
    directions = [part * t * np.array([math.cos(a), math.sin(a)]) for a in angles]
    assert ours <= min(in_disc([v1, v2], mean, t) for mean in directions) + 1e-12


@settings(max_examples=12, deadline=None)
@given(
    exponents=st.lists(st.floats(-4, 0), min_size=3, max_size=8),
    reach=st.floats(0.5, 5),
    part=st.floats(0, 1),
)
def test_reflection_is_below_directions_of_any_spectrum(exponents: list[float], reach: float, part: float) -> None:
    variances = [10.0**e for e in exponents]
    t = reach * math.sqrt(sum(variances))
    ours = reflect(variances, t, part * t)
    assert ours <= float(probability_in(directions_of(variances, t), variances, t, part * t).min()) + 2e-7


@pytest.mark.parametrize("variances", SPECTRA.values(), ids=SPECTRA)
@pytest.mark.parametrize("t", [2.0, 4.0])
@pytest.mark.parametrize("p", [0.5, 0.9])
def test_margin_is_not_far_below_the_worst_direction(variances: list[float], t: float, p: float) -> None:
    """Within 40 %, as docs/theory.md says; `t` in units of the root mean square of the noise."""
    t *= math.sqrt(sum(variances))
    directions = directions_of(variances, t)
    many = torch.full((len(directions),), t, dtype=torch.float64)
    true = solve_margin(lambda rho: probability_in(directions, variances, t, rho), p, many, 20)
    root = row(*variances).sqrt()
    ours = float(margins_of(root, a=1, b=1, c=0.0, r=t, p=p, anchored=True))
    triangle = t - math.sqrt(_quantile(variances, p))
    worst = float(true.min())
    assert triangle * (1 - 1e-3) - 1e-9 * t <= ours <= worst * (1 + 1e-5)
    assert ours >= 0.6 * worst


def _quantile(variances: Sequence[float], p: float) -> float:
    """The `T` with `P(Q <= T) = p`, from above."""
    form, low, high = QuadraticForm.of(row(*variances)), 0.0, 100 * sum(variances)
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if float(form.cdf(row(middle)[0])) <= p else (low, middle)
    return high


@settings(max_examples=30, deadline=None)
@given(variances=st.lists(st.floats(0.01, 2), min_size=1, max_size=6), t=st.floats(0.1, 8), part=st.floats(0, 0.99))
def test_triangle_is_the_floor(variances: list[float], t: float, part: float) -> None:
    rest = (t - part * t) ** 2
    floor = float(QuadraticForm.of(row(*variances)).cdf(row(rest)[0]))
    ours = reflect(variances, t, part * t)
    assert ours >= floor - 3e-3 or floor < 0.15  # the table ends in that tail
    assert ours >= floor / 2 - 0.05


@pytest.mark.parametrize("t", [0.5, 2.0, 5.0])
@pytest.mark.parametrize("part", [0.0, 0.3, 0.9])
def test_on_the_line(t: float, part: float) -> None:
    """Both halves are known exactly."""
    shift = part * t
    exact = norm.cdf(t - shift) - norm.cdf(-t - shift)
    halves = chi2.cdf(t * t - shift * shift, 1) / 2 + chi2.cdf((t - shift) ** 2, 1) / 2
    ours = reflect([1.0], t, shift)
    assert halves - 1e-3 <= ours <= exact


def test_no_shift_and_far_shifts() -> None:
    central = float(QuadraticForm.of(row(1.0, 2.0)).cdf(row(4.0)[0]))
    assert reflect([1.0, 2.0], 2.0, 0.0) == pytest.approx(central, abs=1e-3)
    for shift in (2.0, 3.0, math.inf, math.nan):
        assert reflect([1.0, 2.0], 2.0, shift) == 0.0
    assert 1 - 1e-8 < reflect([1.0, 1e-8], 1e6, 1.0) < 1
    assert reflect([1.0, 1e-8], 1e-6, 5e-7) < 1e-3
    assert reflect([1.0, 1e-8], 1e-200, 1e-201) == 0.0


@pytest.mark.parametrize("scale", [0.2, 1.0, 3.0])
def test_scale_multiplies_the_variances(scale: float) -> None:
    scaled = [scale * v for v in (1.0, 0.3, 0.1)]
    assert reflect([1.0, 0.3, 0.1], 3.0, 1.2, scale) == pytest.approx(reflect(scaled, 3.0, 1.2), abs=1e-3)


@settings(max_examples=12, deadline=None)
@given(
    std=st.lists(st.floats(0.02, 0.5), min_size=2, max_size=5),
    c=st.one_of(st.just(0.0), st.floats(0.01, 2)),
    p=st.floats(0.5, 0.95),
    anchored=st.booleans(),
)
def test_margins_hold_in_every_direction(std: list[float], c: float, p: float, anchored: bool) -> None:
    """With the standard deviations anywhere in their interval, not only at its end."""
    margin = float(margins_of(row(*std), a=2, b=1.5, c=c, r=4, p=p, anchored=anchored))
    for end in (1.0, 0.5, 0.0, -0.5):
        moved = [max(s + end * c * margin, 1e-6) for s in std]
        variances = [m * m + (0 if anchored else s * s) for m, s in zip(moved, std, strict=True)]
        directions = directions_of(variances, 1.5 * margin)
        if margin > 0 and len(directions):
            assert float(probability_in(directions, variances, 2.0, 1.5 * margin).min()) > p - 2e-7


@pytest.mark.parametrize("c", [0.0, 0.3])
@pytest.mark.parametrize("anchored", [False, True])
def test_equal_coordinates_are_below_the_exact_margin(c: float, anchored: bool) -> None:
    numbers = {"a": 2.0, "b": 3.0, "c": c, "r": 4.0, "p": 0.5, "anchored": anchored}
    exact = float(isotropic_margins(row(0.2)[0], latent=6, **numbers))
    ours = float(margins_of(row(*[0.2] * 6), **numbers))
    assert 0.75 * exact <= ours <= exact


def test_moving_deviations_cost_little_more_than_they_must() -> None:
    """Against the margin for the covariance at that margin, found by search without any scaling."""
    std = row(0.02, 0.1, 0.4)
    ours = float(margins_of(std, a=1, b=1, c=0.1, r=2, p=0.5))

    def probability(rho: torch.Tensor) -> torch.Tensor:
        table = CentralTable.of((std + 0.1 * rho).square() + std.square())
        return reflection_probability(table, torch.full_like(rho, 2.0), rho)

    best = float(solve_margin(probability, 0.5, row(2.0)[0], 30))
    assert 0.97 * best <= ours <= best * (1 + 1e-3)


def test_one_constant_per_coordinate() -> None:
    std, growth = row(0.1, 0.2, 0.3), torch.tensor([0.0, 0.1, 0.2], dtype=torch.float64)
    numbers = {"a": 1.0, "b": 1.0, "r": 2.0, "p": 0.5}
    each = float(margins_of(std, c=growth, **numbers))
    assert float(margins_of(std, c=0.2, **numbers)) < each < float(margins_of(std, c=0.0, **numbers))


def test_an_image_keeps_its_margin_in_any_batch() -> None:
    std = row(0.1, 0.2, 0.3)
    numbers = {"a": 1.0, "b": 2.0, "c": 0.1, "r": 3.0, "p": 0.6}
    equal = margins_of(std.expand(5, -1), **numbers)
    different = margins_of(torch.cat([std, 2 * std]), **numbers)
    assert equal.tolist() == [pytest.approx(float(different[0]), rel=1e-9)] * 5
    assert different[1] < different[0]


@settings(max_examples=5, deadline=None)
@given(
    std=st.lists(st.floats(0.01, 0.3), min_size=2, max_size=6),
    growth=st.lists(st.floats(0.0, 1.0), min_size=6, max_size=6),
)
def test_no_other_reference_proves_much_more(std: list[float], growth: list[float]) -> None:
    """The covariance for which the margin is proved is predicted; none on a grid of others is far better."""
    own, c = row(*std), torch.tensor(growth[: len(std)], dtype=torch.float64)
    ours = float(margins_of(own, a=1, b=1, c=c, r=2, p=0.5))

    def variances(rho: torch.Tensor) -> torch.Tensor:
        return (own + c * rho[:, None]).square() + own.square()

    for reference in np.linspace(0, 2, 9):
        table = CentralTable.of(variances(row(reference)[0]))

        def probability(rho: torch.Tensor, table: CentralTable = table, reference: float = reference) -> torch.Tensor:
            scale = (variances(rho) / variances(row(reference)[0])).amax(1)
            return reflection_probability(table, row(2.0)[0], rho, scale)

        assert float(solve_margin(probability, 0.5, row(2.0)[0])) <= ours * 1.01 + 1e-9


def test_one_table_serves_images_that_differ_by_a_factor() -> None:
    spectrum, factors = row(1.0, 0.3, 0.1), torch.tensor([1e-8, 0.25, 1.0, 3.0, 1e12], dtype=torch.float64)
    table = CentralTable.of(spectrum * factors[:, None])
    thresholds = 1.7 * factors
    alone = float(CentralTable.of(spectrum)(row(1.7)[0]))
    assert table(thresholds).tolist() == [pytest.approx(alone, rel=1e-12)] * 5
    assert table.levels[:, 3].tolist() == pytest.approx((factors * table.levels[2, 3]).tolist(), rel=1e-12)


def test_a_covariance_that_is_unknown_far_out_is_no_obstacle() -> None:
    """As where standard deviations are only bounded on a ball."""

    def variances(rho: torch.Tensor) -> torch.Tensor:
        known = row(0.01, 0.04) * (1 + rho[:, None] * row(1.0, 2.0))
        return torch.where(rho[:, None] > 0.5, math.inf, known)

    numbers = {"t": row(2.0)[0], "shift": lambda rho: rho, "p": 0.5, "upper": row(10.0)[0]}
    assert float(solve_reflection(variances, **numbers)) == pytest.approx(0.5, rel=1e-6)


def test_nothing_is_certified_where_nothing_holds() -> None:
    assert float(margins_of(row(5.0, 9.0), a=1, b=1, c=0.0, r=1, p=0.5)) == 0.0
    assert float(margins_of(row(0.1, 0.2), a=1, b=1, c=0.0, r=1e-6, p=0.5)) == 0.0


def test_shift_may_be_any_function() -> None:
    t = row(2.0)[0]

    def fixed(rho: torch.Tensor) -> torch.Tensor:
        return row(0.01, 0.04).expand(len(rho), -1)

    numbers = {"t": t, "p": 0.5, "upper": row(10.0)[0]}
    linear = solve_reflection(fixed, shift=lambda rho: rho, **numbers)
    square = solve_reflection(fixed, shift=lambda rho: rho.square(), **numbers)
    assert float(square.square()) == pytest.approx(float(linear), rel=1e-6)


@settings(max_examples=30, deadline=None)
@given(
    v=st.tuples(st.floats(0.05, 4), st.floats(0.05, 4)),
    d=st.tuples(st.floats(0, 3), st.floats(-3, 3)),
    t=st.floats(0.3, 6),
)
def test_coordinate_bound_is_the_worst_corner(v: tuple[float, float], d: tuple[float, float], t: float) -> None:
    ours = float(coordinate_probability(row(*v), row(*d), row(t)[0]))
    exact = in_disc(v, np.array(d), t)
    assert exact - 1e-7 <= ours <= exact + 1e-12
    assert ours <= in_disc(v, np.array(d) * [0.3, 0.8], t)


@pytest.mark.parametrize("shift", [0.1, 1.0, 5.0, 30.0, 300.0])
def test_coordinate_bound_for_equal_variances(shift: float) -> None:
    """Exact as long as a contour serves; beyond, the triangle inequality still leaves something."""
    t = 10 * shift + 8.0
    ours = float(coordinate_probability(torch.ones(1, 4).double(), torch.full((1, 4), shift).double(), row(t)[0]))
    assert 1 - 1e-6 < ours < 1
    near = 2 * shift + 0.5
    ours = float(coordinate_probability(torch.ones(1, 4).double(), torch.full((1, 4), shift).double(), row(near)[0]))
    exact = float(ncx2.cdf(near**2, 4, 4 * shift**2))
    assert ours <= exact + 1e-12
    assert ours >= exact - 1e-6 or shift > 16


def test_small_coordinates_that_move_far_in_their_own_units() -> None:
    """Ten thousand standard deviations of a coordinate that hardly matters."""
    variances, shifts = row(1.0, 1e-12), row(0.5, 0.01)
    ours = float(coordinate_probability(variances, shifts, row(2.0)[0]))
    alone = float(coordinate_probability(row(1.0), row(0.5), row(math.sqrt(4 - 1e-4))[0]))
    assert alone - 1e-4 <= ours <= alone
    still = float(coordinate_probability(row(1.0, 0.0), shifts, row(2.0)[0]))
    assert ours - 1e-4 <= still <= alone


def test_coordinate_bound_at_the_edges() -> None:
    ones = torch.ones(1, 2).double()
    assert float(coordinate_probability(ones, row(math.inf, 0.0), row(9.0)[0])) == 0.0
    assert float(coordinate_probability(ones, row(0.0, 1.0), row(0.0)[0])) == 0.0
    with pytest.raises(ValueError, match="expected squared `shifts`"):
        coordinate_probability(ones, row(math.nan, 0.0), row(1.0)[0])
