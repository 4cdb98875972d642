import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vaerdict.checker import spectral
from vaerdict.checker.spectral import bound_matrix_norm


def exact_norm(matrix: np.ndarray) -> mpmath.mpf:
    with mpmath.workdps(40):
        exact = mpmath.matrix(matrix.tolist())
        values = mpmath.svd_r(exact, compute_uv=False)
        return max(values)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 7), st.integers(1, 7), st.integers(0, 2**32 - 1), st.integers(-60, 60))
def test_above_the_exact_norm_and_near(rows: int, columns: int, seed: int, exponent: int) -> None:
    generator = np.random.default_rng(seed)
    matrix = generator.standard_normal((rows, columns)) * generator.choice([1.0, 1e-7], columns) * 2.0**exponent
    exact, bound = exact_norm(matrix), bound_matrix_norm(matrix)
    assert bound >= exact
    assert bound <= exact * (1 + 1e-12)


@pytest.mark.parametrize("size", [3, 64, 300])
def test_all_singular_values_equal(size: int) -> None:
    q = np.linalg.qr(np.random.default_rng(0).standard_normal((size, size))).Q
    assert 1 - 1e-13 < bound_matrix_norm(3 * q) / 3 < 1 + 1e-10


def test_zero_and_bad_numbers() -> None:
    assert bound_matrix_norm(np.zeros((2, 3))) == 0.0
    with pytest.raises(ValueError, match="finite weights"):
        bound_matrix_norm(np.array([[np.nan]]))


def test_numbers_near_the_ends_of_the_range() -> None:
    assert 1e150 <= bound_matrix_norm(np.array([[1e150]])) <= 1e150 * (1 + 1e-12)
    assert 1e-300 <= bound_matrix_norm(np.array([[1e-300]])) <= 1e-300 * (1 + 1e-12)


@pytest.mark.parametrize("fault", [lambda matrix: 0.5 * matrix, lambda matrix: np.tril(np.ones_like(matrix))])
def test_a_wrong_factor_makes_the_bound_large_and_not_false(monkeypatch: pytest.MonkeyPatch, fault) -> None:  # type: ignore[no-untyped-def]
    matrix = np.random.default_rng(0).standard_normal((6, 9))
    monkeypatch.setattr(spectral.np.linalg, "cholesky", fault)
    assert bound_matrix_norm(matrix) >= np.linalg.norm(matrix, 2)


def test_a_wrong_eigenvalue_makes_the_bound_large_and_not_false(monkeypatch: pytest.MonkeyPatch) -> None:
    matrix = np.random.default_rng(0).standard_normal((6, 9))
    monkeypatch.setattr(spectral.np.linalg, "eigvalsh", lambda gram: np.array([0.1]))
    assert bound_matrix_norm(matrix) >= np.linalg.norm(matrix, 2)
