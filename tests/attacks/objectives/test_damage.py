import sys
from types import ModuleType

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tests.attacks.objectives.small import SHAPE, SmallVAE, batch_of, images_of, noise_of, unchecked
from vaerdict.attacks.objectives import MaximumDamage, ReconstructionTarget
from vaerdict.attacks.objectives.measures import _network, distance, distance_linf
from vaerdict.attacks.objectives.structure import MultiScale, scale_count, window


def reconstructions(batch, images, noise):
    """Give both reconstructions by hand."""
    after, before = batch.vae.encode(images), batch.posterior
    if batch.question.reconstruction == "mean":
        return batch.vae.decode(after.mean), batch.vae.decode(before.mean)
    attacked = batch.vae.decode(after.mean + after.std * noise[:, 0])
    if batch.question.reconstruction == "anchored":
        return attacked, batch.vae.decode(before.mean)
    return attacked, batch.vae.decode(before.mean + before.std * noise[:, 1])


@pytest.mark.parametrize("kind", ["sampled", "anchored", "mean"])
def test_measures_compare_the_reconstructions_of_the_question(kind: str) -> None:
    batch, images = batch_of(images_of(4), kind), images_of(4, seed=7)
    noise = noise_of(MaximumDamage(), batch)
    one, other = reconstructions(batch, images, noise)
    difference = (one - other).flatten(1)
    value = {measure: MaximumDamage(measure).loss(batch)(images, noise) for measure in ("l2", "linf", "ms-ssim")}
    torch.testing.assert_close(value["l2"], difference.square().sum(1))
    torch.testing.assert_close(value["linf"], difference.abs().max(1).values)
    torch.testing.assert_close(value["ms-ssim"], 1 - MultiScale.of(one, (0.0, 1.0))(one, other))
    target = images_of(4, seed=2)
    found = ReconstructionTarget(target).loss(batch)(images, noise)
    torch.testing.assert_close(found, -(one - target).square().flatten(1).sum(1))


def test_l2_is_the_batchs_own_squared_change() -> None:
    batch, images = batch_of(images_of(4)), images_of(4, seed=7)
    noise = noise_of(MaximumDamage(), batch)
    direct = batch.squared_change(batch.vae.encode(images), noise.unsqueeze(1)).squeeze(1)
    assert (MaximumDamage().loss(batch)(images, noise) == direct).all()


def numpy_similarity(one: np.ndarray, other: np.ndarray, span: float) -> float:
    """Compare two images of one channel as the paper says, window by window."""
    scales = max(1, sum(min(one.shape) // 2**k >= 11 for k in range(5)))
    size = min(11, min(one.shape) if min(one.shape) % 2 else min(one.shape) - 1)
    weights = np.array([0.0448, 0.2856, 0.3001, 0.2363, 0.1333][:scales])
    place = np.arange(size) - size // 2
    bell = np.exp(-(place**2) / (2 * (1.5 * size / 11) ** 2))
    kernel = np.outer(bell, bell) / bell.sum() ** 2
    c1, c2 = (0.01 * span) ** 2, (0.03 * span) ** 2
    total = 1.0
    for scale, weight in enumerate(weights / weights.sum()):
        factors = []
        for row in range(one.shape[0] - size + 1):
            for column in range(one.shape[1] - size + 1):
                x = one[row : row + size, column : column + size]
                y = other[row : row + size, column : column + size]
                mx, my = (kernel * x).sum(), (kernel * y).sum()
                vx, vy = (kernel * (x - mx) ** 2).sum(), (kernel * (y - my) ** 2).sum()
                cov = (kernel * (x - mx) * (y - my)).sum()
                structure = (2 * cov + c2) / (vx + vy + c2)
                luminance = (2 * mx * my + c1) / (mx**2 + my**2 + c1)
                factors.append(luminance * structure if scale == scales - 1 else structure)
        total *= max(np.mean(factors), 1e-6) ** weight if scales > 1 else np.mean(factors)
        height, width = one.shape[0] // 2 * 2, one.shape[1] // 2 * 2
        one, other = (
            image[:height, :width].reshape(height // 2, 2, width // 2, 2).mean((1, 3)) for image in (one, other)
        )
    return total


@pytest.mark.parametrize(("height", "width"), [(8, 8), (3, 5), (11, 13), (23, 24), (28, 28), (46, 45)])
@pytest.mark.parametrize("pixels", [(0.0, 1.0), (-1.0, 1.0)])
def test_similarity_is_the_papers(height: int, width: int, pixels: tuple[float, float]) -> None:
    low, high = pixels
    one = low + (high - low) * torch.rand(2, 2, height, width, dtype=torch.float64)
    other = (one + 0.2 * torch.randn_like(one)).clamp(low, high)
    peer = [
        np.mean([numpy_similarity(a.numpy(), b.numpy(), high - low) for a, b in zip(x, y, strict=True)])
        for x, y in zip(one, other, strict=True)
    ]
    assert MultiScale.of(one, pixels)(one, other).numpy() == pytest.approx(np.array(peer), rel=1e-9)


def test_scales_and_windows_of_usual_sizes() -> None:
    sides = (8, 10, 11, 21, 22, 28, 32, 44, 64, 88, 175, 176, 512)
    assert [scale_count(side, side + 3) for side in sides] == [1, 1, 1, 1, 2, 2, 2, 3, 3, 4, 4, 5, 5]
    assert [len(window(side)) for side in (3, 4, 8, 10, 11, 12, 300)] == [3, 3, 7, 9, 11, 11, 11]


@settings(max_examples=30)
@given(seed=st.integers(0, 10_000), scale=st.sampled_from([0.0, 0.01, 1.0, 100.0]))
def test_similarity_is_symmetric_at_most_one_and_always_has_a_slope(seed: int, scale: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    one, other = (
        (0.5 + scale * torch.randn(2, 1, 24, 24, generator=generator, dtype=torch.float64)).requires_grad_()
        for _ in range(2)
    )
    similarity = MultiScale.of(one, (0.0, 1.0))
    value = similarity(one, other)
    assert (value <= 1 + 1e-9).all()
    assert (value > 0).all()
    torch.testing.assert_close(value, similarity(other, one))
    for gradient in torch.autograd.grad(value.sum(), (one, other)):
        assert gradient.isfinite().all()


def test_opposite_images_have_the_least_similarity_and_a_finite_slope() -> None:
    one = torch.rand(1, 1, 24, 24, dtype=torch.float64).requires_grad_()
    value = MultiScale.of(one, (0.0, 1.0))(one, 1 - one.detach())
    (gradient,) = torch.autograd.grad(value.sum(), one)
    assert value < 1e-3
    assert gradient.isfinite().all()


def test_the_largest_change_shares_its_slope_among_ties() -> None:
    one = torch.tensor([[0.0, 1.0, -1.0]], requires_grad=True)
    (gradient,) = torch.autograd.grad(distance_linf(one, torch.zeros(1, 3)).sum(), one)
    torch.testing.assert_close(gradient, torch.tensor([[0.0, 0.5, -0.5]]))


@pytest.mark.parametrize("shape", [(1, 1, 12), (12,), (1, 2, 8)])
def test_images_too_small_for_windows_are_refused(shape: tuple[int, ...]) -> None:
    vae = SmallVAE()
    vae.input_shape = shape
    with pytest.raises(ValueError, match=r"expected images \(C, H, W\) of at least 3 by 3 pixels for 'ms-ssim', got"):
        MaximumDamage("ms-ssim").check(vae, torch.zeros(1, *shape))
    MaximumDamage("linf").check(vae, torch.zeros(1, *shape))


def test_an_unknown_measure_is_refused() -> None:
    with pytest.raises(ValueError, match=r"expected `measure` in \('l2', 'linf', 'ms-ssim', 'lpips'\), got 'l1'"):
        unchecked(MaximumDamage, measure="l1").__post_init__()


def test_targets_that_do_not_fit_are_refused() -> None:
    images = images_of(3)
    for targets, said in ((images[:2], r"`target_images` of shape \(3, 1, 8, 8\), got \(2, 1"), (images + 1, "pixels")):
        with pytest.raises(ValueError, match=f"expected {said}"):
            ReconstructionTarget(targets).check(SmallVAE(), images)


class PeerLPIPS(nn.Module):
    """What the package's class promises, as far as it is used: two batches in [-1, 1] in, `[B, 1, 1, 1]` out."""

    def __init__(self, net: str, verbose: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(3))
        with torch.no_grad():
            self.weight.copy_(torch.tensor([1.0, 2.0, 3.0]))
        assert (net, verbose) == ("alex", False)

    def forward(self, one, other):
        assert one.shape[1:] == other.shape[1:] == (3, *SHAPE[1:])
        assert one.abs().max() <= 1
        return ((one - other).square().mean((2, 3)) @ self.weight)[:, None, None, None]


@pytest.fixture
def _peer(monkeypatch):
    package = ModuleType("lpips")
    package.LPIPS = PeerLPIPS
    monkeypatch.setitem(sys.modules, "lpips", package)
    _network.cache_clear()
    yield
    _network.cache_clear()


@pytest.mark.usefixtures("_peer")
def test_lpips_sees_three_channels_in_its_own_range() -> None:
    state = torch.get_rng_state()
    batch, images = batch_of(images_of(3), "mean"), images_of(3, seed=7)
    objective = MaximumDamage("lpips")
    objective.check(SmallVAE(), images)
    assert objective.name == "damage-lpips"
    one, other = reconstructions(batch, images, None)
    expected = 6 * (2 * (one - other)).square().mean((1, 2, 3))
    torch.testing.assert_close(objective.loss(batch)(images, torch.empty(3, 0, 3)), expected)
    assert (torch.get_rng_state() == state).all()
    assert not any(weight.requires_grad for weight in _network(images.device, images.dtype).parameters())
    vae = SmallVAE()
    vae.input_shape = (2, 8, 8)
    with pytest.raises(ValueError, match="expected 1 or 3 channels for 'lpips', got 2"):
        objective.check(vae, images)


def test_without_lpips_the_message_says_what_to_install(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "lpips", None)
    with pytest.raises(ImportError, match=r"expected the package lpips \(pip install lpips\), got"):
        MaximumDamage("lpips").check(SmallVAE(), images_of(1))


def test_the_squared_distance_is_no_distance_of_this_file() -> None:
    with pytest.raises(ValueError, match=r"expected `measure` in \('linf', 'ms-ssim', 'lpips'\), got 'l2'"):
        distance("l2", images_of(1), (0.0, 1.0))
