"""Freezing changes nothing but the speed, for our constraints and for those of torch."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize

from vaerdict.lipschitz.layers import (
    MaxMin,
    lipschitz_conv2d,
    lipschitz_conv_transpose2d,
    lipschitz_linear,
    lipschitz_residual_conv2d,
    remove_parametrizations,
)

MAKERS: dict[str, Callable[[], nn.Module]] = {
    "ours": lambda: nn.Sequential(
        lipschitz_conv2d(2, 4, 3, padding=1),
        MaxMin(1),
        lipschitz_residual_conv2d(4),
        lipschitz_conv2d(4, 8, 2, 2),
        lipschitz_conv_transpose2d(8, 2, 4, 2, 1),
        nn.Flatten(),
        lipschitz_linear(72, 20, 0.7),
        lipschitz_linear(20, 30, 1.3, method="bjorck"),
    ),
    "spectral norm": lambda: nn.Sequential(
        parametrizations.spectral_norm(nn.Conv2d(2, 3, 3)),
        nn.Flatten(),
        parametrizations.spectral_norm(nn.Linear(48, 5)),
    ),
    "weight norm": lambda: parametrizations.weight_norm(nn.Conv2d(2, 3, 3)),
    "orthogonal": lambda: nn.Sequential(nn.Flatten(), parametrizations.orthogonal(nn.Linear(72, 5))),
}


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("training", [True, False])
def test_frozen_modules_evaluate_identically(name: str, training: bool) -> None:
    net, x = MAKERS[name](), torch.randn(3, 2, 6, 6)
    for _ in range(3):
        net(x)
    before = net.eval()(x)
    net.train(training)
    remove_parametrizations(net)
    assert net.training == training
    assert torch.equal(net.eval()(x), before)
    assert not any(parametrize.is_parametrized(part) for part in net.modules())


def test_frozen_weights_can_be_saved_and_loaded_into_plain_layers() -> None:
    net = nn.Sequential(lipschitz_conv2d(2, 4, 3), nn.Flatten(), lipschitz_linear(64, 3)).eval()
    x = torch.randn(2, 2, 6, 6)
    before = net(x)
    remove_parametrizations(net)
    other = nn.Sequential(nn.Conv2d(2, 4, 3), nn.Flatten(), nn.Linear(64, 3))
    other.load_state_dict(net.state_dict())
    assert torch.equal(other(x), before)


def test_a_copy_is_frozen_without_its_original() -> None:
    layer = lipschitz_linear(4, 2)
    twin = copy.deepcopy(layer)
    remove_parametrizations(twin)
    assert type(twin) is nn.Linear
    x = torch.randn(3, 4)
    assert torch.equal(twin(x), layer(x))
    assert parametrize.is_parametrized(layer)
