"""Merged layers: what cancels is seen, nothing true is called too small, and what is not known is said."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from vaerdict.certify.seam import find_seam
from vaerdict.checker.chains import bound_chain, written_out
from vaerdict.checker.layers import Layer, Unknown
from vaerdict.checker.printed import read_call
from vaerdict.checker.products import Near
from vaerdict.lipschitz import MaxMin, Scale, Select
from vaerdict.models import wrap


def as_layers(modules: list[nn.Module], shape: tuple[int, ...]) -> list[Layer]:
    layers = []
    for module in modules:
        call = read_call(repr(module))
        assert call is not None
        tensors = {name: value.detach().double().numpy() for name, value in module.state_dict().items()}
        layers.append(Layer(call, shape, tensors))
        shape = layers[-1].output_shape
    return layers


def batch_norm(channels: int) -> nn.Module:
    layer = nn.BatchNorm2d(channels).eval()
    layer.running_var.uniform_(0.5, 2.0)  # type: ignore[union-attr, operator]
    nn.init.uniform_(layer.weight, 0.5, 2.0)
    return layer


ENCODERS: dict[str, tuple[list[nn.Module], tuple[int, ...]]] = {
    "dense": ([nn.Flatten(), nn.Linear(16, 8), nn.Linear(8, 5), nn.ReLU(), nn.Linear(5, 3)], (1, 4, 4)),
    "silu": ([nn.Flatten(), nn.Linear(16, 8), nn.SiLU(), nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 3)], (1, 4, 4)),
    "sorted": ([nn.Flatten(), nn.Linear(16, 8), MaxMin(), nn.Linear(8, 3), nn.Identity(), Scale(0.3)], (1, 4, 4)),
    "slopes": ([nn.Flatten(), nn.Linear(16, 8), nn.LeakyReLU(2), nn.Sigmoid(), nn.Linear(8, 3), nn.ELU(2)], (1, 4, 4)),
    "convolutions": (
        [nn.Conv2d(1, 4, 3, padding=1), batch_norm(4), nn.Conv2d(4, 2, 3, stride=2), nn.Softplus(threshold=50.0),
         Select(1, None), nn.Flatten(), nn.Linear(1, 3)], (1, 4, 4),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ENCODERS)
def test_the_certifiers_constant_is_confirmed(name: str) -> None:
    modules, shape = ENCODERS[name]
    first = nn.Linear(3, 6)
    vae = wrap(
        nn.Sequential(*modules), nn.Sequential(first, nn.Linear(6, 16), nn.Unflatten(1, shape)),
        input_shape=shape, latent_shape=(3,), spread="constant", std=0.1,
    ).eval()  # fmt: skip
    seam = find_seam(vae, shape)
    assert not isinstance(seam, str)
    found, rounding = bound_chain(as_layers(modules, shape), Near(first.weight.detach().double().numpy()))
    assert found <= seam.b * (1 + 1e-9)
    assert found >= 0.999 * seam.b
    assert rounding < 1e-10 * found


@pytest.mark.parametrize("name", ENCODERS)
def test_no_derivative_exceeds_the_bound(name: str) -> None:
    modules, shape = ENCODERS[name]
    first = nn.Linear(3, 6).double()
    whole = nn.Sequential(*copy.deepcopy(modules), first).double()
    found, _ = bound_chain(as_layers(modules, shape), Near(first.weight.detach().numpy()))
    norms = []
    for image in 3 * torch.randn(20, 1, *shape, dtype=torch.float64):
        jacobian = torch.autograd.functional.jacobian(whole, image)
        norms.append(float(torch.linalg.matrix_norm(jacobian.reshape(6, -1), 2)))
    assert 0.02 * float(found) < max(norms) <= float(found) * (1 + 1e-9)


def test_matrices_that_cancel_are_zero_but_for_rounding() -> None:
    turn = np.linalg.qr(np.random.default_rng(0).standard_normal((6, 6))).Q
    first, last = np.diag([50.0] * 3 + [0.0] * 3) @ turn, np.diag([0.0] * 3 + [1.0] * 3)
    layers = as_layers([nn.Linear(6, 6, bias=False)], (6,))
    layers[0].tensors["weight"] = turn.T @ first
    found, rounding = bound_chain(layers, Near(last @ turn))
    assert found < 1e-11
    assert rounding > 0.5 * found


def test_written_out_layers_are_what_they_compute() -> None:
    shape = (2, 3, 4)
    for module in (
        nn.Linear(4, 5, bias=False),
        batch_norm(2),
        Scale(0.3),
        Select(1, None),
        nn.Conv2d(2, 3, 2, bias=False),
    ):
        (layer,) = as_layers([module], shape)
        unit = torch.eye(24, dtype=torch.float64).reshape(24, *shape)
        with torch.no_grad():
            expected = module.double()(unit).flatten(1)
            expected = (expected - module(torch.zeros_like(unit)).flatten(1)).T.numpy()
        near = written_out(layer)
        np.testing.assert_allclose(near.values, expected, rtol=1e-14, atol=1e-15)


@pytest.mark.parametrize(
    ("module", "shape", "said"),
    [
        (nn.AvgPool2d(2), (1, 4, 4), "AvgPool2d"), (nn.Linear(4096, 4096), (4096,), "too large"),
        (nn.BatchNorm1d(4, track_running_stats=False), (4,), "batch"), (nn.Softplus(), (4,), "Softplus"),
    ],
)  # fmt: skip
def test_what_is_not_known_is_said(module: nn.Module, shape: tuple[int, ...], said: str) -> None:
    call = read_call(repr(module))
    assert call is not None
    tensors: dict[str, Any] = {name: np.zeros(tuple(value.shape)) for name, value in module.state_dict().items()}
    with pytest.raises(Unknown, match=said):
        bound_chain([Layer(call, shape, tensors)], Near(np.eye(4)))


def test_a_layer_that_is_not_linear_has_no_matrix() -> None:
    (layer,) = as_layers([nn.ReLU()], (3,))
    with pytest.raises(Unknown, match="not linear"):
        written_out(layer)
