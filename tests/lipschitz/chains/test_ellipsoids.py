"""What a shape is said to hold, it holds: for every slope in the interval, in the order of matrices."""

import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from vaerdict.lipschitz.chains.ellipsoids import bound_activation, bound_last_activation, bound_linear, bound_norms


def shapes_of(kind: str, size: int, scale: float) -> Tensor:
    factor = torch.randn(3, size, 1 if kind == "rank one" else size, dtype=torch.float64)
    if kind == "orthogonal":
        factor = torch.linalg.qr(factor).Q
    return scale * factor @ factor.mT * (0.0 if kind == "zero" else 1.0)


@settings(max_examples=60, deadline=None)
@given(
    kind=st.sampled_from(["full", "rank one", "orthogonal", "zero"]),
    ends=st.sampled_from([(0.0, 1.0), (-1.0, 1.0), (-0.13, 1.13), (0.5, 0.5 + 1e-13)]),
    stable=st.sampled_from([0.0, 0.5, 1.0]),
    scale=st.sampled_from([1e-30, 1e-6, 1.0]),
    size=st.sampled_from([1, 2, 5]),
    seed=st.integers(0, 2**31),
)
def test_activations_with_any_slopes_in_the_interval_are_held(
    kind: str, ends: tuple[float, float], stable: float, scale: float, size: int, seed: int
) -> None:
    torch.manual_seed(seed)
    shapes = shapes_of(kind, size, scale)
    low = torch.full((3, size), ends[0], dtype=torch.float64)
    high = torch.where(torch.rand(3, size) < stable, low, ends[1])
    held, last = bound_activation(shapes, low, high), bound_last_activation(shapes, low, high)
    assert (bound_norms(last) <= 1.2 * bound_norms(shapes) + 1e-140).all()
    for _ in range(20):
        slopes = torch.where(torch.rand(3, size) < 0.5, low, high)
        after = slopes[:, :, None] * shapes * slopes[:, None]
        assert float(torch.linalg.eigvalsh(held - after).min()) >= -1e-14 * scale * size
        assert (torch.linalg.matrix_norm(after, 2).sqrt() <= bound_norms(last) * (1 + 1e-14)).all()
    known = (low == high).all(1)
    exact = low[:, :, None] * shapes * low[:, None]
    torch.testing.assert_close(held[known], exact[known], rtol=1e-9, atol=1e-9 * scale)


@settings(max_examples=40, deadline=None)
@given(
    kind=st.sampled_from(["full", "rank one", "zero"]),
    spread=st.sampled_from([0.0, 3.0, 300.0, math.inf]),
    gap=st.sampled_from([-math.inf, -800.0, -12.0, 0.0, 20.0, 800.0, math.nan]),
    stable=st.sampled_from([0.0, 0.5, 1.0]),
    seed=st.integers(0, 2**31),
)
def test_any_multipliers_at_all_give_shapes_that_hold(
    kind: str, spread: float, gap: float, stable: float, seed: int
) -> None:
    torch.manual_seed(seed)
    shapes, low = shapes_of(kind, 5, 1.0), torch.full((3, 5), -0.2, dtype=torch.float64)
    high = torch.where(torch.rand(3, 5) < stable, low, 1.0)
    shares, gaps = spread * torch.randn(3, 5).double(), torch.tensor([[gap], [0.0], [0.0]]).double()
    held = bound_activation(shapes, low, high, shares, gaps)
    assert bool(torch.isfinite(held).all())
    for _ in range(20):
        slopes = torch.where(torch.rand(3, 5) < 0.5, low, high)
        after = slopes[:, :, None] * shapes * slopes[:, None]
        assert float(torch.linalg.eigvalsh(held - after).min()) >= -1e-15 * float(held.abs().max())


def test_a_shape_whose_multipliers_fail_takes_the_closed_form_and_others_their_own() -> None:
    shapes, low = shapes_of("full", 4, 1.0), torch.zeros(3, 4, dtype=torch.float64)
    shares, gaps = torch.zeros(3, 4).double(), torch.zeros(3, 1).double()
    gaps[1] = math.nan
    closed, own = (bound_activation(shapes, low, low + 1.0, *some) for some in ((), (shares, gaps)))
    torch.testing.assert_close(own[1], closed[1], rtol=1e-9, atol=0)
    assert not torch.allclose(own[0], closed[0], rtol=1e-3)
    alone = bound_activation(shapes[:1], low[:1], low[:1] + 1.0, shares[:1], gaps[:1])
    torch.testing.assert_close(own[:1], alone, rtol=1e-9, atol=0)


@settings(max_examples=30, deadline=None)
@given(kind=st.sampled_from(["full", "rank one", "zero"]), off=st.sampled_from([0.0, 1e-3]), seed=st.integers(0, 2**31))
def test_matrices_within_their_error_are_held(kind: str, off: float, seed: int) -> None:
    torch.manual_seed(seed)
    shapes, weight = shapes_of(kind, 4, 1.0), torch.randn(3, 4, dtype=torch.float64)
    held = bound_linear(shapes, weight, off, float(weight.norm()) + off)
    for _ in range(20):
        step = torch.randn(3, 4, dtype=torch.float64)
        meant = weight + off * step / step.norm()
        assert float(torch.linalg.eigvalsh(held - meant @ shapes @ meant.T).min()) >= -1e-13
    norms = torch.linalg.matrix_norm(shapes, 2).sqrt()
    assert (norms * (1 - 1e-14) <= bound_norms(shapes)).all()
    torch.testing.assert_close(bound_norms(shapes), norms, rtol=1e-6, atol=1e-100)
