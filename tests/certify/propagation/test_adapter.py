import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tests.certify.propagation.gradients import extremes
from vaerdict.certify.propagation import METHODS, BoundedMap, adapter, unavailable
from vaerdict.certify.propagation.backend import propagate
from vaerdict.certify.propagation.pieces import Exponential
from vaerdict.certify.propagation.regions import Ball
from vaerdict.lipschitz import MaxMin, NoSoundBound, lipschitz_linear
from vaerdict.models import build_vae, wrap
from vaerdict.options import ModelOptions

pytestmark = pytest.mark.skipif(unavailable() is not None, reason=f"bound propagation is off: {unavailable()}")


class Residual(nn.Module):
    """A sum and a concatenation, written as torch functions."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(5, 5), nn.Linear(10, 3)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        moved = values + torch.relu(self.first(values))
        return self.second(torch.cat([moved, torch.sigmoid(moved)], 1))


def nets() -> dict[str, tuple[nn.Module, tuple[int, ...]]]:
    generator = torch.random.get_rng_state()
    torch.manual_seed(3)
    lipschitz = [lipschitz_linear(5, 6, 2.0), MaxMin(), lipschitz_linear(6, 4, 2.0), MaxMin(), nn.Linear(4, 2)]
    convolutions = [nn.Conv2d(1, 2, 3, 2, 1), nn.BatchNorm2d(2), nn.ReLU(), nn.Conv2d(2, 4, 2), MaxMin(axis=1)]
    up = [nn.ConvTranspose2d(2, 2, 3, 2, padding=1, output_padding=1), nn.ReLU(), nn.ConvTranspose2d(2, 1, 2, 2)]
    found: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
        "relu": (nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3)), (5,)),
        "maxmin": (nn.Sequential(*lipschitz), (5,)),
        "tanh": (nn.Sequential(nn.Linear(4, 6), nn.LeakyReLU(0.2), nn.Linear(6, 3), nn.Tanh()), (4,)),
        "smooth": (nn.Sequential(nn.Linear(4, 6), nn.SiLU(), nn.Linear(6, 3), nn.Softplus(threshold=40)), (4,)),
        "convolutions": (nn.Sequential(*convolutions, nn.Flatten(), nn.Linear(16, 2)), (1, 6, 6)),
        "transposed": (nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Unflatten(1, (2, 2, 2)), *up), (3,)),
        "residual": (Residual(), (5,)),
        "relu first": (nn.Sequential(nn.ReLU(), nn.Linear(5, 3)), (5,)),
    }
    torch.random.set_rng_state(generator)
    return {name: (net.eval(), shape) for name, (net, shape) in found.items()}


NETS = nets()
MAY_BE_REFUSED = {"smooth", "residual"}
"""Nets for which 0.3 lacks the rules of the forward methods."""


@pytest.mark.parametrize("norm", ["2", "inf"])
@pytest.mark.parametrize("name", NETS)
def test_no_gradient_attack_leaves_a_box(name: str, norm: str) -> None:
    net, shape = NETS[name]
    centers = torch.rand(2, *shape)
    bounded, refused = BoundedMap(net, shape), dict[str, str]()
    for method in ("IBP", "CROWN", "Forward", "Forward+Backward") if norm == "2" else ("IBP", "CROWN"):
        try:
            lower, upper = bounded.box(centers, 0.3, norm, [method])
        except NoSoundBound as reason:
            refused[method] = str(reason)
            continue
        least, greatest = extremes(net, centers, 0.3 * (1 - 1e-6), norm)
        assert (lower <= least).all(), method
        assert (greatest <= upper).all(), method
    assert set(refused) <= {"Forward", "Forward+Backward"} if name in MAY_BE_REFUSED else not refused


@pytest.mark.parametrize("spread", ["log_variance", "variance"])
@pytest.mark.parametrize("norm", ["2", "inf"])
def test_standard_deviations_stay_in_their_boxes(spread: str, norm: str) -> None:
    head = [nn.Softplus(threshold=40)] if spread == "variance" else []
    vae = wrap(
        nn.Sequential(nn.Flatten(), nn.Linear(4, 6), *head),
        nn.Sequential(nn.Linear(3, 4), nn.Unflatten(1, (1, 2, 2))),
        input_shape=(1, 2, 2),
        latent_shape=(3,),
        spread=spread,
    ).eval()
    std_map = vae.std_map
    assert std_map is not None
    centers = torch.rand(3, 1, 2, 2)
    lower, upper = BoundedMap(std_map, (1, 2, 2)).box(centers, 0.4, norm)
    least, greatest = extremes(std_map, centers, 0.4 * (1 - 1e-6), norm)
    assert (lower <= least).all()
    assert (greatest <= upper).all()
    assert (upper - lower).max() < 4 * (greatest - least).max()


@settings(max_examples=6, deadline=None)
@given(seed=st.integers(0, 10**6), radius=st.floats(1e-6, 2.0), norm=st.sampled_from(["2", "inf"]))
def test_a_linear_map_has_its_exact_box(seed: int, radius: float, norm: str) -> None:
    generator = torch.Generator().manual_seed(seed)
    layer = nn.Linear(4, 3)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(3, 4, generator=generator))
    centers = torch.randn(2, 4, generator=generator)
    lower, upper = BoundedMap(layer, (4,), rounded=False).box(centers, radius, norm)
    middle = layer.double()(centers.double()).detach()
    reach = radius * (layer.weight.detach().norm(dim=1) if norm == "2" else layer.weight.detach().abs().sum(1))
    assert (lower <= middle - reach).all()
    assert (upper >= middle + reach).all()
    torch.testing.assert_close(lower, middle - reach, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(upper, middle + reach, rtol=1e-8, atol=1e-8)


def test_rounding_widens() -> None:
    net, shape = NETS["relu"]
    centers = torch.rand(1, *shape)
    real = BoundedMap(net, shape, rounded=False)
    rounded = BoundedMap(net, shape)
    (low, high), (wider_low, wider_high) = real.box(centers, 0.1, "2"), rounded.box(centers, 0.1, "2")
    assert (wider_low < low).all()
    assert (high < wider_high).all()
    assert 1e-8 < float((wider_high - high).max()) < 1e-4


def test_all_methods_together_are_as_tight_as_the_best() -> None:
    net, shape = NETS["relu"]
    centers = torch.rand(2, *shape)
    bounded = BoundedMap(net, shape)
    lower, upper = bounded.box(centers, 0.3, "2", list(METHODS))
    assert bounded.skipped == {}
    for method in METHODS:
        low, high = bounded.box(centers, 0.3, "2", [method])
        assert (lower >= low - 1e-12).all()
        assert (upper <= high + 1e-12).all()


def test_without_a_linear_operation_first_the_backend_is_unsound_in_l2() -> None:
    """Why every rewritten network starts with one."""
    center = torch.zeros(1, 2, dtype=torch.float64)
    for first, method in ((Exponential(), "IBP"), (nn.ReLU(), "IBP"), (Exponential(), "CROWN")):
        alone, shifted = nn.Sequential(first), nn.Sequential(first)
        low, high = propagate(alone, Ball(center, 1.0), method)
        true = first(torch.tensor([[1.0, 0.0]], dtype=torch.float64))
        assert not bool(((low - 1e-9 <= true) & (true <= high + 1e-9)).all()), "the backend has been repaired"
        if not isinstance(first, Exponential):
            lower, upper = BoundedMap(shifted, (2,)).box(center.float(), 1.0, "2", [method])
            assert ((lower <= true) & (true <= upper)).all()


@pytest.mark.parametrize(
    ("layer", "said"),
    [
        (nn.GELU(), r"\(GELU\) is not converted"),
        (nn.LayerNorm(4), r"\(LayerNorm\) is not converted"),
        (nn.Sequential(nn.Linear(4, 4), nn.Softplus()), r"\(Softplus\) is not converted"),
        (nn.Sequential(nn.Unflatten(1, (2, 2)), MaxMin()), "on axis -1"),
    ],
)
def test_an_unsupported_layer_is_named(layer: nn.Module, said: str) -> None:
    with pytest.raises(NoSoundBound, match=said):
        BoundedMap(layer.eval(), (4,))


def test_a_map_that_needs_too_large_a_matrix_is_refused() -> None:
    with pytest.raises(NoSoundBound, match="would need a matrix of"):
        BoundedMap(nn.Sequential(nn.ReLU(), nn.AvgPool2d(2)), (1, 80, 80))


def test_a_backend_that_contradicts_the_network_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    net, shape = NETS["relu"]
    bounded, centers = BoundedMap(net, shape), torch.rand(1, *shape)

    def narrow(network: nn.Module, region: Ball, method: str) -> tuple[torch.Tensor, torch.Tensor]:
        lower, upper = propagate(network, region, method)
        middle = (lower + upper) / 2
        return middle - 1e-3, middle + 1e-3

    monkeypatch.setattr(adapter, "propagate", narrow)
    with pytest.raises(NoSoundBound, match="a point of the region is outside the bounds"):
        bounded.box(centers, 0.5, "2", ["CROWN"])
    monkeypatch.setattr(adapter, "propagate", lambda *given: propagate(*given)[::-1])
    with pytest.raises(NoSoundBound, match="contradicts itself"):
        bounded.box(centers, 0.5, "2")


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_values_that_are_not_finite_never_pass(monkeypatch: pytest.MonkeyPatch, broken: float) -> None:
    net, shape = NETS["relu"]
    bounded = BoundedMap(net, shape)
    ends = torch.full((1, 3), -broken).double(), torch.full((1, 3), broken).double()
    monkeypatch.setattr(adapter, "propagate", lambda *_: ends)
    with pytest.raises(NoSoundBound, match=r"NaN|infinite"):
        bounded.box(torch.rand(1, *shape), 0.5, "2")


def test_a_failing_method_is_skipped_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    net, shape = NETS["relu"]
    bounded, centers = BoundedMap(net, shape), torch.rand(1, *shape)

    def failing(network: nn.Module, region: Ball, method: str) -> tuple[torch.Tensor, torch.Tensor]:
        if method == "CROWN":
            raise KeyError("lost")
        return propagate(network, region, method)

    alone = bounded.box(centers, 0.5, "2", ["IBP"])
    monkeypatch.setattr(adapter, "propagate", failing)
    torch.testing.assert_close(bounded.box(centers, 0.5, "2", ["CROWN", "IBP"]), alone)
    assert bounded.skipped == {"CROWN": "KeyError: 'lost'"}
    with pytest.raises(NoSoundBound, match="no method of bound propagation works here: CROWN: KeyError: 'lost'"):
        bounded.box(centers, 0.5, "2", ["CROWN"])


def test_batches_in_parts_give_the_same_boxes(monkeypatch: pytest.MonkeyPatch) -> None:
    net, shape = NETS["convolutions"]
    bounded, centers = BoundedMap(net, shape), torch.rand(5, *shape)
    whole = bounded.box(centers, 0.2, "2")
    monkeypatch.setattr(adapter, "images_at_once", lambda *_: 2)
    torch.testing.assert_close(bounded.box(centers, 0.2, "2"), whole, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("family", ["plain", "lipschitz", "conv", "lipschitz_conv"])
def test_native_maps_are_rewritten_and_their_clean_values_boxed(family: str) -> None:
    options = ModelOptions(family=family, latent=3, hidden=(8,), spread="bounded")
    vae = build_vae(options, name="toy", input_shape=(1, 4, 4)).eval()
    images, latents = torch.rand(2, 1, 4, 4), torch.randn(2, 3)
    before = {name: value.clone() for name, value in vae.state_dict().items()}
    for module, inputs in ((vae.mean_map, images), (vae.std_map, images), (vae.decoder_map, latents)):
        assert module is not None
        lower, upper = BoundedMap(module, tuple(inputs.shape[1:]), forward=inputs is latents).box(inputs, 0.1, "2")
        values = module(inputs).flatten(1).double()
        assert ((lower < values) & (values < upper)).all()
        assert float((upper - lower).max()) < 2.5
    assert all(torch.equal(value, before[name]) for name, value in vae.state_dict().items()), "the model was changed"


@pytest.mark.parametrize(
    ("radius", "norm", "shape", "said"),
    [
        (0.0, "2", (5,), "`radius` > 0"),
        (0.1, "2", (4,), r"inputs of shape \(5,\)"),
    ],
)
def test_wrong_questions_are_refused(radius: float, norm: str, shape: tuple[int, ...], said: str) -> None:
    net, input_shape = NETS["relu"]
    with pytest.raises(ValueError, match=said):
        BoundedMap(net, input_shape).box(torch.rand(1, *shape), radius, norm)
