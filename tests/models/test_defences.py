"""Purifications: what they compute, the gradients they let through, and the contract of the defended model."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter
from torch import Tensor, nn

from tests.attacks.searches import DAMAGE, case, damage, images_of, linear_vae
from tests.models.small import SHAPE, random_images, small_model, small_vae
from tests.untyped import untyped
from vaerdict.attacks import PGD
from vaerdict.certify import certify
from vaerdict.models import build_vae, wrap
from vaerdict.models.defences import EvidenceAscent, GaussianBlur, Purified, Quantise, TotalVariation
from vaerdict.models.defences.slopes import value_and_slope
from vaerdict.vae import VAE, fingerprint

PURIFIERS = {
    "blur": lambda: GaussianBlur(std=0.8),
    "quantise-4": lambda: Quantise(levels=4),
    "tv": lambda: TotalVariation(weight=0.1),
    "evidence": lambda: EvidenceAscent(small_vae().eval(), std=0.3),
    "blur+quantise-4": lambda: nn.Sequential(GaussianBlur(std=0.8), Quantise(levels=4)),
}


@pytest.mark.parametrize("name", PURIFIERS)
def test_the_defended_model_is_a_vae_behind_the_purification(name: str) -> None:
    vae, purify, images = small_vae().eval(), PURIFIERS[name](), random_images(3)
    defended = Purified(vae, purify)
    assert isinstance(defended, VAE)
    assert defended.name == f"small+{name}"
    posterior = vae.encode(purify(images))
    torch.testing.assert_close(defended.encode(images).mean, posterior.mean)
    torch.testing.assert_close(defended.decode(posterior.mean), vae.decode(posterior.mean))
    assert not torch.allclose(posterior.mean, vae.encode(images).mean, rtol=1e-4)


@pytest.mark.parametrize("name", PURIFIERS)
def test_pixels_stay_in_range_and_no_image_knows_its_neighbour(name: str) -> None:
    purify, images = PURIFIERS[name](), random_images(4)
    images[0] = images[0].round()
    clean = purify(images)
    assert 0 <= float(clean.min()) <= float(clean.max()) <= 1 + 1e-6
    torch.testing.assert_close(clean[1:2], purify(images[1:2]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", PURIFIERS)
def test_gradients_pass_through(name: str) -> None:
    """For rounding the gradient is that of doing nothing; all others are held against differences."""
    purify, images = PURIFIERS[name]().double(), 0.2 + 0.6 * random_images(1).double()
    if "quantise" not in name:
        assert torch.autograd.gradcheck(purify, (images.requires_grad_(),), eps=1e-6, atol=1e-5, fast_mode=True)
        return
    weights, images = torch.randn(images.shape, dtype=torch.float64), images.requires_grad_()
    (slope,) = torch.autograd.grad((weights * purify(images)).sum(), images)
    smooth = GaussianBlur(std=0.8) if "blur" in name else nn.Identity()
    torch.testing.assert_close(slope, torch.autograd.grad((weights * smooth(images)).sum(), images)[0])


@settings(max_examples=30)
@given(st.integers(2, 300), st.sampled_from([(0.0, 1.0), (-1.0, 1.0)]))
def test_quantised_pixels_are_the_nearest_levels(levels: int, input_range: tuple[float, float]) -> None:
    low, high = input_range
    images = low + (high - low) * random_images(1)
    rounded = Quantise(levels=levels, input_range=input_range)(images)
    step = (high - low) / (levels - 1)
    places = (rounded - low) / step
    torch.testing.assert_close(places, places.round(), rtol=0, atol=1e-3)
    assert float((rounded - images).abs().max()) <= step / 2 * (1 + 1e-3) + 1e-6


@pytest.mark.parametrize("std", [0.5, 1.5, 2.0])
def test_the_blur_is_the_known_one(std: float) -> None:
    images = random_images(2, (3, 7, 5))
    expected = [[gaussian_filter(channel, std, mode="nearest", truncate=3) for channel in image] for image in images]
    torch.testing.assert_close(GaussianBlur(std=std)(images), torch.tensor(np.array(expected)), rtol=1e-4, atol=1e-5)


def variation(images: Tensor, smoothing: float) -> Tensor:
    right, down = torch.zeros_like(images), torch.zeros_like(images)
    right[..., :-1] = images.diff(dim=3)
    down[..., :-1, :] = images.diff(dim=2)
    return (right.square() + down.square() + smoothing**2).sqrt().flatten(1).sum(1)


def test_the_total_variations_gradient_and_descent() -> None:
    images = random_images(2, (2, 5, 6)).double().requires_grad_()
    smoother = TotalVariation(weight=0.2, smoothing=0.03, steps=1)
    (slope,) = torch.autograd.grad(variation(images, 0.03).sum(), images)
    torch.testing.assert_close(smoother.slope(images.detach()), slope)
    energies = [
        (smooth - images).square().flatten(1).sum(1) / 2 + 0.2 * variation(smooth, 0.03)
        for smooth in (TotalVariation(weight=0.2, smoothing=0.03, steps=n)(images) for n in (1, 2, 4, 8, 16, 32))
    ]
    assert bool((torch.stack(energies).diff(dim=0) < 0).all())


def test_evidence_rises_and_is_the_models_own() -> None:
    vae, images = small_vae(spread="log_variance").eval(), random_images(3)
    climb = EvidenceAscent(vae, std=0.3, steps=5)
    assert bool((climb.evidence(climb(images)) > climb.evidence(images)).all())
    posterior = vae.encode(images)
    missed = (images - vae.decode(posterior.mean)).square().flatten(1).sum(1)
    kl = (posterior.mean.square() + posterior.std.square() - 1 - 2 * posterior.std.log()).sum(1) / 2
    torch.testing.assert_close(climb.evidence(images), -missed / 2 - 0.09 * kl)


def test_a_slope_is_the_same_with_gradients_off_and_leaves_no_trace() -> None:
    points, other = torch.rand(2, 3, requires_grad=True), torch.rand(2, 3, requires_grad=True)

    def function(x: Tensor) -> Tensor:
        return (x.square() * other).sum(1)

    value, slope = value_and_slope(function, points, other)
    assert bool((torch.autograd.grad(slope.sum(), other)[0] > 0).all())
    with torch.no_grad():
        off = value_and_slope(function, points, other)
    torch.testing.assert_close(off, (value.detach(), slope.detach()))
    assert not off[0].requires_grad
    assert not off[1].requires_grad
    assert points.grad is None


def test_an_attack_through_a_linear_purification_reaches_its_closed_form() -> None:
    """The worst damage is the radius times the largest singular value of decoder, encoder and blur together."""
    vae, _ = linear_vae()
    blur = GaussianBlur(std=0.7)
    matrix = blur(torch.eye(12).reshape(12, 1, 1, 12)).flatten(1).T
    whole = vae.decoder[0].weight @ vae.mean_map[1].weight @ matrix
    batch, ball = case(Purified(vae, blur), images_of(3), 0.3)
    delta, _ = PGD(steps=40, restarts=1).search(batch, DAMAGE, ball, "test")
    best = 0.3 * float(torch.linalg.matrix_norm(whole.detach(), 2))
    found = damage(batch, ball, delta)
    assert bool((found >= 0.99 * best).all())
    assert bool((found <= best * (1 + 1e-5)).all())
    unaware, _ = PGD(steps=40, restarts=1).search(case(vae, images_of(3), 0.3)[0], DAMAGE, ball, "test")
    assert bool((damage(batch, ball, unaware) < 0.98 * best).all())


class Pair(nn.Module):
    """Returns more than the image."""

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return images, images


def centred(images: Tensor) -> Tensor:
    return images - images.mean(0, keepdim=True)


class Mixed(nn.Module):
    """Takes a little of another image in the batch."""

    def forward(self, images: Tensor) -> Tensor:
        return 0.99 * images + 0.01 * images.flip(0)


@pytest.mark.parametrize("purify", [centred, Mixed()])
def test_an_image_that_knows_its_neighbour_is_refused(purify: Callable[[Tensor], Tensor]) -> None:
    with pytest.raises(ValueError, match="expected a purification that takes each image by itself, got other values"):
        Purified(small_vae(), purify)


def test_a_purification_for_another_range_is_refused() -> None:
    vae, wide = small_vae(), (-1.0, 1.0)
    message = r"expected {} with `input_range` \(0.0, 1.0\), got \(-1.0, 1.0\)"
    for purify in (
        Quantise(levels=4, input_range=wide),
        nn.Sequential(GaussianBlur(std=1.0), nn.Sequential(Quantise(levels=4, input_range=wide))),
    ):
        with pytest.raises(ValueError, match=message.format("quantise-4")):
            Purified(vae, purify)
    other = build_vae(small_model(likelihood="gaussian"), name="wide", input_shape=SHAPE, input_range=wide)
    with pytest.raises(ValueError, match=message.format("evidence")):
        Purified(vae, EvidenceAscent(other, std=0.3))
    assert Purified(other, Quantise(levels=4, input_range=wide)).input_range == wide


def double(images: Tensor) -> Tensor:
    return images.square()


def test_the_fingerprint_knows_the_defence() -> None:
    vae = small_vae().eval()
    defences = [GaussianBlur(std=1.0), GaussianBlur(std=2.0), Quantise(levels=8), TotalVariation(weight=0.1), double]
    prints = {fingerprint(vae), *(fingerprint(Purified(vae, purify)) for purify in defences)}
    assert len(prints) == 6
    assert Purified(vae, double).name == "small+double"
    before = fingerprint(Purified(vae, double))
    next(vae.parameters()).data += 1
    assert fingerprint(Purified(vae, double)) != before


def test_what_cannot_be_attacked_fairly_is_refused() -> None:
    vae = small_vae()
    flat = wrap(nn.Linear(4, 2), nn.Linear(2, 4), input_shape=(4,), latent_shape=(2,), spread="constant", std=0.1)
    with pytest.raises(
        ValueError, match="expected a purification that is deterministic, got something else the next time"
    ):
        Purified(vae, lambda images: images + 0.1 * torch.randn_like(images))
    with pytest.raises(ValueError, match=r"expected purified images of shape \(2, 1, 8, 8\), got \(2, 64\)"):
        Purified(vae, nn.Flatten())
    with pytest.raises(TypeError, match="expected a VAE that is a torch module, got int"):
        Purified(3, nn.Identity())
    for make, message in {
        lambda: GaussianBlur(std=0.0): "expected a finite `std` > 0, got 0",
        lambda: untyped(Quantise, levels=2.5): "expected a whole number of `levels`, got 2.5",
        lambda: untyped(TotalVariation, weight=1.0, steps=2.5): "expected a whole number of `steps`, got 2.5",
        lambda: untyped(EvidenceAscent, vae, std=1.0, steps=2.5): "expected a whole number of `steps`, got 2.5",
        lambda: Purified(vae, Pair()): "expected a purification that gives a tensor, got tuple of Tensor, Tensor",
        lambda: Purified(flat, GaussianBlur(std=1.0)): r"expected images of shape \[B, C, H, W\], got \(2, 4\)",
        lambda: Purified(flat, TotalVariation(weight=1.0)): r"expected images of shape \[B, C, H, W\], got \(2, 4\)",
        lambda: Quantise(levels=1): "expected `levels` >= 2, got 1",
        lambda: TotalVariation(weight=-1.0): "expected a finite `weight` > 0, got -1",
        lambda: EvidenceAscent(vae, std=1.0, steps=0): "expected `steps` >= 1, got 0",
    }.items():
        with pytest.raises(ValueError, match=message):
            make()
    assert vae.training


def test_a_defence_is_not_certified() -> None:
    with pytest.raises(TypeError, match=r"expected a model whose maps are modules, .* got Purified"):
        untyped(certify, Purified(small_vae(), GaussianBlur(std=1.0)), random_images(1), r=1.0)
