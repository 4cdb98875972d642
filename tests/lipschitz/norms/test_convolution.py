"""The bounds on convolutions are never below the operator's norm, and close above it."""

import math
import warnings
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from torch import nn

from tests.lipschitz.norms.convolutions import layers, operator
from vaerdict.lipschitz.norms import convolution
from vaerdict.lipschitz.norms.convolution import bound_convolution_norm
from vaerdict.lipschitz.norms.infinity import bound_inf_norm_of_convolution
from vaerdict.lipschitz.norms.placement import ConvolutionLayer

MODES = ("zeros", "circular", "reflect", "replicate")
ROUNDING = 1 - 1e-13  # of the SVD that stands for the truth
Drawn = tuple[ConvolutionLayer, tuple[int, ...]]


def norm(layer: ConvolutionLayer, shape: tuple[int, ...]) -> float:
    return float(np.linalg.norm(operator(layer, shape), 2))


@pytest.fixture
def limits(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Choose the way of proving: what is small and what is affordable."""

    def choose(**values: float) -> None:
        for name, value in values.items():
            monkeypatch.setattr(convolution, name, value)

    return choose


@settings(max_examples=80, deadline=None)
@given(drawn=layers(MODES))
def test_small_operators_are_bounded_exactly(drawn: Drawn) -> None:
    truth, (bound, _) = norm(*drawn), bound_convolution_norm(*drawn)
    assert truth * ROUNDING <= bound <= truth * (1 + 1e-9)


@settings(max_examples=50, deadline=None)
@given(drawn=layers(MODES))
def test_banded_factorisation_is_as_exact(drawn: Drawn) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(convolution, "_DENSE", 0)
        truth, (bound, evidence) = norm(*drawn), bound_convolution_norm(*drawn)
    assert truth * ROUNDING <= bound <= truth * 1.001
    assert "rows" in evidence or bound == 0.0


@settings(max_examples=80, deadline=None)
@given(drawn=layers(("zeros", "circular")))
def test_symbol_is_never_below(drawn: Drawn) -> None:
    layer, shape = drawn
    truth = norm(layer, shape)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(convolution, "_LARGEST", 0)
        bound, evidence = bound_convolution_norm(layer, shape)
        patch.setattr(convolution, "_AFFORDABLE", 0.0)  # the grid of the supremum, and no shifts
        assert truth * ROUNDING <= bound_convolution_norm(layer, shape)[0]
    assert truth * ROUNDING <= bound
    assert "symbol" in evidence or bound == 0.0


@settings(max_examples=60, deadline=None)
@given(drawn=layers(("zeros", "circular")))
def test_bound_without_a_size_holds_for_a_size(drawn: Drawn) -> None:
    layer, shape = drawn
    wide = any(2 * p > d * (k - 1) for p, d, k in zip(layer.padding, layer.dilation, layer.kernel_size, strict=True))
    if layer.padding_mode == "circular" and wide:
        with pytest.raises(ValueError, match="expected `input_shape` for circular padding"):
            bound_convolution_norm(layer)
    else:
        assert norm(layer, shape) * ROUNDING <= bound_convolution_norm(layer)[0]


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Conv2d(3, 4, 3, padding=1), (3, 16, 16)),
        (nn.Conv2d(2, 8, 4, stride=2, padding=1), (2, 20, 20)),
        (nn.Conv2d(2, 2, 3, padding="same", dilation=2, groups=2), (2, 26, 26)),
        (nn.ConvTranspose2d(4, 2, 4, stride=2, padding=1), (4, 11, 11)),
        (nn.ConvTranspose2d(4, 2, 3, stride=2, padding=1, output_padding=1), (4, 11, 11)),
        (nn.Conv1d(3, 3, 5, padding=2), (3, 90)),
        (nn.Conv2d(3, 3, 3, padding=1, padding_mode="circular"), (3, 12, 12)),
    ],
    ids=str,
)
def test_symbol_is_within_two_percent_on_larger_images(
    layer: ConvolutionLayer, shape: tuple[int, ...], limits: Callable[..., None]
) -> None:
    limits(_LARGEST=0)
    layer.reset_parameters()  # with the test's seed
    truth, (bound, _) = norm(layer.double(), shape), bound_convolution_norm(layer, shape)
    assert truth * ROUNDING <= bound <= 1.02 * truth


def test_shifted_grids_are_closer(limits: Callable[..., None]) -> None:
    """For the kernel 1, 2, 1 the norm on n pixels is 2 + 2 cos(pi / (n + 1)): n + 1 points, moved by half a step."""
    layer = nn.Conv1d(1, 1, 3, padding=1, bias=False)
    layer.weight.data = torch.tensor([[[1.0, 2.0, 1.0]]])
    limits(_LARGEST=0)
    for size in (7, 8, 31):
        assert bound_convolution_norm(layer, (1, size))[0] == pytest.approx(2 + 2 * math.cos(math.pi / (size + 1)))


def test_more_rows_than_fit_one_factorisation() -> None:
    layer = nn.Conv2d(36, 36, 5, padding=2)
    with torch.no_grad():
        layer.weight += 0.3 * torch.randn(36, 36, 1, 1)
    truth, (bound, evidence) = norm(layer.double(), (36, 6, 6)), bound_convolution_norm(layer, (36, 6, 6))
    assert truth * ROUNDING <= bound <= truth * (1 + 1e-6)
    assert evidence == "verified Cholesky of the Gram matrix of 1296 rows"


def test_written_out_replaces_a_symbol_that_is_not_close(limits: Callable[..., None]) -> None:
    layer = nn.Conv2d(2, 2, 5, padding=2)
    limits(_CHEAP=0.0, _CLOSE=0.0)
    truth, (bound, evidence) = norm(layer.double(), (2, 5, 5)), bound_convolution_norm(layer, (2, 5, 5))
    assert truth * ROUNDING <= bound <= truth * (1 + 1e-9)
    assert "Gram" in evidence
    limits(_CLOSE=100.0)
    assert "symbol" in bound_convolution_norm(layer, (2, 5, 5))[1]


def test_only_the_groups_that_may_be_largest_are_proved_exactly() -> None:
    layer = nn.Conv2d(40, 40, 3, padding=1, groups=40)
    with torch.no_grad():
        layer.weight *= torch.linspace(1e-200, 1, 40).reshape(-1, 1, 1, 1)
    truth, (bound, _) = norm(layer.double(), (40, 5, 5)), bound_convolution_norm(layer, (40, 5, 5))
    assert truth * ROUNDING <= bound <= truth * (1 + 1e-9)


def test_transposed_has_the_norm_of_its_adjoint() -> None:
    layer = nn.Conv2d(3, 5, 3, stride=2, padding=1)
    adjoint = nn.ConvTranspose2d(5, 3, 3, stride=2, padding=1, output_padding=1)
    adjoint.weight = layer.weight
    assert bound_convolution_norm(layer, (3, 8, 8))[0] == bound_convolution_norm(adjoint, (5, 4, 4))[0]


@settings(max_examples=80, deadline=None)
@given(drawn=layers(MODES))
def test_inf_norm_is_the_largest_row_sum(drawn: Drawn) -> None:
    layer, shape = drawn
    truth = float(np.abs(operator(layer, shape)).sum(axis=1).max())
    bound = bound_inf_norm_of_convolution(layer, shape)
    assert truth * ROUNDING <= bound <= bound_inf_norm_of_convolution(layer) * (1 + 1e-12)
    if layer.padding_mode == "zeros":
        assert bound <= truth * (1 + 1e-11)


def test_inf_norm_without_a_size_is_reached() -> None:
    layer = nn.ConvTranspose1d(2, 3, 4, stride=3, padding=1).double()
    truth = float(np.abs(operator(layer, (2, 12))).sum(axis=1).max())
    assert truth * ROUNDING <= bound_inf_norm_of_convolution(layer) <= truth * (1 + 1e-12)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_refuses_weights_that_are_not_finite(bad: float) -> None:
    layer = nn.Conv1d(1, 1, 2)
    layer.weight.data[0, 0, 0] = bad
    for bound in (bound_convolution_norm, bound_inf_norm_of_convolution):
        with pytest.raises(ValueError, match="expected finite weights"):
            bound(layer, (1, 4))


def test_refuses_complex_weights() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch calls complex modules experimental
        layer = nn.Conv1d(1, 1, 2, dtype=torch.complex64)
    with pytest.raises(ValueError, match="expected real weights"):
        bound_convolution_norm(layer, (1, 4))


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Conv2d(3, 1, 3), (2, 8, 8)),
        (nn.Conv2d(3, 1, 3), (3, 8)),
        (nn.Conv2d(3, 1, 3), (3, 2, 8)),
        (nn.Conv2d(3, 1, 3), (3, 0, 8)),
        (nn.Conv1d(1, 1, 3, padding=4, padding_mode="reflect"), (1, 4)),
        (nn.Conv1d(1, 1, 3, padding=5, padding_mode="circular"), (1, 4)),
        (nn.ConvTranspose1d(1, 1, 1, padding=2), (1, 4)),
    ],
    ids=str,
)
def test_refuses_shapes_that_do_not_fit(layer: ConvolutionLayer, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="expected `input_shape`"):
        bound_convolution_norm(layer, shape)


def test_refuses_unknown_padding() -> None:
    layer = nn.Conv1d(1, 1, 3)
    layer.padding_mode = "mirror"
    with pytest.raises(ValueError, match="expected `padding_mode`"):
        bound_convolution_norm(layer, (1, 4))
    layer = nn.Conv1d(1, 1, 3)
    layer.padding = (-1,)
    with pytest.raises(ValueError, match="expected `padding` >= 0"):
        bound_convolution_norm(layer, (1, 4))


def test_names_the_way_out_for_reflecting_padding(limits: Callable[..., None]) -> None:
    layer = nn.Conv2d(1, 1, 3, padding=1, padding_mode="reflect")
    with pytest.raises(ValueError, match="expected `input_shape` for reflect padding"):
        bound_convolution_norm(layer)
    limits(_LARGEST=0)
    with pytest.raises(ValueError, match="expected zero or circular padding for an operator of this size"):
        bound_convolution_norm(layer, (1, 8, 8))


def test_weights_of_zero() -> None:
    layer = nn.Conv2d(2, 2, 3)
    nn.init.zeros_(layer.weight)
    assert bound_convolution_norm(layer, (2, 8, 8))[0] == 0.0
    assert bound_convolution_norm(layer)[0] == 0.0
    assert bound_inf_norm_of_convolution(layer) == 0.0
