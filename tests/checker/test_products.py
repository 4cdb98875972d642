"""Products, differences and eigenvalues against exact fractions and 40 digits."""

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vaerdict.checker import spectral
from vaerdict.checker.products import Near, frobenius
from vaerdict.checker.spectral import bound_eigenvalues


def exact(matrix: np.ndarray) -> mpmath.matrix:
    return mpmath.matrix(matrix.tolist())


def apart(found: np.ndarray, meant: mpmath.matrix) -> mpmath.mpf:
    return mpmath.mnorm(exact(found) - meant, "f")


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 6), st.integers(1, 6), st.integers(1, 6), st.integers(0, 2**32 - 1), st.integers(-150, 60))
def test_products_are_as_near_as_said(rows: int, inner: int, columns: int, seed: int, exponent: int) -> None:
    generator = np.random.default_rng(seed)
    first, second = (
        generator.standard_normal((rows, inner)) * 2.0**exponent,
        generator.standard_normal((inner, columns)),
    )
    off = [1e-3 * generator.standard_normal(one.shape) * np.abs(one).max() for one in (first, second)]
    with mpmath.workdps(60):
        plain, meant = Near(first) @ Near(second), exact(first) * exact(second)
        assert apart(plain.values, meant) <= plain.error <= 1e-13 * frobenius(first) * frobenius(second) + 2.0**-1060
        moved = [exact(one) + exact(change) for one, change in zip((first, second), off, strict=True)]
        errors = [frobenius(change) for change in off]
        near = Near(first, errors[0]) @ Near(second, errors[1])
        assert apart(near.values, moved[0] * moved[1]) <= near.error
        factors = generator.standard_normal(inner)
        scaled = Near(first, errors[0]).scaled(factors)
        assert apart(scaled.values, moved[0] * mpmath.diag(factors.tolist())) <= scaled.error
        less = Near(first, errors[0]).minus(Near(2 * first))
        assert apart(less.values, moved[0] - 2 * exact(first)) <= less.error


@pytest.mark.parametrize("size", [1e-200, 1e-320, 1.0, 1e200])
def test_lengths_of_numbers_whose_squares_leave_the_range(size: float) -> None:
    assert size * 2 <= frobenius(np.full((2, 2), size)) <= size * 2 * (1 + 1e-12) + 1e-322
    assert frobenius(np.zeros((2, 2))) < 1e-300


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 6), st.integers(1, 6), st.integers(0, 2**32 - 1))
def test_every_eigenvalue_is_below_its_bound_and_near(rows: int, columns: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    x = generator.standard_normal((rows, columns)) * generator.choice([1.0, 1e-5], columns)
    bounds = bound_eigenvalues(Near(x.T) @ Near(x))
    with mpmath.workdps(60):
        values = sorted(mpmath.eigsy(exact(x).T * exact(x), eigvals_only=True))
        assert all(value <= bound for value, bound in zip(values, bounds.tolist(), strict=True))
        assert bounds[-1] <= values[-1] * (1 + 1e-12)
        assert bounds[0] <= values[0] + 1e-12 * values[-1]


@pytest.mark.parametrize("share", [0.5, 0.0])
def test_wrong_eigenvalues_make_the_bounds_large_and_not_false(monkeypatch: pytest.MonkeyPatch, share: float) -> None:
    x = np.random.default_rng(0).standard_normal((4, 6))
    gram = Near(x) @ Near(x.T)
    values, vectors = np.linalg.eigh(gram.values)
    monkeypatch.setattr(spectral.np.linalg, "eigh", lambda matrix: (share * values, vectors))
    assert (bound_eigenvalues(gram) >= values).all()
    monkeypatch.setattr(spectral.np.linalg, "eigh", lambda matrix: (values, share * vectors))
    assert (bound_eigenvalues(gram) >= values).all()
