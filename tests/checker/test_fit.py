import numpy as np
import pytest
import torch
from torch import nn

from tests.checker.test_layers import as_layer
from vaerdict.checker.fit import check_fit
from vaerdict.checker.layers import Layer

CASES: list[tuple[nn.Module, tuple[int, ...]]] = [
    (nn.Linear(6, 4), (6,)),
    (nn.Linear(6, 4, bias=False), (2, 6)),
    (nn.Conv2d(2, 4, 3, groups=2), (2, 5, 5)),
    (nn.Conv1d(2, 3, 3, bias=False), (2, 7)),
    (nn.ConvTranspose2d(2, 4, 3, groups=2), (2, 5, 5)),
    (nn.BatchNorm1d(3), (3,)),
    (nn.BatchNorm2d(3, affine=False), (3, 2, 2)),
    (nn.BatchNorm2d(3, track_running_stats=False), (3, 2, 2)),
]


@pytest.mark.parametrize(("module", "shape"), CASES, ids=lambda one: str(one)[:40])
def test_torchs_own_layers_fit(module: nn.Module, shape: tuple[int, ...]) -> None:
    check_fit(as_layer(module.eval(), shape))
    assert module(torch.zeros(2, *shape)).shape[0] == 2


@pytest.mark.parametrize(("module", "shape"), CASES, ids=lambda one: str(one)[:40])
def test_another_input_does_not(module: nn.Module, shape: tuple[int, ...]) -> None:
    layer = as_layer(module, shape)
    at = -1 if isinstance(module, nn.Linear) else 0
    other = list(shape)
    other[at] += 1
    with pytest.raises(ValueError, match="an input that fits the weights"):
        check_fit(Layer(layer.call, tuple(other), layer.tensors))


@pytest.mark.parametrize(
    ("module", "shape", "name"),
    [(module, shape, name) for module, shape in CASES for name, _ in [*module.named_parameters()]],
)
def test_missing_and_misshapen_tensors_are_named(module: nn.Module, shape: tuple[int, ...], name: str) -> None:
    layer = as_layer(module, shape)
    rest = {one: values for one, values in layer.tensors.items() if one != name}
    for tensors in (rest, {**rest, name: np.zeros((9, 9))}):
        with pytest.raises(ValueError, match=f"expected `{name}` of shape"):
            check_fit(Layer(layer.call, shape, tensors))
