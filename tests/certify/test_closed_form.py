"""Margins of plain numbers: the reference values, the exact solution, and the order between the methods."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq
from scipy.stats import ncx2

from vaerdict.certify import margin_barrett, margin_isotropic
from vaerdict.certify.closed_form import barrett_margins, isotropic_margins


@pytest.mark.parametrize(
    ("ab", "barrett", "isotropic"), [(10.0, 0.0322, 0.0677), (5.0, 0.2245, 0.3085)], ids=["ten", "five"]
)
def test_reference_values(ab: float, barrett: float, isotropic: float) -> None:
    numbers = {"latent": 10, "sigma": 0.1, "a": ab, "b": ab, "r": 8.0}
    assert round(margin_barrett(**numbers), 4) == barrett
    assert round(margin_isotropic(**numbers), 4) == isotropic


@settings(max_examples=60, deadline=None)
@given(
    latent=st.integers(1, 64),
    sigma=st.floats(0.01, 0.5),
    a=st.floats(0.5, 10),
    b=st.floats(0.5, 10),
    r=st.floats(0.5, 20),
    p=st.floats(0.5, 0.99),
)
def test_isotropic_is_exact_and_never_below_barrett(
    latent: int, sigma: float, a: float, b: float, r: float, p: float
) -> None:
    numbers = {"latent": latent, "sigma": sigma, "a": a, "b": b, "r": r, "p": p}
    ours, theirs = margin_isotropic(**numbers), margin_barrett(**numbers)
    assert ours >= theirs - 1e-6 * ours
    t, variance = r / a, 2 * sigma**2

    def excess(rho: float) -> float:
        return float(ncx2.cdf(t * t / variance, latent, (b * rho) ** 2 / variance)) - p

    if excess(0.0) <= 1e-6:
        assert ours <= 1e-2 * t / b + 1e-9 or excess(0.9 * ours) > 0
        return
    exact = brentq(excess, 0.0, t / b) if excess(t / b) < 0 else t / b
    assert ours <= exact * (1 + 1e-12)
    assert ours == pytest.approx(exact, rel=1e-4, abs=1e-6)


@settings(max_examples=60, deadline=None)
@given(
    sigma=st.lists(st.floats(0.02, 0.5), min_size=2, max_size=6),
    a=st.floats(0.5, 5),
    b=st.floats(0.5, 5),
    c=st.floats(0, 2),
    r=st.floats(1, 20),
    p=st.floats(0.5, 0.95),
)
def test_barrett_equals_the_published_formula(
    sigma: list[float], a: float, b: float, c: float, r: float, p: float
) -> None:
    """The larger of the root of the quadratic (Markov) and the last point of a grid where the tail is small enough."""
    std = torch.tensor([sigma], dtype=torch.float64)
    margin = float(barrett_margins(std, a=a, b=b, c=c + 1e-9, r=r, p=p))
    size, d = float(std.norm()), len(sigma)
    square = 4 * c * c * size**2 - (b * b + c * c) * (4 * size**2 - (1 - p) * r * r / (a * a))
    markov = max(0.0, (-2 * c * size + math.sqrt(square)) / (b * b + c * c)) if square > 0 else 0.0
    rho = np.linspace(0, r / a / b, 20_001)
    u = (r / a - b * rho) ** 2 / (c * rho + 2 * size) ** 2
    with np.errstate(all="ignore"):
        front = math.exp((d - (d - 1) * math.log(d)) / 2) / math.sqrt(math.pi)
        tail = np.where(u > d - 2, front * u ** (d / 2) * np.exp(-u / 2) / (u - d + 2), 1.0)
    good = rho[tail < 1 - p]
    published = max(markov, good.max() if good.size else 0.0)
    assert margin == pytest.approx(published, rel=1e-6, abs=1.1 * rho[1])


def test_a_spread_that_grows_costs_margin() -> None:
    std = torch.tensor([0.1], dtype=torch.float64)
    numbers = {"latent": 10, "a": 5.0, "b": 5.0, "r": 8.0, "p": 0.5}
    still, moving = (float(isotropic_margins(std, c=c, **numbers)) for c in (0.0, 0.5))
    assert 0 < moving < still
    assert float(isotropic_margins(std, c=0.0, anchored=True, **numbers)) > still


def test_each_image_keeps_its_own_margin() -> None:
    std = torch.tensor([0.05, 0.1, 0.2], dtype=torch.float64)
    margins = isotropic_margins(std, latent=4, a=2.0, b=3.0, c=0.0, r=2.0, p=0.5)
    alone = [margin_isotropic(latent=4, sigma=s, a=2.0, b=3.0, r=2.0) for s in std.tolist()]
    assert margins.tolist() == pytest.approx(alone, rel=1e-12)


@pytest.mark.parametrize("margin", [margin_barrett, margin_isotropic])
@pytest.mark.parametrize(
    "wrong", [{"r": 0.0}, {"r": -1.0}, {"p": 0.4}, {"p": 1.0}, {"sigma": 0.0}, {"a": math.nan}, {"latent": 0}]
)
def test_wrong_numbers_are_named(margin: object, wrong: dict[str, float]) -> None:
    numbers = {"latent": 10, "sigma": 0.1, "a": 5.0, "b": 5.0, "r": 8.0, "p": 0.5}
    with pytest.raises(ValueError, match=f"expected .*{next(iter(wrong))}"):
        margin(**{**numbers, **wrong})  # type: ignore[operator]
