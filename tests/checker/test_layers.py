"""The checker's layers against torch's and against the certifier's constants."""

import numpy as np
import pytest
import torch
from torch import nn

from vaerdict.checker.convolution import convolution_matrix
from vaerdict.checker.layers import Layer, Unknown
from vaerdict.checker.printed import read_call
from vaerdict.checker.values import apply_layer
from vaerdict.lipschitz import GroupSort, Householder, MaxMin, Scale, Select, bound_lipschitz


def as_layer(module: nn.Module, shape: tuple[int, ...]) -> Layer:
    call = read_call(repr(module))
    assert call is not None
    held = [*module.named_parameters(), *module.named_buffers()]
    return Layer(call, shape, {name: one.detach().double().numpy() for name, one in held})


CONVOLUTIONS = [
    nn.Conv2d(2, 3, 3),
    nn.Conv2d(1, 4, 4, stride=2, padding=1),
    nn.Conv2d(2, 4, 3, padding=2, dilation=2, groups=2, bias=False),
    nn.Conv2d(2, 2, (3, 1), stride=(1, 2), padding=(1, 0), padding_mode="circular"),
    nn.ConvTranspose2d(2, 3, 4, stride=2, padding=1),
    nn.ConvTranspose2d(2, 4, 3, stride=3, padding=1, output_padding=2, groups=2, dilation=2),
    nn.Conv1d(2, 3, 3, stride=2, padding=1),
    nn.ConvTranspose1d(3, 2, 3, stride=2),
]
OTHERS = [
    (nn.Linear(6, 4), (6,)), (nn.ReLU(), (6,)), (nn.LeakyReLU(0.3), (6,)), (nn.Tanh(), (6,)), (nn.Sigmoid(), (6,)),
    (nn.SiLU(), (6,)), (MaxMin(axis=1), (4, 3, 3)), (MaxMin(), (6,)), (Scale(-0.3), (6,)), (Select(1, 3), (4, 2)),
    (Select(2, None), (4,)), (nn.Flatten(), (2, 3, 4)), (nn.Unflatten(1, (2, 3)), (6,)), (nn.Identity(), (3,)),
    (nn.Dropout(0.5).eval(), (3,)),
]  # fmt: skip


def shape_of(module: nn.Module) -> tuple[int, ...]:
    channels = module.in_channels
    assert isinstance(channels, int)
    return (channels, 7) if "1d" in type(module).__name__ else (channels, 6, 5)


@pytest.mark.parametrize(
    ("module", "shape"),
    [*((module, shape_of(module)) for module in CONVOLUTIONS), *OTHERS],
    ids=lambda one: str(one)[:40],
)
def test_values_shape_and_constant(module: nn.Module, shape: tuple[int, ...]) -> None:
    layer = as_layer(module, shape)
    inputs = torch.randn(3, *shape, dtype=torch.float64)
    with torch.no_grad():
        expected = module.double()(inputs).numpy()
    module.float()
    assert layer.output_shape == expected.shape[1:]
    np.testing.assert_allclose(apply_layer(layer, inputs.numpy()), expected, rtol=1e-9, atol=1e-12)
    claimed = float(bound_lipschitz(module, shape))
    assert 0.9 * claimed <= layer.bound() <= claimed * (1 + 1e-9)


@pytest.mark.parametrize(
    ("module", "shape"),
    [
        (nn.GELU(), (3,)), (nn.ELU(2.0), (3,)), (nn.Softplus(threshold=50.0), (3,)), (GroupSort(3), (6,)),
        (Householder(4), (4,)), (nn.BatchNorm2d(3).eval(), (3, 2, 2)),
    ],
    ids=lambda one: str(one)[:30],
)  # fmt: skip
def test_constants_only(module: nn.Module, shape: tuple[int, ...]) -> None:
    claimed = float(bound_lipschitz(module, shape))
    assert 0.999 * claimed <= as_layer(module, shape).bound() <= claimed * (1 + 1e-9)


@pytest.mark.parametrize(
    "module",
    [nn.Softplus(), nn.GELU(approximate="tanh"), nn.AvgPool2d(2), nn.BatchNorm1d(3, track_running_stats=False)],
)
def test_what_is_not_known_is_said(module: nn.Module) -> None:
    with pytest.raises(Unknown):
        as_layer(module, (3,)).bound()


def test_large_convolutions_are_not_written_out() -> None:
    with pytest.raises(Unknown, match="too large"):
        as_layer(nn.Conv2d(8, 8, 3, padding=1), (8, 64, 64)).bound()


@pytest.mark.parametrize("padding", ["same", 1])
def test_paddings_of_a_kind_that_is_not_known(padding: str | int) -> None:
    module = nn.Conv2d(1, 1, 3, padding=padding, padding_mode="reflect" if padding == 1 else "zeros")
    call = read_call(repr(module))
    if call is not None:
        with pytest.raises(Unknown, match="padding"):
            as_layer(module, (1, 5, 5)).bound()


def test_a_convolutions_matrix_is_that_of_its_unit_images() -> None:
    module = nn.Conv2d(2, 2, 3, stride=2, padding=1, bias=False).double()
    unit = torch.eye(2 * 5 * 4, dtype=torch.float64).reshape(-1, 2, 5, 4)
    with torch.no_grad():
        expected = module(unit).flatten(1).T.numpy()
    weight = module.weight.detach().numpy()
    found = convolution_matrix(weight, (5, 4), stride=(2, 2), padding=(1, 1), dilation=(1, 1), groups=1)
    np.testing.assert_array_equal(found, expected)
