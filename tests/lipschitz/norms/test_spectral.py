"""The bound is never below the true norm, and close above it."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mpmath import mp

from vaerdict.lipschitz.norms import spectral
from vaerdict.lipschitz.norms.spectral import bound_largest_eigenvalue, bound_largest_of_all, bound_spectral_norm


def exact_norm(weight: torch.Tensor) -> float:
    """Compute the largest singular value at 40 digits."""
    with mp.workdps(40):
        matrix = mp.matrix(weight.double().tolist())
        gram = matrix.T * matrix if matrix.rows >= matrix.cols else matrix * matrix.T
        return mp.sqrt(max(mp.eigsy(gram, eigvals_only=True)))


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 8),
    columns=st.integers(1, 8),
    seed=st.integers(0, 2**31),
    exponent=st.sampled_from([-300, -30, -3, 0, 3, 30, 300]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    spread=st.booleans(),
)
def test_is_above_the_norm_at_forty_digits(
    rows: int, columns: int, seed: int, exponent: int, dtype: torch.dtype, spread: bool
) -> None:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(rows, columns, dtype=dtype, generator=generator)
    if spread:  # rows of very different sizes
        weight *= 10.0 ** torch.linspace(0, -12, rows, dtype=dtype).unsqueeze(1)
    weight *= 10.0 ** min(exponent, 30) if dtype == torch.float32 else 10.0**exponent
    bound, truth = bound_spectral_norm(weight), exact_norm(weight)
    assert truth <= bound <= truth * (1 + 1e-10) + 5e-324


@pytest.mark.parametrize("shape", [(300, 200), (64, 500), (1, 1000)])
def test_is_tight_for_larger_layers(shape: tuple[int, int]) -> None:
    weight = torch.randn(shape)
    truth = float(np.linalg.norm(weight.double().numpy(), 2))
    assert truth * (1 - 1e-14) <= bound_spectral_norm(weight) <= truth * (1 + 1e-7)


def test_equal_singular_values_are_covered() -> None:
    """Power iteration and a careless Cholesky both fail on orthogonal weights rounded to float32."""
    weight = torch.linalg.qr(torch.randn(40, 40)).Q
    assert bound_spectral_norm(weight) >= float(np.linalg.norm(weight.double().numpy(), 2)) * (1 - 1e-15)


def test_zero_matrix_has_norm_zero() -> None:
    assert bound_spectral_norm(torch.zeros(3, 2)) == 0.0


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_refuses_weights_that_are_not_finite(bad: float) -> None:
    with pytest.raises(ValueError, match="finite"):
        bound_spectral_norm(torch.tensor([[1.0, bad]]))


def test_subnormal_and_huge_weights() -> None:
    assert bound_spectral_norm(torch.full((1, 2), 5e-324, dtype=torch.float64)) >= 7e-324
    with pytest.raises(ValueError, match="expected weights below"):
        bound_spectral_norm(torch.full((2, 2), 1.7e308, dtype=torch.float64))


def test_refuses_complex_weights() -> None:
    with pytest.raises(ValueError, match="complex"):
        bound_spectral_norm(torch.ones(2, 2, dtype=torch.complex64))


def test_large_semi_orthogonal_layers_are_tight() -> None:
    """All singular values are equal up to float32 rounding: Lanczos' method has nothing to hold on to."""
    weight = torch.linalg.qr(torch.randn(700, 600)).Q
    truth = float(np.linalg.norm(weight.double().numpy(), 2))
    assert truth * (1 - 1e-14) <= bound_spectral_norm(weight) <= truth * (1 + 1e-6)


@pytest.mark.parametrize("values", [torch.linspace(0, 1, 600), 1 - 1e-6 * torch.rand(600), torch.eye(600)[0]])
def test_spectra_that_deceive_lanczos(values: torch.Tensor) -> None:
    """Evenly spread, clustered at the top, and one value alone."""
    left, right = (torch.linalg.qr(torch.randn(600, 600, dtype=torch.float64)).Q for _ in range(2))
    weight = left @ (values.double().unsqueeze(1) * right)
    truth = float(np.linalg.norm(weight.numpy(), 2))
    assert truth * (1 - 1e-14) <= bound_spectral_norm(weight) <= truth * 1.001


def test_an_eigenvector_hidden_from_the_start_costs_tightness_not_soundness(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spectral, "estimate_largest_eigenvalue", lambda *_, **__: (0.7, 0.0))
    weight = torch.eye(300, dtype=torch.float64)
    assert bound_spectral_norm(weight) >= 1.0


@settings(max_examples=40, deadline=None)
@given(
    size=st.integers(1, 40),
    count=st.integers(1, 5),
    seed=st.integers(0, 2**31),
    rank=st.integers(0, 3),
    scale=st.sampled_from([1e-200, 1.0, 1e200]),
    complex_entries=st.booleans(),
)
def test_eigenvalues_of_stacks(
    size: int, count: int, seed: int, rank: int, scale: float, complex_entries: bool
) -> None:
    """Indefinite, of low rank or zero, real or complex, small (factored together) or larger (one by one)."""
    random = np.random.default_rng(seed)
    factors = random.standard_normal((count, size, rank)) + 1j * complex_entries * random.standard_normal((1, size, 1))
    factors = factors if complex_entries else factors.real
    signs = random.choice([-1.0, 1.0], size=(count, 1, rank))
    stack = scale * ((signs * factors) @ factors.conj().swapaxes(1, 2))
    eigenvalues = np.linalg.eigvalsh(stack)
    truth, largest = float(eigenvalues.max()), float(np.abs(eigenvalues).max())
    bound = bound_largest_eigenvalue(stack)
    assert truth - 1e-14 * size * largest <= bound <= truth + 1e-9 * largest + 1e-250
    assert bound_largest_of_all([stack[:1], stack]) >= truth - 1e-14 * size * largest


@pytest.mark.parametrize("size", [3, 40, 300])
def test_eigenvalues_refuse_entries_that_are_not_finite(size: int) -> None:
    good, bad = np.eye(size), np.eye(size)
    bad[-1, 0] = math.nan
    with pytest.raises(ValueError, match="finite"):
        bound_largest_of_all([good, bad])


def test_single_precision_is_not_used() -> None:
    """Float32 cannot tell these eigenvalues apart."""
    matrix = np.diag([1.0, 1.0 + 2.0**-23]).astype(np.float32)
    assert 1.0 + 2.0**-23 <= bound_largest_eigenvalue(matrix) <= 1.0 + 2.0**-23 + 1e-9
