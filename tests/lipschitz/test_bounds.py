"""Whole modules: above every difference quotient, equal to the dense operator where that can be written out."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from vaerdict.lipschitz import LipschitzBound, MaxMin, NoSoundBound, Scale, bound_lipschitz, lipschitz_linear


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


@settings(max_examples=80, deadline=None)
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


@pytest.mark.parametrize("layer", [nn.Softmax(-1), nn.LayerNorm(4), nn.MultiheadAttention(4, 1), nn.MaxPool2d(2)])
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
        (nn.Conv2d(1, 1, 3, padding="same"), "padding"),
        (nn.Conv2d(1, 1, 3, padding=1, padding_mode="reflect"), "padding"),
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
    with pytest.raises(ValueError, match="norm"):
        bound_lipschitz(nn.ReLU(), norm=math.inf)


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
