"""A module's graph computes what the module computes; where that cannot be known, the module is refused."""

import random
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from vaerdict.lipschitz.graph.nodes import NoSoundBound, layers_in_a_row
from vaerdict.lipschitz.graph.trace import _refuse_other_values, trace


class Code(nn.Module):
    """A module whose forward is given as a function of the module and its input."""

    def __init__(self, code: Callable[["Code", Tensor], Tensor]) -> None:
        super().__init__()
        self.steps = code
        self.linear = nn.Linear(4, 4)
        self.relu = nn.ReLU(inplace=True)
        self.weight = nn.Parameter(torch.tensor(0.5))
        self.shift = nn.Parameter(torch.randn(4))

    def forward(self, x: Tensor) -> Tensor:
        return self.steps(self, x)


class Block(nn.Module):
    """A residual block as image models have it, in-place steps included."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding=1)
        self.norm, self.relu = nn.BatchNorm2d(3).eval(), nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.norm(self.first(x)))
        out = self.second(out)
        out += x
        return self.relu(out)


def kinds(module: nn.Module, shape: tuple[int, ...] = (4,)) -> list[str]:
    return [node.name for node in trace(module, shape).nodes]


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (lambda m, x: m.linear(x) + x, ["input", "Linear", "add"]),
        (lambda m, x: x - torch.relu(x), ["input", "ReLU", "Scale", "add"]),
        (lambda m, x: 1 - x / 3, ["input", "Scale", "Scale", "Shift"]),
        (lambda m, x: m.weight * m.linear(x) + m.shift, ["input", "Linear", "Scale", "Shift"]),
        (lambda m, x: torch.sigmoid(m.weight) * x, ["input", "Scale"]),
        (lambda m, x: torch.cat([x[:, :2], -x[:, 2:]], dim=-1), ["input", "Move", "Move", "Scale", "concat"]),
        (lambda m, x: x.view(x.size(0), 2, -1).permute(0, 2, 1).flatten(1), ["input", "Move", "Move", "Move"]),
        (lambda m, x: x.reshape(x.shape[0], 1, 4).squeeze(1), ["input", "Move", "Move"]),
        (lambda m, x: x.chunk(2, dim=1)[1], ["input", "Move"]),
        (lambda m, x: F.dropout(F.gelu(x), 0.5, False), ["input", "GELU", "Identity"]),
        (lambda m, x: F.leaky_relu(F.softplus(F.elu(x, 0.5), 1, 50), 0.3), ["input", "ELU", "Softplus", "LeakyReLU"]),
        (lambda m, x: m.relu(m.linear(x)) * 2, ["input", "Linear", "ReLU", "Scale"]),
        (lambda m, x: (torch.exp(x), m.linear(x))[1], ["input", "Linear"]),  # what is not used does not count
    ],
)
def test_torch_code_becomes_layers(code: Callable[[Code, Tensor], Tensor], expected: list[str]) -> None:
    module = Code(code)
    graph = trace(module, (4,))
    assert [node.name for node in graph.nodes] == expected
    x = torch.randn(5, 4)  # another batch than the trace's
    torch.testing.assert_close(graph.run(x.clone())[-1], module(x.clone()))


def test_images_and_functions_on_them() -> None:
    module = Code(lambda m, x: F.avg_pool2d(F.interpolate(F.pixel_shuffle(x, 2), scale_factor=2), 2))
    graph = trace(module, (4, 3, 3))
    assert [node.shape for node in graph.nodes] == [(4, 3, 3), (1, 6, 6), (1, 12, 12), (1, 6, 6)]
    x = torch.randn(3, 4, 3, 3)
    torch.testing.assert_close(graph.run(x)[-1], module(x))


def test_a_residual_block_with_in_place_steps() -> None:
    assert kinds(nn.Sequential(Block(), Block()), (3, 5, 5))[1:7] == [
        *("Conv2d", "BatchNorm2d", "ReLU", "Conv2d", "add", "ReLU")
    ]


def _by_type(module: Code, x: Tensor) -> Tensor:
    return 3 * x if isinstance(x, Tensor) else x


def _by_value(module: Code, x: Tensor) -> Tensor:
    return x if x.sum() > 0 else -x


def _forgotten_in_place(module: Code, x: Tensor) -> Tensor:
    x.mul_(3)
    return x


def _branch_caught(module: Code, x: Tensor) -> Tensor:
    try:
        if x.max() > 5:
            return 100 * x
    except fx.proxy.TraceError:
        pass
    return x


def _stored(module: Code, x: Tensor) -> Tensor:
    module.shift.copy_(x[0])
    return x + module.shift


def _alias(step: Callable[[Tensor], Tensor]) -> Callable[[Code, Tensor], Tensor]:
    def code(module: Code, x: Tensor) -> Tensor:
        z = F.relu(x - 10)  # zero on the sample
        step(z)
        return x + z

    return code


def _hidden(module: Code, x: Tensor) -> Tensor:
    z = F.relu(x - 10)
    w = z
    w *= 100
    return x + z


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (_hidden, "in place"),
        (_alias(lambda z: z.mul_(100)), "in place"),
        (_alias(lambda z: F.elu(z, 50.0, inplace=True)), "in place"),
        (_alias(lambda z: z.view(-1, 2, 2).mul_(100)), "in place"),
        (_alias(lambda z: torch.mul(z, 100.0, out=z)), "in place"),
        (lambda m, x: x * x.shape[0], "something else than its trace"),
        (lambda m, x: x * (x.shape[0] - 3), "something else than its trace"),
        (lambda m, x: x[:, : x.shape[0]], "mixes the inputs"),
        (lambda m, x: x.view(torch.int32) + 0.0, "view"),
        (lambda m, x: x + float("inf"), "not finite"),
        (_by_value, "cannot trace"),
        (_by_type, "something else than its trace"),
        (_forgotten_in_place, "in place"),
        (_branch_caught, "may depend on its data"),
        (_stored, "its own weights or buffers"),
        (lambda m, x: x + m.relu(x), "in place"),
        (lambda m, x: m.relu(x.view(-1, 4)) + x, "in place"),
        (lambda m, x: x * random.random(), "something else than its trace"),
        (lambda m, x: x * torch.rand(1), "register it as a buffer"),
        (lambda m, x: x + torch.randn_like(x), "randn_like"),
        (lambda m, x: x * x, "product of two values"),
        (lambda m, x: m.shift * x, "one factor"),
        (lambda m, x: (x, x), "one tensor"),
        (lambda m, x: m.weight, "one tensor"),
        (lambda m, x: torch.exp(x), "exp"),
        (lambda m, x: x.expand(-1, 4), "expand"),
        (lambda m, x: x[:, [0, 0, 0]], "getitem"),
        (lambda m, x: x[:, :1] + x, "repeats values"),
        (lambda m, x: x[:, :1] + m.shift, "repeats values"),
        (lambda m, x: x.permute(1, 0), "mixes the inputs of a batch"),
        (lambda m, x: x.reshape(-1, 2), "mixes the inputs of a batch"),
        (lambda m, x: x.t().reshape(-1, 4), "t"),
        (lambda m, x: torch.flatten(x), "mixes the inputs of a batch"),
        (lambda m, x: torch.cat([x, x]), "batch axis"),
        (lambda m, x: x / 0.0, "division by zero"),
        (lambda m, x: x * float("nan"), "finite factor"),
        (lambda m, x: F.dropout(x), "dropout"),
        (lambda m, x: m.linear(x, 2), "does not take"),
    ],
)
def test_code_of_unknown_meaning_is_refused(code: Callable[[Code, Tensor], Tensor], message: str) -> None:
    with pytest.raises(NoSoundBound, match=message):
        trace(Code(code), (4,))


def test_values_that_are_not_finite_in_a_shift() -> None:
    module = Code(lambda m, x: x + m.shift)
    module.shift.data[0] = torch.nan
    with pytest.raises(NoSoundBound, match="finite"):
        trace(module, (4,))


class _TwoInputs(nn.Module):
    def forward(self, x: Tensor, mask: Tensor | None = None, *, scale: float = 2.0) -> Tensor:
        return x * scale if mask is None else x * mask


def test_optional_inputs_keep_their_defaults() -> None:
    assert kinds(_TwoInputs()) == ["input", "Scale"]


def test_code_of_its_own_needs_a_shape_and_sequences_do_not() -> None:
    assert [node.shape for node in trace(nn.Sequential(nn.Linear(3, 2), nn.ReLU())).nodes] == [None] * 3
    with pytest.raises(NoSoundBound, match=r"`1` \(Code\).*`input_shape`"):
        trace(nn.Sequential(nn.ReLU(), Code(lambda m, x: x)))
    with pytest.raises(NoSoundBound, match="inputs of shape"):
        trace(nn.Linear(3, 2), (5,))


def test_layers_in_a_row() -> None:
    assert len(layers_in_a_row(trace(nn.Sequential(nn.ReLU(), nn.Tanh()), (2,)))) == 2
    with pytest.raises(NoSoundBound, match="joins or branches"):
        layers_in_a_row(trace(Code(lambda m, x: m.linear(x) + x), (4,)))


def test_the_module_comes_back_as_it_was() -> None:
    module = Code(lambda m, x: m.relu(m.linear(x)))
    before, state = set(vars(module)), {name: value.clone() for name, value in module.state_dict().items()}
    trace(module, (4,))
    with pytest.raises(NoSoundBound):
        trace(Code(lambda m, x: x * torch.rand(1)), (4,))
    assert set(vars(module)) == before
    assert all(torch.equal(value, state[name]) for name, value in module.state_dict().items())


def test_rounding_alone_is_not_another_function() -> None:
    """Batches of one and of three may take different convolution routines: small values differ by others' rounding."""
    for seed in range(50):
        together = torch.randn(3, 4160, generator=torch.Generator().manual_seed(seed))
        alone = together[:1] + 2e-7 * torch.randn(1, 4160, generator=torch.Generator().manual_seed(seed + 1000))
        _refuse_other_values(together[:1], alone, together)
    small = torch.where(torch.arange(4160) == 7, 1e-3, 1.0) * together
    with pytest.raises(NoSoundBound, match="something else"):
        _refuse_other_values(small[:1], small[:1] + 1e-3 * (torch.arange(4160) == 7), small)
