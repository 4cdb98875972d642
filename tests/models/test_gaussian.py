"""Any two modules become one VAE whose maps and spread are as the user said, or are refused in a sentence."""

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.models.small import random_images
from vaerdict.lipschitz import bound_lipschitz
from vaerdict.models import GaussianVAE, wrap
from vaerdict.vae import BoundableVAE, borrowed, fingerprint

SHAPE = (1, 4, 4)
STD_OF: dict[str, Callable[[Tensor], Tensor]] = {
    "std": lambda raw: raw,
    "variance": lambda raw: raw.sqrt(),
    "log_variance": lambda raw: (raw / 2).exp(),
    "bounded": lambda raw: 0.3 * raw.sigmoid(),
}
"""What the standard deviation is, from what the encoder gives."""


class Two(nn.Module):
    """An encoder that returns several tensors, as most VAEs' do."""

    def __init__(self, *heads: nn.Module, kind: Callable[[Any], Any] = tuple) -> None:
        super().__init__()
        self.heads = nn.ModuleList(heads)
        self.kind = kind

    def forward(self, images: Tensor) -> Any:
        return self.kind(head(images) for head in self.heads)


class Returns(nn.Module):
    """Return one thing, whatever the input."""

    def __init__(self, result: Any) -> None:
        super().__init__()
        self.result = result

    def forward(self, values: Tensor) -> Any:
        return self.result


def dense(outputs: int, *last: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Flatten(), nn.Linear(16, outputs), *last)


def positive(outputs: int) -> nn.Sequential:
    return dense(outputs, nn.Softplus())


def decoder(latent: int = 3) -> nn.Sequential:
    return nn.Sequential(nn.Linear(latent, 16), nn.Sigmoid(), nn.Unflatten(1, SHAPE))


def wrapped(encoder: nn.Module, spread: str, back: nn.Module | None = None, **facts: Any) -> GaussianVAE:
    std = {"std": 0.3} if spread in ("constant", "bounded") else {}
    return wrap(
        encoder, back or decoder(), **{"input_shape": SHAPE, "latent_shape": (3,), "spread": spread, **std, **facts}
    )


def assert_keeps_the_contract(vae: GaussianVAE, images: Tensor) -> None:
    assert isinstance(vae, BoundableVAE)
    with borrowed(vae), torch.no_grad():
        posterior = vae.encode(images)
        assert posterior.mean.shape == posterior.std.shape == (len(images), vae.latent)
        assert torch.equal(vae.mean_map(images), posterior.mean)
        if vae.std_map is None:
            assert len(posterior.std.unique()) == 1
        else:
            std = vae.std_map(images)
            assert std.shape[1:] in ((1,), (vae.latent,))
            assert torch.equal(std.expand_as(posterior.std), posterior.std)
        reconstructions = vae.decode(posterior.mean)
        assert reconstructions.shape == (len(images), *vae.input_shape)
        assert torch.equal(vae.decoder_map(posterior.mean), reconstructions)


# --- what the encoder gives ---


@pytest.mark.parametrize("kind", [tuple, list])
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("spread", STD_OF)
def test_a_pair_is_mean_and_spread(spread: str, shared: bool, kind: Callable[[Any], Any]) -> None:
    encoder = Two(dense(3), positive(1 if shared else 3), kind=kind)
    vae, images = wrapped(encoder, spread), random_images(6, SHAPE)
    mean, raw = encoder(images)
    posterior = vae.encode(images)
    assert torch.equal(posterior.mean, mean)
    assert torch.equal(posterior.std, STD_OF[spread](raw).expand(6, 3))
    assert_keeps_the_contract(vae, images)


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("spread", STD_OF)
def test_one_tensor_is_split_in_its_channels(spread: str, shared: bool) -> None:
    encoder = positive(4 if shared else 6)
    vae, images = wrapped(encoder, spread), random_images(6, SHAPE)
    mean, raw = encoder(images).tensor_split([3], dim=1)
    posterior = vae.encode(images)
    assert torch.equal(posterior.mean, mean)
    assert torch.equal(posterior.std, STD_OF[spread](raw).expand(6, 3))
    assert_keeps_the_contract(vae, images)


@settings(max_examples=50, deadline=None)
@given(std=st.floats(1e-30, 1e30), size=st.floats(-1e30, 1e30), dtype=st.sampled_from([torch.float32, torch.float64]))
def test_a_constant_spread_is_the_constant_whatever_the_image(std: float, size: float, dtype: torch.dtype) -> None:
    vae = wrapped(dense(3).to(dtype), "constant", decoder().to(dtype), std=std)
    assert torch.equal(vae.encode(size * torch.randn(2, *SHAPE, dtype=dtype)).std, torch.full((2, 3), std, dtype=dtype))
    assert vae.std_map is None


@settings(max_examples=50, deadline=None)
@given(std=st.floats(1e-3, 1e3), size=st.floats(0, 1e6), seed=st.integers(0, 99))
def test_a_bounded_spread_never_exceeds_its_bound_nor_its_slope(std: float, size: float, seed: int) -> None:
    torch.manual_seed(seed)
    encoder, back = dense(4).double(), decoder().double()
    vae = wrapped(encoder, "bounded", back, std=std)
    first, second = (size * torch.randn(2, 20, *SHAPE)).double()
    spreads = [vae.encode(images).std for images in (first, second)]
    assert max(float(spread.detach().max()) for spread in spreads) <= std
    assert vae.std_map is not None
    bound = float(bound_lipschitz(vae.std_map))
    assert bound == pytest.approx(std / 4 * float(torch.linalg.matrix_norm(encoder[1].weight.detach(), 2)), rel=1e-9)
    moved = (spreads[0] - spreads[1])[:, 0].abs().detach()
    assert (moved <= bound * (first - second).flatten(1).norm(dim=1) + 1e-12 * std).all()


def conv_encoder(channels: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(1, channels, 2, stride=2), nn.Softplus())


@pytest.mark.parametrize(
    ("encoder", "spread"),
    [
        (conv_encoder(2), "constant"),
        (conv_encoder(4), "bounded"),
        *((conv_encoder(4), spread) for spread in STD_OF),
        *((Two(conv_encoder(2), conv_encoder(2)), spread) for spread in STD_OF),
        (Two(conv_encoder(2), positive(1)), "bounded"),
    ],
)
def test_latents_may_have_several_axes(encoder: nn.Module, spread: str) -> None:
    back = nn.Sequential(nn.ConvTranspose2d(2, 1, 2, stride=2), nn.Sigmoid())
    vae, images = wrapped(encoder, spread, back, latent_shape=(2, 2, 2)), random_images(5, SHAPE)
    assert vae.latent == 8
    outputs = encoder(images)
    mean = outputs[0] if isinstance(outputs, tuple) else outputs[:, :2]
    assert torch.equal(vae.encode(images).mean.unflatten(1, (2, 2, 2)), mean)
    assert torch.equal(vae.decode(mean.flatten(1)), back(mean))
    assert_keeps_the_contract(vae, images)


@pytest.mark.parametrize("spread", ["constant", "bounded", "log_variance"])
def test_mean_and_spread_have_the_models_dtype(spread: str) -> None:
    vae = wrapped(dense(3 if spread == "constant" else 6).double(), spread, decoder().double())
    posterior = vae.encode(random_images(2, SHAPE).double())
    assert posterior.mean.dtype == posterior.std.dtype == torch.float64
    if spread == "constant":
        assert posterior.std.tolist() == [[0.3] * 3] * 2


# --- the fingerprint ---


def test_the_fingerprint_follows_every_fact_that_results_depend_on() -> None:
    encoder, back = dense(6), decoder()
    constant = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    vaes = [
        wrapped(encoder, "log_variance", back),
        wrapped(encoder, "bounded", back),
        wrapped(encoder, "bounded", back, std=0.4),
        wrapped(constant, "constant", back),
        wrapped(constant, "constant", back, std=math.nextafter(0.3, 1)),
        wrapped(constant, "constant", back, input_range=(-1.0, 1.0)),
        wrapped(constant, "constant", back, name="other"),
    ]
    prints = [fingerprint(vae) for vae in vaes]
    assert len(set(prints)) == len(vaes)
    assert [fingerprint(copy.deepcopy(vae)) for vae in vaes] == prints


# --- the modules come back as they were lent ---


def uneven() -> tuple[nn.Module, nn.Module]:
    """Modules whose parts differ in mode and in what is trained."""
    encoder = nn.Sequential(nn.BatchNorm2d(1), nn.Dropout(), dense(6))
    encoder[0].eval()
    encoder[2][1].weight.requires_grad_(False)
    back = decoder()
    back[1].eval()
    return encoder, back


def state(*modules: nn.Module) -> list[Any]:
    parts = [part for module in modules for part in module.modules()]
    modes = [part.training for part in parts]
    gradients = [parameter.requires_grad for part in parts for parameter in part.parameters()]
    return [modes, gradients, [fingerprint(module) for module in modules]]


def test_wrapping_leaves_the_modules_as_they_were() -> None:
    encoder, back = uneven()
    before = state(encoder, back)
    assert {True, False} == set(before[0]) == set(before[1])
    wrapped(encoder, "log_variance", back)
    assert state(encoder, back) == before


@pytest.mark.parametrize(
    "facts",
    [
        {"input_shape": (1, 5, 5)},
        {"latent_shape": (4,)},
        {"std": 0.3},
        {"input_range": (1.0, 0.0)},
        {"spread": "variance"},
        {"back": nn.Linear(3, 16)},
    ],
)
def test_modules_that_are_refused_come_back_as_they_were(facts: dict[str, Any]) -> None:
    encoder, back = uneven()
    encoder[2][1].bias.data[3:] = -5.0  # a variance that is negative
    before = state(encoder, back)
    with pytest.raises(ValueError, match=r"^expected "):
        wrapped(**{"encoder": encoder, "spread": "log_variance", "back": back, **facts})
    assert state(encoder, back) == before


def test_modules_without_weights_can_be_wrapped() -> None:
    vae = wrapped(nn.Flatten(), "constant", nn.Unflatten(1, SHAPE), latent_shape=(16,))
    images = random_images(3, SHAPE)
    assert torch.equal(vae.decode(vae.encode(images).mean), images)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_mean_and_spread_are_on_the_models_device() -> None:
    vae = wrapped(dense(3).to("cuda"), "constant", decoder().to("cuda"))
    posterior = vae.encode(random_images(2, SHAPE).to("cuda"))
    assert posterior.mean.device == posterior.std.device == next(vae.parameters()).device


# --- what is refused ---


@pytest.mark.parametrize(
    ("encoder", "spread", "message"),
    [
        (dense(4), "constant", r"posterior means of shape \(1, 3\), got \(1, 4\)"),
        (Two(dense(4), dense(4)), "log_variance", r"posterior means of shape \(1, 3\), got \(1, 4\)"),
        (Two(dense(2), dense(3)), "log_variance", "an encoder's output that fits spread 'log_variance', got .+"),
        (Two(dense(3), dense(2)), "log_variance", "an encoder's output that fits spread 'log_variance', got .+"),
        (dense(2), "bounded", "an encoder's output that fits spread 'bounded', got .+"),
        (dense(3), "bounded", "an encoder's output that fits spread 'bounded', got .+"),
        (dense(5), "bounded", "an encoder's output that fits spread 'bounded', got .+"),
        (Returns(torch.zeros(6)), "bounded", "an encoder's output that fits spread 'bounded', got IndexError: .+"),
        (Returns(None), "constant", "an encoder that gives a tensor or a pair of them, got NoneType"),
        (Returns({"mean": 0}), "bounded", "an encoder that gives a tensor or a pair of them, got dict"),
        (Two(dense(3)), "std", r"an encoder that gives a tensor or a pair of them, got \['Tensor'\]"),
        (Two(*[dense(3)] * 3), "std", "an encoder that gives a tensor or a pair of them, got .+"),
        (Two(dense(3), Returns(1.0)), "std", r"an encoder that gives a tensor .+, got \['Tensor', 'float'\]"),
        (Two(dense(3), dense(3)), "constant", "no pair with a constant spread, got a pair"),
        (nn.Linear(5, 3), "constant", r"an encoder of images \(1, 1, 4, 4\), got RuntimeError: .+"),
    ],
)
def test_an_encoder_that_does_not_fit_is_refused(encoder: nn.Module, spread: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"^expected {message}$"):
        wrapped(encoder, spread)


@pytest.mark.parametrize(
    ("spread", "raw", "std"),
    [
        ("std", [0.5, 0.0, 1.0], r"\[0\.5, 0\.0, 1\.0\]"),
        ("std", [0.5, -0.5, 1.0], r"\[0\.5, -0\.5, 1\.0\]"),
        ("variance", [0.25, -1.0, 0.25], r"\[0\.5, nan, 0\.5\]"),
        ("log_variance", [0.0, 1e4, 0.0], r"\[1\.0, inf, 1\.0\]"),
        ("log_variance", [0.0, -1e4, 0.0], r"\[1\.0, 0\.0, 1\.0\]"),
    ],
)
def test_standard_deviations_must_be_positive_numbers(spread: str, raw: list[float], std: str) -> None:
    encoder = Two(dense(3), Returns(torch.tensor([raw])))
    with pytest.raises(ValueError, match=f"^expected positive finite standard deviations, got {std} on a blank image$"):
        wrapped(encoder, spread)


@pytest.mark.parametrize(
    ("back", "message"),
    [
        (decoder(4), r"a decoder of latents \(1, 3\), got RuntimeError: .+"),
        (nn.Linear(3, 16), r"reconstructions of shape \(1, 1, 4, 4\), got \(1, 16\)"),
        (Returns(None), r"a decoder of latents \(1, 3\), got .+"),
        (Two(decoder()), r"a decoder of latents \(1, 3\), got .+"),
    ],
)
def test_a_decoder_that_does_not_fit_is_refused(back: nn.Module, message: str) -> None:
    with pytest.raises(ValueError, match=f"(?s)^expected {message}$"):
        wrapped(dense(3), "constant", back)


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"std": 0.0}, "expected a finite `std` > 0, got 0.0"),
        ({"std": -1.0}, "expected a finite `std` > 0, got -1.0"),
        ({"std": math.inf}, "expected a finite `std` > 0, got inf"),
        ({"std": math.nan}, "expected a finite `std` > 0, got nan"),
        ({"std": None}, "expected `std` given with spread 'constant', got None"),
        ({"spread": "log_variance"}, "expected `std` not given with spread 'log_variance', got 0.3"),
        ({"input_range": (1.0, 1.0)}, r"expected an increasing `input_range`, got \(1.0, 1.0\)"),
        ({"input_range": (math.nan, 1.0)}, r"expected an increasing `input_range`, got \(nan, 1.0\)"),
        ({"latent_shape": ()}, r"expected a `latent_shape` of positive sizes, got \(\)"),
        ({"latent_shape": (3, 0)}, r"expected a `latent_shape` of positive sizes, got \(3, 0\)"),
    ],
)
def test_facts_that_make_no_sense_are_refused(facts: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        wrapped(dense(3), **{"spread": "constant", "std": 0.3, **facts})
