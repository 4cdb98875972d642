"""The bound is above every rounding error that can be made, and of its size."""

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mpmath import mp
from torch import Tensor, nn

from vaerdict.lipschitz import MaxMin, Scale, Select, lipschitz_linear
from vaerdict.lipschitz.graph.nodes import NoSoundBound
from vaerdict.lipschitz.rounding.bound import bound_rounding

ACTIVATIONS = [
    nn.ReLU(),
    nn.LeakyReLU(0.3),
    nn.Tanh(),
    nn.Sigmoid(),
    nn.SiLU(),
    nn.GELU(),
    nn.ELU(2.5),
    nn.Softplus(3.0, threshold=40),
]


def on_sphere(count: int, shape: tuple[int, ...], radius: float, dtype: torch.dtype = torch.float32) -> Tensor:
    """Make inputs in `dtype` of norm just below the radius, some of them with a few large values only."""
    values = torch.randn(count, math.prod(shape), dtype=torch.float64)
    values[::2] **= 5
    values *= (1 - 1e-6) * radius / values.norm(dim=1, keepdim=True)
    return values.reshape(count, *shape).to(dtype)


def observed(module: nn.Module, inputs: Tensor) -> float:
    """Measure the largest L2 distance of a float32 module from the same one in float64."""
    with torch.no_grad():
        computed = module(inputs.clone()).double()
        exact = module.double()(inputs.double())
    module.float()
    return float((computed - exact).flatten(1).norm(dim=1).max())


def exact_outputs(layers: list[nn.Module], inputs: Tensor) -> list[Any]:
    """Evaluate dense layers and activations on one input at 60 digits."""
    functions: dict[type[nn.Module], Callable[[Any], Any]] = {
        nn.ReLU: lambda x: max(x, mp.mpf(0)),
        nn.Tanh: mp.tanh,
        nn.Sigmoid: lambda x: 1 / (1 + mp.exp(-x)),
        nn.SiLU: lambda x: x / (1 + mp.exp(-x)),
        nn.GELU: lambda x: x * mp.ncdf(x),
    }
    values = [mp.mpf(x) for x in inputs.tolist()]
    for layer in layers:
        if isinstance(layer, nn.Linear):
            rows, bias = layer.weight.tolist(), layer.bias.tolist()
            values = [
                mp.fsum([mp.mpf(w) * x for w, x in zip(row, values, strict=True)], False, False) + mp.mpf(b)
                for row, b in zip(rows, bias, strict=True)
            ]
        else:
            values = [functions[type(layer)](x) for x in values]
    return values


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    widths=st.lists(st.integers(1, 6), min_size=2, max_size=4),
    exponents=st.lists(st.sampled_from([-12, -3, 0, 3, 8]), min_size=3, max_size=3),
    activation=st.sampled_from([nn.ReLU(), nn.Tanh(), nn.Sigmoid(), nn.SiLU(), nn.GELU()]),
    radius=st.sampled_from([0.0, 1e-10, 1.0, 1e4]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_dense_networks_against_sixty_digits(
    seed: int, widths: list[int], exponents: list[int], activation: nn.Module, radius: float, dtype: torch.dtype
) -> None:
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for inputs, outputs, exponent in zip(widths, widths[1:], exponents, strict=False):
        layer = nn.Linear(inputs, outputs, dtype=dtype)
        with torch.no_grad():
            layer.weight *= 10.0**exponent
            layer.weight[:, inputs // 2 :] = -layer.weight[:, : inputs - inputs // 2]  # so that sums cancel
        layers += [layer, activation]
    layers.pop()
    net = nn.Sequential(*layers)
    points = on_sphere(3, (widths[0],), radius, dtype)
    points[1:] = points[1:].sign() * radius / math.sqrt(widths[0]) * (1 - 1e-6)
    bound = float(bound_rounding(net, radius, input_shape=(widths[0],), dtype=dtype))
    for point in points:
        with torch.no_grad():
            computed = net(point[None])[0].tolist()
        with mp.workdps(60):
            exact = exact_outputs(layers, point)
            error = mp.sqrt(mp.fsum([(mp.mpf(c) - e) ** 2 for c, e in zip(computed, exact, strict=True)]))
            assert error <= bound


class Joined(nn.Module):
    """Two branches and a skip connection."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.last = nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = 0.3 * self.inner(x) + x - 7
        return self.last(torch.cat([y, x / 3], 1))


@settings(max_examples=10, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    activation=st.sampled_from(ACTIVATIONS),
    size=st.sampled_from([1e-4, 1.0, 1e3]),
    radius=st.sampled_from([1e-3, 1.0, 1e3]),
    stride=st.integers(1, 2),
)
def test_convolutional_networks(seed: int, activation: nn.Module, size: float, radius: float, stride: int) -> None:
    torch.manual_seed(seed)
    norm = nn.BatchNorm2d(6)
    nn.init.normal_(norm.running_mean, std=30.0)
    nn.init.uniform_(norm.running_var, 1e-6, 1e-2)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    up = nn.ConvTranspose2d(6, 4, 3, stride, padding=1, output_padding=stride - 1)
    inner = nn.Sequential(nn.Conv2d(4, 6, 3, stride, padding=1, groups=2), norm, activation, up, MaxMin(axis=1))
    net = Joined(inner).eval()
    with torch.no_grad():
        inner[0].weight *= size
        inner[3].weight *= size
    points = on_sphere(6, (4, 6, 6), radius)
    assert observed(net, points) <= float(bound_rounding(net, radius, input_shape=(4, 6, 6)))


def test_is_of_the_size_of_typical_errors() -> None:
    net = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 16), nn.Tanh(), nn.Linear(16, 4))
    error = observed(net, on_sphere(500, (16,), 10.0))
    assert error < float(bound_rounding(net, 10.0, input_shape=(16,))) < 1000 * error


def test_is_of_the_size_of_the_worst_error() -> None:
    """One after the other, each of these terms is lost to the first; half the bound, but for the norm of 400 ones."""
    terms, term = 400, 0.999 * 2.0**-24
    layer = nn.Linear(terms, 1, bias=False)
    nn.init.ones_(layer.weight)
    total = torch.tensor(1.0)
    for _ in range(terms - 1):
        total = total + term
    error = 1 + (terms - 1) * term - float(total)
    assert error <= float(bound_rounding(layer, 1.0001, input_shape=(terms,))) < 1.1 * math.sqrt(terms) * error


def test_finds_large_errors_by_cancellation() -> None:
    """`(1e8 x + 1) + (1 - 1e8 x)` is 2; float32 gives 0 at 1. The other output shows how large large is."""
    net = nn.Sequential(nn.Linear(1, 2), nn.Linear(2, 2))
    sums, zeros = [[1.0, 1.0], [1.0, 0.0]], [0.0, 0.0]
    for layer, weight, bias in ((net[0], [[1e8], [-1e8]], [1.0, 1.0]), (net[1], sums, zeros)):
        layer.load_state_dict({"weight": torch.tensor(weight), "bias": torch.tensor(bias)})
    assert 1 < observed(net, torch.ones(1, 1)) <= float(bound_rounding(net, 1.0))


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=lambda layer: type(layer).__name__)
def test_library_functions_are_within_what_is_allowed(activation: nn.Module) -> None:
    """Compare at many single values, half of them in vectors long enough for vectorised code."""
    for exponent in range(-8, 8):
        values = 2.0**exponent * torch.linspace(1, 2, 503).unsqueeze(1)
        values = torch.cat([values, -values])
        bound = float(bound_rounding(activation, 2.0 ** (exponent + 1), input_shape=(1,)))
        assert max(observed(activation, values), observed(activation, values[:3])) <= bound


@pytest.mark.parametrize("flush", [False, True])
@pytest.mark.parametrize("size", [1e-19, 1e-25, 1e-38])
def test_underflow_is_included(size: float, flush: bool) -> None:
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(40, 30), nn.ReLU(), nn.Conv1d(1, 2, 3), nn.LeakyReLU(0.1), nn.Flatten())
    net = nn.Sequential(net[0], net[1], nn.Unflatten(1, (1, 30)), *net[2:], Scale(1e-3))
    with torch.no_grad():
        for values in net.parameters():
            values *= size
    points = on_sphere(8, (40,), 1e-18)
    bound = float(bound_rounding(net, 1e-18, input_shape=(40,)))
    supported = torch.set_flush_denormal(flush)
    try:
        with torch.no_grad():
            computed = net(points)
    finally:
        torch.set_flush_denormal(False)
    assert supported or not flush
    with torch.no_grad():
        exact = net.double()(points.double())
    assert float((computed.double() - exact).norm(dim=1).max()) <= bound < 1e-18


def test_moving_values_rounds_nothing() -> None:
    net = nn.Sequential(nn.PixelUnshuffle(2), Select(0, 2), nn.Upsample(scale_factor=2), nn.Flatten())
    assert float(bound_rounding(net, 1.0, input_shape=(1, 4, 4))) == 0.0


def test_every_token_has_a_bias() -> None:
    layer = nn.Linear(2, 2)
    one, hundred = (float(bound_rounding(layer, 0.0, input_shape=(tokens, 2))) for tokens in (1, 100))
    assert hundred == pytest.approx(10 * one, rel=1e-6)


def test_float64_rounds_less() -> None:
    layer = nn.Linear(5, 5)
    single = float(bound_rounding(layer, 1.0, input_shape=(5,)))
    double = float(bound_rounding(layer.double(), 1.0, input_shape=(5,), dtype=torch.float64))
    assert double == pytest.approx(single * 2.0**-29, rel=1e-3)


def test_shows_where_the_error_comes_from() -> None:
    bound = bound_rounding(nn.Sequential(nn.Linear(2, 3), nn.Tanh()), 1.0, input_shape=(2,))
    assert [step.layer for step in bound.steps] == ["Linear", "Tanh"]
    assert bound.steps[-1].error == float(bound) > bound.steps[0].added > 0
    assert "within 8 ulp" in str(bound)
    assert f"rounding {bound.value:.6g}" in str(bound)


def cut(values: Tensor) -> Tensor:
    """Keep the 11 leading bits of float32 values, as tensor cores do with their inputs."""
    return (values.view(torch.int32) & ~0x1FFF).view(torch.float32)


@pytest.mark.parametrize("terms", [1, 2, 1000])
def test_tf32_is_allowed_for(terms: int, monkeypatch: pytest.MonkeyPatch) -> None:
    _tf32(monkeypatch)
    layer = nn.Linear(terms, 3, bias=False)
    inputs = on_sphere(500, (terms,), 1.0)
    bound = bound_rounding(layer, 1.0, input_shape=(terms,), device="cuda", allow_tf32=True)
    computed = cut(inputs).double() @ cut(layer.weight.detach()).double().T
    exact = inputs.double() @ layer.weight.detach().double().T
    assert float((computed - exact).norm(dim=1).max()) <= float(bound)
    assert "TF32" in str(bound)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_refuses_half_precision(dtype: torch.dtype) -> None:
    with pytest.raises(NoSoundBound, match="expected `dtype` float32 or float64"):
        bound_rounding(nn.Linear(2, 2, dtype=dtype), 1.0, input_shape=(2,), dtype=dtype)


def _reduced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: "medium")


def _tf32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cuda, "matmul", SimpleNamespace(allow_tf32=True, fp32_precision="tf32"))
    monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: "high")


def _without_onednn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends, "mkldnn", SimpleNamespace(enabled=False, is_available=lambda: True))


def _without_cudnn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends, "cudnn", SimpleNamespace(enabled=False))


def _emulated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUBLAS_EMULATE_SINGLE_PRECISION", "1")


def _rocm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "hip", "6.0")


def _as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    pass


@pytest.mark.parametrize(
    ("setting", "device", "allow_tf32", "message"),
    [
        (_reduced, "cpu", False, "float32 matrix products in full precision"),
        (_reduced, "cuda", True, r"full precision .* got \['medium'\]"),
        (_tf32, "cuda", False, r"full precision .* got \['high', 'tf32'\]"),
        (_as_it_is, "cuda:1", False, r"expected `torch.backends.cudnn.enabled` False"),
        (_without_onednn, "cpu", False, r"expected `torch.backends.mkldnn.enabled`"),
        (_emulated, "cuda", False, "CUBLAS_EMULATE_SINGLE_PRECISION"),
        (_rocm, "cuda", False, "expected `device` cpu or cuda by NVIDIA"),
        (_as_it_is, "mps", False, "expected `device` cpu or cuda by NVIDIA, got mps"),
    ],
)
def test_refuses_settings_without_an_error_bound(
    setting: Callable[[pytest.MonkeyPatch], None],
    device: str,
    allow_tf32: bool,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    setting(monkeypatch)
    if device == "cuda":
        _without_cudnn(monkeypatch)
    with pytest.raises(NoSoundBound, match=message):
        bound_rounding(nn.Conv2d(1, 1, 2), 1.0, input_shape=(1, 3, 3), device=device, allow_tf32=allow_tf32)


def test_accepts_cuda_under_settings_that_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = nn.Conv2d(1, 1, 2)
    _without_cudnn(monkeypatch)
    assert float(bound_rounding(layer, 1.0, input_shape=(1, 3, 3), device="cuda")) == float(
        bound_rounding(layer, 1.0, input_shape=(1, 3, 3))
    )


def test_winograd_is_worse_than_what_is_refused_without_onednn() -> None:
    """The reason for the refusal: with NNPACK the error of this convolution is many times that of sums of products."""
    layer, inputs = nn.Conv2d(64, 64, 3, padding=1), torch.randn(16, 64, 32, 32)
    direct = observed(layer, inputs)
    torch._C._set_mkldnn_enabled(False)
    try:
        fast = layer(inputs).detach().double()
    finally:
        torch._C._set_mkldnn_enabled(True)
    exact = layer.double()(inputs.double()).detach()
    if not torch.backends.nnpack.is_available():
        pytest.skip("torch was built without NNPACK")
    assert float((fast - exact).flatten(1).norm(dim=1).max()) > 2 * direct


@pytest.mark.filterwarnings("ignore:In CPU autocast")
def test_refuses_autocast() -> None:
    with torch.autocast("cpu", torch.bfloat16), pytest.raises(NoSoundBound, match="autocast"):
        bound_rounding(nn.Linear(2, 2), 1.0, input_shape=(2,))


@pytest.mark.parametrize(
    ("module", "shape", "message"),
    [
        (nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2)), (2,), r"`1` \(LayerNorm\) has no bound on its rounding"),
        (nn.Softmax(-1), (2,), "Softmax"),
        (nn.Linear(2, 2, dtype=torch.float64), (2,), "expected weights in torch.float32, got torch.float64"),
        (lipschitz_linear(2, 2), (2,), "remove_parametrizations"),
        (Scale(1e38), (2,), "finite|overflow"),
        (nn.Sequential(*[Scale(1e10)] * 4), (2,), "finite|overflow"),
        (nn.Softplus(threshold=100), (2,), "threshold <= 80"),
        (nn.Linear(2, 2), (3,), "does not take inputs of shape"),
    ],
)
def test_refuses_layers_without_a_bound(module: nn.Module, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(NoSoundBound, match=message):
        bound_rounding(module, 1.0, input_shape=shape)


@pytest.mark.parametrize("radius", [-1.0, math.inf, math.nan])
def test_refuses_bad_radii(radius: float) -> None:
    with pytest.raises(ValueError, match="expected `input_radius` >= 0"):
        bound_rounding(nn.Linear(2, 2), radius, input_shape=(2,))
