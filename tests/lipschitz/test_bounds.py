"""Whole modules: above every difference quotient, equal to the dense operator where that can be written out."""

import copy
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from vaerdict.lipschitz import (
    BallAttention,
    GroupSort,
    Householder,
    L2SelfAttention,
    LipschitzBound,
    MaxMin,
    NoSoundBound,
    Scale,
    bound_lipschitz,
    lipschitz_linear,
    lipschitz_residual_conv2d,
    remove_parametrizations,
)
from vaerdict.lipschitz.estimate import estimate_lipschitz


def dense_norm(layer: nn.Module, shape: tuple[int, ...]) -> float:
    """Write a linear layer out as a matrix and give its norm by float64 SVD."""
    layer = layer.double()
    zero = torch.zeros(1, *shape, dtype=torch.float64)
    basis = torch.eye(math.prod(shape), dtype=torch.float64).unflatten(1, shape)
    columns = (layer(basis) - layer(zero)).flatten(1)
    return float(np.linalg.norm(columns.detach().numpy(), 2))


def test_product_of_the_layers_with_its_factors() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Sequential(nn.Linear(6, 4), nn.ReLU()), nn.Linear(4, 2), nn.Sigmoid())
    bound = bound_lipschitz(net)
    norms = [np.linalg.norm(layer.weight.detach().double().numpy(), 2) for layer in (net[1][0], net[2])]
    assert float(bound) == pytest.approx(norms[0] * norms[1] / 4, rel=1e-10)
    assert [factor.path for factor in bound.factors] == ["0", "1.0", "1.1", "2", "3"]
    assert "product" in str(bound)
    assert "Sigmoid" in str(bound)


@settings(max_examples=15, deadline=None)
@given(
    kernel=st.integers(1, 4),
    stride=st.integers(1, 3),
    padding=st.integers(0, 2),
    dilation=st.integers(1, 2),
    groups=st.sampled_from([1, 2]),
    transposed=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_convolutions_are_never_below_the_dense_operator(
    kernel: int, stride: int, padding: int, dilation: int, groups: int, transposed: bool, seed: int
) -> None:
    torch.manual_seed(seed)
    make = nn.ConvTranspose2d if transposed else nn.Conv2d
    output_padding = {"output_padding": max(stride, dilation) - 1} if transposed else {}
    layer = make(2, 4, kernel, stride=stride, padding=padding, dilation=dilation, groups=groups, **output_padding)
    size = dilation * (kernel - 1) + 1 + 5
    truth = dense_norm(layer, (2, size, size))
    bound = float(bound_lipschitz(layer))
    assert truth * (1 - 1e-12) <= bound <= truth * 2 * kernel + 1e-9


ACTIVATIONS = [
    nn.ReLU(),
    nn.LeakyReLU(0.3),
    nn.LeakyReLU(2.0),
    nn.ELU(),
    nn.ELU(3.0),
    nn.Tanh(),
    nn.Sigmoid(),
    nn.SiLU(),
    nn.GELU(),
    nn.Softplus(threshold=40),
    MaxMin(),
    Scale(-2.5),
]


@pytest.mark.parametrize("layer", ACTIVATIONS, ids=repr)
def test_activations_against_their_steepest_slope_on_a_fine_grid(layer: nn.Module) -> None:
    grid = torch.linspace(-8, 8, 200_001, dtype=torch.float64)
    values = layer(torch.stack([grid, torch.full_like(grid, -9.0)], -1))[:, 0]
    steepest = float(((values[1:] - values[:-1]) / (grid[1:] - grid[:-1])).abs().max())
    bound = float(bound_lipschitz(layer))
    assert steepest * (1 - 1e-8) <= bound <= steepest * 1.001


def test_batch_norm_in_evaluation_mode() -> None:
    layer = nn.BatchNorm2d(3)
    layer.running_var.copy_(torch.tensor([0.5, 2.0, 9.0]))
    layer.weight.data.copy_(torch.tensor([-1.0, 4.0, 1.0]))
    assert float(bound_lipschitz(layer.eval())) == pytest.approx(4 / math.sqrt(2 + layer.eps))
    with pytest.raises(NoSoundBound, match="evaluation"):
        bound_lipschitz(layer.train())


def test_no_pair_of_inputs_beats_the_bound_of_a_net() -> None:
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3, 2, 1), nn.SiLU(), nn.Flatten(), nn.Linear(64, 8), nn.GELU(), lipschitz_linear(8, 8), MaxMin()
    ).double()
    x = torch.randn(500, 1, 8, 8, dtype=torch.float64)
    y = x + 1e-3 * torch.randn_like(x)
    quotient = (net(x) - net(y)).norm(dim=1) / (x - y).flatten(1).norm(dim=1)
    assert float(quotient.detach().max()) <= float(bound_lipschitz(net))


@pytest.mark.parametrize("layer", [nn.Softmax(-1), nn.RMSNorm(4), nn.MultiheadAttention(4, 1), nn.MaxPool2d(2)])
def test_unknown_layer_is_refused_by_name(layer: nn.Module) -> None:
    with pytest.raises(NoSoundBound, match=rf"`1` \({type(layer).__name__}\)"):
        bound_lipschitz(nn.Sequential(nn.Linear(4, 4), layer))


class _Doubled(nn.Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(x)


def test_a_subclass_with_its_own_forward_is_not_taken_for_its_parent() -> None:
    with pytest.raises(NoSoundBound, match="_Doubled"):
        bound_lipschitz(_Doubled(3, 3))


def test_hooks_and_replaced_forwards_are_refused() -> None:
    layer = nn.Linear(3, 3)
    handle = layer.register_forward_hook(lambda module, inputs, output: 10 * output)
    with pytest.raises(NoSoundBound, match="hooks"):
        bound_lipschitz(nn.Sequential(layer))
    handle.remove()
    layer.forward = lambda x: 10 * x  # type: ignore[method-assign]
    with pytest.raises(NoSoundBound, match="hooks"):
        bound_lipschitz(nn.Sequential(layer))


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (nn.Conv2d(1, 1, 3, padding=1, padding_mode="reflect"), "input_shape.*padding"),
        (nn.GELU("tanh"), "approximation"),
        (nn.Dropout(), "evaluation"),
        (nn.Softplus(), "jump"),
        (Scale(math.inf), "finite"),
    ],
)
def test_settings_without_a_proof_are_refused(layer: nn.Module, message: str) -> None:
    with pytest.raises(NoSoundBound, match=message):
        bound_lipschitz(layer)


def test_weights_that_are_not_finite_are_refused_by_layer() -> None:
    net = nn.Sequential(nn.ReLU(), nn.Linear(2, 2))
    net[1].weight.data[0, 0] = math.nan
    with pytest.raises(NoSoundBound, match=r"`1`.*NaN"):
        bound_lipschitz(net)


def test_other_norms_are_refused() -> None:
    with pytest.raises(ValueError, match=r"expected `norm` 2 or math\.inf, got 1"):
        bound_lipschitz(nn.ReLU(), norm=1)


def test_an_unknown_padding_mode_is_refused() -> None:
    layer = nn.Conv2d(1, 1, 3, padding=1)
    layer.padding_mode = "mirror"  # type: ignore[assignment]
    with pytest.raises(NoSoundBound, match=r"padding_mode.*'mirror'"):
        bound_lipschitz(layer)


def test_bound_is_a_number() -> None:
    assert isinstance(bound_lipschitz(nn.ReLU()), LipschitzBound)
    assert float(bound_lipschitz(nn.ReLU())) == 1.0


def test_a_layer_used_twice_counts_twice() -> None:
    layer = nn.Linear(4, 4, bias=False)
    layer.weight.data = 3 * torch.eye(4)
    assert float(bound_lipschitz(nn.Sequential(layer, nn.Sequential(layer, layer)))) >= 27


def test_replaced_methods_and_global_hooks_are_refused() -> None:
    layer = nn.Conv2d(1, 1, 3)
    original = layer._conv_forward
    layer._conv_forward = lambda *args: 100 * original(*args)  # type: ignore[method-assign]
    with pytest.raises(NoSoundBound, match="replaced"):
        bound_lipschitz(layer)
    handle = nn.modules.module.register_module_forward_hook(lambda module, inputs, output: 10 * output)
    try:
        with pytest.raises(NoSoundBound, match="hooks"):
            bound_lipschitz(nn.ReLU())
    finally:
        handle.remove()


class _Disguised(nn.Linear):
    def __init__(self) -> None:
        super().__init__(3, 3)
        self.parametrizations = nn.ModuleDict({"weight": nn.Identity()})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 100 * super().forward(x)


def test_a_layer_is_not_believed_to_be_parametrised() -> None:
    with pytest.raises(NoSoundBound, match="_Disguised"):
        bound_lipschitz(_Disguised())


def test_the_kernel_is_measured_not_the_attribute() -> None:
    layer = nn.Conv2d(1, 1, 1, padding=2, bias=False)
    layer.weight = nn.Parameter(torch.ones(1, 1, 5, 5))
    assert float(bound_lipschitz(layer)) >= dense_norm(layer, (1, 8, 8)) * (1 - 1e-12)


@pytest.mark.parametrize(
    "layer", [nn.Linear(2, 2), nn.BatchNorm2d(2).eval(), nn.LeakyReLU(math.nan), nn.ELU(math.nan)], ids=repr
)
def test_numbers_that_are_not_finite_have_no_bound(layer: nn.Module) -> None:
    for values in layer.parameters():
        values.data[0] = math.nan
        break
    if isinstance(layer, nn.Linear):  # a bias alone is enough
        layer.weight.data.fill_(1.0)
        layer.bias.data.fill_(math.nan)
    with pytest.raises(NoSoundBound, match="finite"):
        bound_lipschitz(layer)


def test_products_neither_vanish_nor_round_down() -> None:
    scales = nn.Sequential(*(Scale(factor) for factor in (1e-200, 1e-200, 1e300, 1e200)))
    assert float(bound_lipschitz(scales)) >= 1e100
    learned = nn.Sequential(Scale(1.0), Scale(1.0))
    for layer, factor in zip(learned, (1.1, 1.3), strict=True):
        layer.factor = torch.tensor(factor)
    assert float(bound_lipschitz(learned)) >= float(torch.tensor(1.1)) * float(torch.tensor(1.3))


def test_compiled_calls_and_products_without_a_number_are_refused() -> None:
    layer = nn.Linear(2, 2)
    layer._compiled_call_impl = lambda x: 100 * x  # type: ignore[assignment]
    with pytest.raises(NoSoundBound, match="replaced"):
        bound_lipschitz(layer)
    with pytest.raises(NoSoundBound, match="not finite"):
        bound_lipschitz(nn.Sequential(Scale(1e200), Scale(1e200), Scale(0.0)))


# --- the maximum norm ---


def dense_matrix(layer: nn.Module, shape: tuple[int, ...]) -> torch.Tensor:
    """Write a linear layer out as a float64 matrix `[outputs, inputs]`."""
    twin = copy.deepcopy(layer).double()
    basis = torch.eye(math.prod(shape), dtype=torch.float64).unflatten(1, shape)
    with torch.no_grad():
        return (twin(basis) - twin(torch.zeros_like(basis[:1]))).flatten(1).T


LINEAR = [
    (nn.Linear(6, 4), (6,)),
    (nn.Conv1d(2, 4, 3, stride=2, padding=1, dilation=2), (2, 9)),
    (nn.Conv2d(2, 4, 3, padding=1, padding_mode="circular"), (2, 5, 5)),
    (nn.Conv2d(2, 4, 3, padding=1, padding_mode="reflect"), (2, 5, 4)),
    (nn.Conv2d(4, 4, 3, padding="same", groups=2), (4, 4, 5)),
    (nn.ConvTranspose2d(4, 2, 3, stride=2, padding=1, output_padding=1, groups=2), (4, 3, 3)),
    (nn.ConvTranspose1d(2, 3, 4, stride=3, dilation=2), (2, 5)),
    (nn.AvgPool1d(3, 2, 1), (2, 8)),
    (nn.AvgPool2d(2), (3, 6, 6)),
    (nn.AvgPool2d(3, 1, 1), (2, 6, 6)),
    (nn.AvgPool2d((2, 3), (1, 2)), (1, 6, 7)),
    (nn.Upsample(scale_factor=2), (2, 3, 3)),
    (nn.Upsample(scale_factor=(3, 2)), (2, 3, 3)),
    (nn.UpsamplingNearest2d(scale_factor=3), (1, 2, 2)),
    (nn.PixelShuffle(2), (4, 3, 3)),
    (nn.PixelUnshuffle(2), (1, 4, 4)),
]


@pytest.mark.parametrize(("layer", "shape"), LINEAR, ids=lambda value: repr(value)[:40])
@pytest.mark.parametrize("norm", [2, math.inf])
def test_linear_layers_are_within_two_percent_above_the_dense_operator(
    layer: nn.Module, shape: tuple[int, ...], norm: float
) -> None:
    matrix = dense_matrix(layer, shape)
    truth = float(torch.linalg.matrix_norm(matrix, norm))
    bound = float(bound_lipschitz(layer, shape, norm))
    assert truth * (1 - 1e-12) <= bound <= truth * 1.02


@pytest.mark.parametrize(
    "layer", [nn.AvgPool2d(3, 2, 1, count_include_pad=False), nn.AvgPool2d(2, 2, ceil_mode=True)], ids=repr
)
def test_windows_cut_at_the_border_are_bounded_too(layer: nn.Module) -> None:
    truth = float(torch.linalg.matrix_norm(dense_matrix(layer, (1, 5, 5)), 2))
    assert truth <= float(bound_lipschitz(layer, (1, 5, 5))) <= 1.02 * truth


@pytest.mark.parametrize(
    ("layer", "shape"), [*LINEAR[1:3], *LINEAR[4:11], *LINEAR[14:]], ids=lambda value: repr(value)[:40]
)
def test_the_bound_without_a_shape_is_above_the_one_with_it(layer: nn.Module, shape: tuple[int, ...]) -> None:
    assert float(bound_lipschitz(layer)) >= float(bound_lipschitz(layer, shape)) * (1 - 1e-9)


@pytest.mark.parametrize("norm", [2, math.inf])
def test_normalisation_without_statistics_has_a_true_and_useless_constant(norm: float) -> None:
    layer = nn.LayerNorm(4)
    layer.weight.data.copy_(torch.tensor([1.0, -3.0, 0.5, 0.0]))
    if norm == math.inf:
        with pytest.raises(NoSoundBound, match="L2 norm only"):
            bound_lipschitz(layer, norm=norm)
        return
    bound = bound_lipschitz(nn.Sequential(layer, nn.GroupNorm(2, 4, eps=1e-2)), norm=norm)
    assert float(bound) == pytest.approx(3 / math.sqrt(1e-5) / 0.1)
    assert "too large to be of use" in str(bound)
    x = 1e-4 * torch.randn(2000, 4, dtype=torch.float64)
    y = x + 1e-6 * torch.randn_like(x)
    with torch.no_grad():
        quotient = (layer.double()(x) - layer(y)).norm(dim=1) / (x - y).norm(dim=1)
    assert 0.5 * 3 / math.sqrt(1e-5) < float(quotient.max()) < 3 / math.sqrt(1e-5)


# --- whole modules ---


class Blocks(nn.Module):
    """A residual block, a concatenation and a scaled difference."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.share = nn.Parameter(torch.tensor(0.3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.share * torch.tanh(self.first(x))
        return torch.cat([x, torch.relu(self.second(x)) - x], dim=1)


@pytest.mark.parametrize("norm", [2, math.inf])
def test_sums_and_concatenations(norm: float) -> None:
    net = Blocks().requires_grad_(False)
    bound = bound_lipschitz(net, (4,), norm)
    norms = [float(torch.linalg.matrix_norm(layer.weight.double(), norm)) for layer in (net.first, net.second)]
    residual = 1 + float(net.share) * norms[0]
    last = residual * (norms[1] + 1)
    expected = max(residual, last) if norm == math.inf else math.hypot(residual, last)
    assert float(bound) == pytest.approx(expected, rel=1e-9)
    assert [factor.layer for factor in bound.factors][-1] == "concat"
    assert ("maximum" if norm == math.inf else "L2") in str(bound)


def test_no_pair_of_inputs_beats_the_bound_of_blocks() -> None:
    net = Blocks()
    net.first.weight.data.mul_(5)
    for norm in (2, math.inf):
        found = float(estimate_lipschitz(net, torch.randn(32, 4), steps=100, norm=norm))
        bound = float(bound_lipschitz(net, (4,), norm))
        assert 0.2 * bound < found <= bound


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (nn.MultiheadAttention(4, 1), "L2SelfAttention"),
        (nn.TransformerEncoderLayer(4, 1, batch_first=True), "L2SelfAttention"),
        (nn.Softmax(-1), "softmax"),
        (nn.Bilinear(2, 2, 2), "no constant is known"),
        (nn.Upsample(scale_factor=2, mode="bilinear"), "nearest"),
        (nn.Upsample(scale_factor=1.5), "whole numbers"),
        (nn.Upsample(size=7), "whole numbers"),
        (nn.AvgPool2d(2, divisor_override=1), "divisor_override"),
        (nn.LayerNorm(4, eps=0.0), "eps"),
        (nn.Linear(2, 2, dtype=torch.complex64), "complex"),
        (MaxMin(axis=0), "axis"),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_layers_without_a_constant_are_refused_with_what_could_be_used(layer: nn.Module, message: str) -> None:
    with pytest.raises(NoSoundBound, match=message):
        bound_lipschitz(nn.Sequential(layer))


def test_spectral_normalisation_in_training_moves_its_weight_and_is_refused() -> None:
    layer = nn.utils.parametrizations.spectral_norm(nn.Linear(3, 3))
    with pytest.raises(NoSoundBound, match="evaluation mode"):
        bound_lipschitz(nn.Sequential(layer))
    assert float(bound_lipschitz(layer.eval())) >= 1 - 1e-6


@pytest.mark.parametrize("shape", [None, (4, 6, 6)])
def test_a_convex_potential_is_one_lipschitz_while_its_kernel_is(shape: tuple[int, ...] | None) -> None:
    layer = lipschitz_residual_conv2d(4)
    assert float(bound_lipschitz(layer, shape)) == pytest.approx(1.0, abs=1e-6)
    remove_parametrizations(layer)
    layer.weight.data.mul_(3)
    bound = bound_lipschitz(layer, shape)
    assert 3 < float(bound) <= 2 * 9 - 1 + 1e-4
    assert float(estimate_lipschitz(layer, torch.randn(8, 4, 6, 6), steps=30)) <= float(bound)
    with pytest.raises(NoSoundBound, match="L2 norm only"):
        bound_lipschitz(layer, shape, norm=math.inf)


@pytest.mark.parametrize("axis", [0, -3])
def test_sorting_across_the_batch_is_refused(axis: int) -> None:
    with pytest.raises(NoSoundBound, match="axis"):
        bound_lipschitz(GroupSort(2, axis), (3, 4))


def test_attention_grows_with_the_tokens_and_householder_with_the_norm() -> None:
    layer = L2SelfAttention(4, 2)
    few, many = (float(bound_lipschitz(layer, (tokens, 4))) for tokens in (2, 50))
    assert 0 < few < many
    assert float(bound_lipschitz(layer, (50, 4), math.inf)) > 0
    with pytest.raises(NoSoundBound, match="give `input_shape`"):
        bound_lipschitz(layer)
    ball = BallAttention(4, 2, 1.0)
    assert float(bound_lipschitz(ball, (5, 4))) > 0
    with pytest.raises(NoSoundBound, match="L2 norm only"):
        bound_lipschitz(ball, (5, 4), math.inf)
    assert [float(bound_lipschitz(Householder(4), norm=norm)) for norm in (2, math.inf)] == pytest.approx([1, 2**0.5])


def test_a_factor_that_floating_point_repeats_unevenly_is_refused() -> None:
    layer = nn.Upsample(scale_factor=(41.0,))
    assert dense_matrix(nn.Upsample(scale_factor=(3.0,)), (1, 4)).sum(0).tolist() == [3.0] * 4
    with pytest.raises(NoSoundBound, match="more often than others"):
        bound_lipschitz(layer, (1, 4))
    with pytest.raises(NoSoundBound, match="give `input_shape`"):
        bound_lipschitz(layer)


@pytest.mark.parametrize(
    ("layer", "shape", "message"),
    [
        (nn.AvgPool2d(3, 1, 1, count_include_pad=False), (3, 3), "axes"),
        (nn.PixelUnshuffle(2), (4, 4), "mixes the inputs"),
        (nn.Flatten(0), None, "batch"),
        (nn.Unflatten(0, (1, 1, -1)), (8,), "batch"),
        (nn.Softplus(1.0, math.nan), None, "threshold"),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_layers_off_their_axes_are_refused(layer: nn.Module, shape: tuple[int, ...] | None, message: str) -> None:
    with pytest.raises(NoSoundBound, match=message):
        bound_lipschitz(layer, shape)


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
def test_padding_edited_after_construction_changes_nothing(mode: str) -> None:
    layer = nn.Conv2d(1, 1, 3, padding=1, padding_mode=mode, bias=False)
    layer.weight.data.fill_(1.0)
    layer.padding = (0, 0)  # torch does not look at it again
    truth = float(torch.linalg.matrix_norm(dense_matrix(layer, (1, 5, 5)), 2))
    assert truth * (1 - 1e-12) <= float(bound_lipschitz(layer, (1, 5, 5))) <= truth * 1.02


class _Louder(nn.Linear):
    """Computes something else than its forward."""

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return 100 * super().__call__(x)


class _Loud(nn.Parameter):
    """Makes every function louder that it takes part in."""

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        return super().__torch_function__(function, types, args, kwargs or {})


class _Drawn(nn.Module):
    """A parametrisation that is random."""

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return weight * torch.rand(())


def test_disguises_are_refused() -> None:
    with pytest.raises(NoSoundBound, match="replaced"):
        bound_lipschitz(nn.Sequential(_Louder(2, 2)), (2,))
    layer = nn.Linear(2, 2)
    layer.weight = _Loud(torch.ones(2, 2))
    with pytest.raises(NoSoundBound, match="_Loud"):
        bound_lipschitz(layer)
    layer = nn.Linear(2, 2)
    nn.utils.parametrize.register_parametrization(layer, "weight", _Drawn())
    with pytest.raises(NoSoundBound, match="always gives the same"):
        bound_lipschitz(layer)
    turned = Householder(2)
    turned.angle = nn.Parameter(torch.zeros(5))
    with pytest.raises(NoSoundBound, match="angles"):
        bound_lipschitz(turned)
