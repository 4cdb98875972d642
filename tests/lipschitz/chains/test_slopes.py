"""Chords from a point near the centre: their slopes lie in the interval, which is no wider than that of all chords."""

import math
from collections.abc import Callable
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from vaerdict.lipschitz.chains.chain import dense_chain
from vaerdict.lipschitz.chains.slopes import chord_interval, slope_interval
from vaerdict.lipschitz.graph.trace import trace
from vaerdict.lipschitz.layers import MaxMin

Ends = tuple[Tensor, Tensor]
FOLD = dense_chain(trace(MaxMin(), (2,))).activations[0]
NEGATIVE = [0.0, 0.1, 1.0, 2.0, -0.5, -3.0, -1.0]
SMOOTH = [nn.Tanh(), nn.Sigmoid(), nn.GELU(), nn.SiLU(), nn.ELU(2.5), nn.Softplus(beta=3, threshold=40)]

floats = st.one_of(
    st.sampled_from([0.0, -0.0, 5e-324, -5e-324, 1e-200, 1e308, -1e308]),
    st.floats(-3, 3),
    st.floats(allow_nan=False, allow_infinity=False),
)


def chords_of(negative: float) -> Callable[[Ends, Tensor, Tensor], Ends]:
    """Give the rule for slope `negative` below 0: of ReLU, of LeakyReLU, and of the absolute value in MaxMin."""
    if negative == -1.0:
        return lambda near, low, high: tuple(end[..., 1:] for end in FOLD.chords(*paired(near, low, high)))
    layer = nn.LeakyReLU(negative) if negative else nn.ReLU()
    return lambda near, low, high: chord_interval(layer, near, low, high)


def paired(near: Ends, low: Tensor, high: Tensor) -> tuple[Ends, Tensor, Tensor]:
    """Repeat the ends: for a sum and for a difference."""
    ends = [torch.cat([one, one], -1) for one in (*near, low, high)]
    return (ends[0], ends[1]), ends[2], ends[3]


def interval(negative: float, near: tuple[float, float], low: float, high: float) -> tuple[float, float]:
    ends = [torch.tensor([[end]], dtype=torch.float64) for end in (*near, low, high)]
    least, greatest = chords_of(negative)((ends[0], ends[1]), ends[2], ends[3])
    return float(least), float(greatest)


def exact_slope(negative: float, start: float, end: float) -> Fraction:
    values = [Fraction(x) * (1 if x > 0 else Fraction(negative)) for x in (start, end)]
    return (values[1] - values[0]) / (Fraction(end) - Fraction(start))


@pytest.mark.parametrize("negative", NEGATIVE)
@settings(max_examples=40, deadline=None)
@given(points=st.lists(floats, min_size=5, max_size=5).map(sorted), others=st.lists(floats, max_size=4))
def test_no_chord_from_the_centre_leaves_the_interval(
    negative: float, points: list[float], others: list[float]
) -> None:
    """In exact arithmetic; the centre may be anywhere in `nearest`."""
    low, first, middle, last, high = points
    least, greatest = interval(negative, (first, last), low, high)
    anywhere = sorted([1.0, negative])
    assert anywhere[0] <= least <= greatest <= anywhere[1]
    ends = [low, high, first, last, *(min(max(one, low), high) for one in (0.0, *others))]
    slopes = [exact_slope(negative, c, y) for c in (first, middle, last) for y in ends if c != y]
    assert all(least <= slope <= greatest for slope in slopes)


@pytest.mark.parametrize("negative", NEGATIVE)
@settings(max_examples=20, deadline=None)
@given(points=st.lists(st.floats(-3, 3), min_size=3, max_size=3).map(sorted))
def test_the_ends_are_attained_from_a_known_centre(negative: float, points: list[float]) -> None:
    low, center, high = points
    if low == high or center == 0.0:
        return
    slopes = [float(exact_slope(negative, center, y)) for y in (low, high) if y != center]
    slopes.append(1.0 if center > 0 else negative)
    least, greatest = interval(negative, (center, center), low, high)
    assert least == pytest.approx(min(slopes), abs=1e-11)
    assert greatest == pytest.approx(max(slopes), abs=1e-11)


@pytest.mark.parametrize("layer", [nn.ReLU(), nn.LeakyReLU(0.3), nn.LeakyReLU(-2.0), *SMOOTH], ids=repr)
def test_never_wider_than_between_any_points(layer: nn.Module) -> None:
    ends = torch.randn(4, 4000, dtype=torch.float64).mul(2).sort(0).values
    least, greatest = chord_interval(layer, (ends[1], ends[2]), ends[0], ends[3])
    lowest, highest = slope_interval(layer, ends[0], ends[3])
    assert bool((lowest <= least).all())
    assert bool((least <= greatest).all())
    assert bool((greatest <= highest).all())
    narrower = (least > lowest + 0.01) | (greatest < highest - 0.01)
    assert bool(narrower.any()) is isinstance(layer, nn.ReLU | nn.LeakyReLU)
    center = ends[1] + torch.rand(4000).double() * (ends[2] - ends[1])
    for share in torch.linspace(0.0, 1.0, 9).tolist():
        point = torch.lerp(ends[0], ends[3], share)
        apart = (point - center).abs() > 1e-3
        slope = ((layer(point) - layer(center)) / (point - center))[apart]
        assert bool((least[apart] - 1e-11 <= slope).all())
        assert bool((slope <= greatest[apart] + 1e-11).all())


@pytest.mark.parametrize("negative", NEGATIVE)
def test_ends_at_infinity_and_of_no_width(negative: float) -> None:
    both = tuple(sorted([1.0, negative]))
    inf = math.inf
    assert interval(negative, (-inf, inf), -inf, inf) == both
    assert interval(negative, (2.0, 3.0), -inf, inf) == pytest.approx(both, abs=1e-11)
    assert interval(negative, (-3.0, -2.0), -inf, inf) == pytest.approx(both, abs=1e-11)
    assert interval(negative, (2.0, 3.0), 0.0, inf) == (1.0, 1.0)
    assert interval(negative, (-3.0, -2.0), -inf, 0.0) == (negative, negative)
    assert interval(negative, (2.0, 2.0), 2.0, 2.0) == (1.0, 1.0)
    assert interval(negative, (-2.0, -2.0), -2.0, -2.0) == (negative, negative)
    assert interval(negative, (0.0, 0.0), -1.0, 1.0) == both
    assert interval(negative, (inf, inf), -inf, inf) == both


def test_a_centre_known_up_to_an_error_on_either_side_of_the_kink_says_nothing() -> None:
    assert interval(0.0, (-1e-300, 1e-300), -1.0, 1.0) == (0.0, 1.0)
    assert interval(0.0, (1e-300, 1.0), -1.0, 1.0) == pytest.approx((0.0, 1.0), abs=1e-12)


def test_sums_of_pairs_have_slope_1() -> None:
    ends = torch.tensor([[-1.0]]).double()
    least, greatest = FOLD.chords(*paired((3 * -ends, 3 * -ends), ends, 5 * -ends))
    assert least.tolist() == [[1.0, pytest.approx(0.5, abs=1e-12)]]
    assert greatest.tolist() == [[1.0, 1.0]]
