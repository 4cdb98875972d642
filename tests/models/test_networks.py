"""The native models keep the contract, and the Lipschitz family its budgets, whatever the weights."""

import copy
import itertools
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.models.small import (
    LIKELIHOODS,
    SHAPE,
    SPREADS,
    every_model,
    random_images,
    small_model,
    small_vae,
    training_digits,
)
from vaerdict.lipschitz import NoSoundBound, bound_lipschitz, remove_parametrizations
from vaerdict.models import GaussianVAE, build_vae, elbo
from vaerdict.options import ModelOptions
from vaerdict.vae import BoundableVAE

widths = st.lists(st.integers(1, 8).map(lambda half: 2 * half), max_size=3).map(tuple)
budgets = st.floats(0.05, 50)


def build(options: ModelOptions, shape: tuple[int, ...] = SHAPE, **facts: Any) -> GaussianVAE:
    return build_vae(options, name="native", input_shape=shape, **facts)


def train_a_little(vae: GaussianVAE, options: ModelOptions, steps: int = 30) -> None:
    """Take large steps, to move the weights far from where they began."""
    images = training_digits(64).pixels
    optimiser = torch.optim.Adam(vae.parameters(), lr=0.05)
    for _ in range(steps):
        likelihood, kl = elbo(vae, images, torch.randn(len(images), vae.latent), options)
        optimiser.zero_grad()
        (kl - likelihood).mean().backward()
        optimiser.step()


# --- the contract ---


@every_model
@pytest.mark.parametrize(("shape", "count"), [((1, 8, 8), 5), ((3, 4, 12), 1)])
def test_shapes_and_ranges(options: ModelOptions, shape: tuple[int, ...], count: int) -> None:
    vae = build(options, shape)
    assert isinstance(vae, BoundableVAE)
    assert (vae.name, vae.input_shape, vae.input_range, vae.latent) == ("native", shape, (0.0, 1.0), 3)
    posterior = vae.encode(random_images(count, shape))
    assert posterior.mean.shape == posterior.std.shape == (count, 3)
    reconstructions = vae.decode(100 * torch.randn(count, 3)).detach()
    assert reconstructions.shape == (count, *shape)
    if options.likelihood == "bernoulli":
        assert 0 <= float(reconstructions.min()) <= float(reconstructions.max()) <= 1


@every_model
def test_the_maps_compute_what_the_model_computes(options: ModelOptions) -> None:
    vae, images = build(options).eval(), random_images(7)
    posterior = vae.encode(images)
    assert torch.equal(vae.mean_map(images), posterior.mean)
    assert torch.equal(vae.decoder_map(posterior.mean), vae.decode(posterior.mean))
    if vae.std_map is not None:
        assert torch.equal(vae.std_map(images).expand(7, 3), posterior.std)


@every_model
def test_the_standard_deviation_is_as_documented(options: ModelOptions) -> None:
    vae, images = build(options), random_images(50)
    std = vae.encode(images).std.detach()
    if options.spread == "constant":
        assert vae.std_map is None
        assert torch.equal(std, torch.full((50, 3), options.std))
    elif options.spread == "bounded":
        assert vae.std_map is not None
        assert vae.std_map(images).shape == (50, 1)
        assert torch.equal(std, std[:, :1].expand_as(std))
        assert 0 < float(std.min()) < float(std.max()) < options.std
    else:
        assert 0 < float(std.min()) < float(std.max())
        assert (std != std[:, :1]).any()


# --- the budgets ---


@settings(max_examples=25, deadline=None)
@given(
    a=budgets,
    b=budgets,
    hidden=widths,
    latent=st.integers(1, 6),
    spread=st.sampled_from(SPREADS),
    likelihood=st.sampled_from(LIKELIHOODS),
)
def test_the_lipschitz_family_has_its_budgets(a: float, b: float, **architecture: Any) -> None:
    vae = build(ModelOptions(a=a, b=b, **architecture))
    assert float(bound_lipschitz(vae.mean_map)) == pytest.approx(b, rel=1e-5)
    assert float(bound_lipschitz(vae.decoder_map)) == pytest.approx(a, rel=1e-5)


def test_the_convolutional_lipschitz_family_keeps_within_its_budgets() -> None:
    options = small_model(family="lipschitz_conv", a=7.0, b=0.5)
    vae = build(options)
    train_a_little(vae, options)
    for _ in range(2):
        for module, shape, budget in ((vae.mean_map, SHAPE, 0.5), (vae.decoder_map, (3,), 7.0)):
            assert 0.1 * budget < float(bound_lipschitz(module, shape)) < budget * (1 + 1e-5)
        remove_parametrizations(vae)


def evaluated(vae, images: torch.Tensor, latents: torch.Tensor) -> list[torch.Tensor]:
    posterior = vae.encode(images)
    return [posterior.mean, posterior.std, vae.decode(latents)]


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
@pytest.mark.parametrize("spread", SPREADS)
def test_the_budgets_are_kept_by_training_and_freezing(spread: str, likelihood: str) -> None:
    options = small_model(spread=spread, likelihood=likelihood, a=7.0, b=0.5)
    vae = build(options)
    before = copy.deepcopy(vae.state_dict())
    train_a_little(vae, options)
    assert any((vae.state_dict()[name] - weight).abs().max() > 0.1 for name, weight in before.items())
    images, latents = random_images(5), torch.randn(5, 3)
    outputs = evaluated(vae, images, latents)
    for _ in range(2):
        assert float(bound_lipschitz(vae.mean_map)) == pytest.approx(0.5, rel=1e-5)
        assert float(bound_lipschitz(vae.decoder_map)) == pytest.approx(7.0, rel=1e-5)
        if spread == "bounded":  # the sigmoid's slope is at most 1/4
            assert vae.std_map is not None
            assert float(bound_lipschitz(vae.std_map)) == pytest.approx(0.5 * options.std / 4, rel=1e-5)
        remove_parametrizations(vae)
    for before_freezing, after in zip(outputs, evaluated(vae, images, latents), strict=True):
        assert torch.equal(before_freezing, after)


def jacobian_singular_values(module: nn.Module, point: Tensor) -> Tensor:
    jacobian = torch.func.jacrev(lambda values: module(values[None]).flatten())(point)
    return torch.linalg.svdvals(jacobian.detach().flatten(1))


@pytest.mark.parametrize("seed", range(3))
def test_monotone_widths_use_the_whole_budget_everywhere(seed: int) -> None:
    """Semi-orthogonal layers that never widen and then narrow, with sorting in between, lose nothing on the way."""
    torch.manual_seed(seed)
    vae = build(small_model(hidden=(16, 8), likelihood="gaussian")).double()
    decoder = jacobian_singular_values(vae.decoder_map, 5 * torch.randn(3).double())
    assert decoder == pytest.approx(torch.full_like(decoder, 4.0), rel=1e-5)
    encoder = jacobian_singular_values(vae.mean_map, 5 * torch.randn(SHAPE).double())
    assert encoder == pytest.approx(torch.full_like(encoder, 3.0), rel=1e-5)


def stretch(module: nn.Module, first: Tensor, second: Tensor) -> Tensor:
    moved = (module(first) - module(second)).flatten(1).norm(dim=1)
    return moved / (first - second).flatten(1).norm(dim=1)


def search_stretch(module: nn.Module, shape: tuple[int, ...], steps: int = 150, tries: int = 64) -> float:
    """Look for the pair of inputs that a map pulls apart most: random pairs at many distances, then hill climbing."""
    scales = torch.logspace(-4, 1, tries, dtype=torch.float64).view(-1, *[1] * len(shape))
    first = torch.randn(tries, *shape, dtype=torch.float64)
    second = first + scales * torch.randn_like(first)
    best = stretch(module, first, second)
    for step in range(steps):
        size = 0.5 * 0.97**step
        move = size * torch.randn_like(first)
        turn = (first - second).abs().mean() * size * torch.randn_like(first)
        candidates = first + move, second + move + turn
        found = stretch(module, *candidates)
        better = (found > best).view(-1, *[1] * len(shape))
        first, second = (torch.where(better, new, old) for new, old in zip(candidates, (first, second), strict=True))
        best = torch.maximum(best, found)
    return float(best.max())


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_no_pair_of_inputs_beats_the_bounds_of_a_trained_model(likelihood: str) -> None:
    options = small_model(spread="bounded", likelihood=likelihood)
    vae = build(options)
    train_a_little(vae, options)
    remove_parametrizations(vae)
    vae.double().requires_grad_(False)  # the same weights, without float32's rounding of short distances
    assert vae.std_map is not None
    for module, shape, share in ((vae.mean_map, SHAPE, 0.5), (vae.decoder_map, (3,), 0.2), (vae.std_map, SHAPE, 0.1)):
        found, bound = search_stretch(module, shape), float(bound_lipschitz(module))
        assert share * bound < found <= bound


# --- the families ---


@pytest.mark.parametrize("family", ["plain", "conv", "lipschitz"])
def test_a_free_log_variance_has_no_bound(family: str) -> None:
    vae = small_vae(family=family, spread="log_variance").eval()
    assert vae.std_map is not None
    with pytest.raises(NoSoundBound, match=r"`std` \(HalfExponential\)"):
        bound_lipschitz(vae.std_map)
    assert float(bound_lipschitz(vae.mean_map)) > 0
    assert float(bound_lipschitz(vae.decoder_map)) > 0


@pytest.mark.parametrize("spread", SPREADS)
@pytest.mark.parametrize("hidden", [(), (8,), (12, 8, 4)])
def test_plain_and_lipschitz_are_of_one_size_and_the_decoder_mirrors_the_encoder(
    spread: str, hidden: tuple[int, ...]
) -> None:
    sizes = []
    for family in ("plain", "lipschitz"):
        options = small_model(family=family, spread=spread, hidden=hidden)
        weights = build(options, constrained=False).state_dict()
        sizes.append({name: tuple(weight.shape) for name, weight in weights.items()})
    assert sizes[0] == sizes[1]
    outputs = 3 + {"constant": 0, "bounded": 1, "log_variance": 3}[spread]
    matrices = [shape for shape in sizes[0].values() if len(shape) == 2]
    expected = [*itertools.pairwise((64, *hidden, outputs)), *itertools.pairwise((3, *reversed(hidden), 64))]
    assert matrices == [(rows, columns) for columns, rows in expected]


def test_a_frozen_model_has_the_form_that_its_weights_are_loaded_into() -> None:
    vae = small_vae()
    remove_parametrizations(vae)
    assert repr(vae) == repr(build_vae(small_model(), name="small", input_shape=SHAPE, constrained=False))


@pytest.mark.parametrize("pixels", [(-1.0, 1.0), (0.0, 255.0)])
def test_bernoulli_needs_pixels_in_the_unit_interval(pixels: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match=r"^expected pixels in \[0, 1\] with the Bernoulli likelihood, got \("):
        build(small_model(), input_range=pixels)
    assert build(small_model(likelihood="gaussian"), input_range=pixels).input_range == pixels


@pytest.mark.parametrize("shape", [(1, 7, 8), (1, 8, 10)])
def test_the_convolutional_family_needs_sides_that_4_divides(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"^expected image sides that 4 divides for the conv families, got"):
        build(small_model(family="conv"), shape)


@pytest.mark.parametrize("choice", ["family", "spread", "likelihood"])
def test_unknown_kinds_are_refused(choice: str) -> None:
    options = small_model()
    object.__setattr__(options, choice, "other")  # as outside of the tests, where types are not checked
    with pytest.raises(ValueError, match=f"^unknown {choice} 'other', known: "):
        options.__post_init__()
