"""Center smoothing on models whose smoothed reconstruction is known: two values, and a linear Gaussian."""

import math
from collections.abc import Sequence

import pytest
import torch
from scipy.stats import ncx2, norm
from torch import Tensor, nn

from tests.toys import LinearVAE, isotropic_vae
from vaerdict.certify import draws as draws_module
from vaerdict.certify.center import CenterResult, certify_center, certify_latent_center
from vaerdict.certify.smoothed import Center, CenterOptions, estimate_centers
from vaerdict.certify.statistics import clopper_pearson_lower
from vaerdict.lipschitz import NoSoundBound
from vaerdict.seeds import normal_noise
from vaerdict.vae import Posterior

SMALL = CenterOptions(samples=2000, selection=1000, candidates=16, delta=0.1, confidence=0.99)
LOOSE = CenterOptions(samples=60, selection=60, candidates=5, delta=0.2, confidence=0.6)


class Jump(nn.Module):
    """Decodes to one of two far images, by the sign of a latent: no Lipschitz constant, the centre is the likelier."""

    def forward(self, latents: Tensor) -> Tensor:
        return 10.0 * latents[:, :1].sign().expand(-1, 4).unflatten(1, (1, 1, 4))


class Odd(nn.Module):
    """Decodes all latents to values that are not numbers."""

    def forward(self, latents: Tensor) -> Tensor:
        return latents.new_full((len(latents), 1, 1, 4), math.nan)


def jump_vae(std: float = 0.5, decoder: nn.Module | None = None) -> LinearVAE:
    """`mu = 3 x_1`: the reconstruction is `10 sign(3 (x_1 + noise) + std e)` in each pixel."""
    vae = LinearVAE(3.0 * torch.eye(4)[:1], torch.ones(4, 1), std)
    vae.decoder = decoder or Jump()
    return vae


def image(first: float) -> Tensor:
    return torch.tensor([first, 0.3, -0.2, 0.7]).reshape(1, 1, 1, 4)


def jump_probability(first: float, noise_std: float, std: float) -> float:
    """Probability of the side that `first` > 0 is on."""
    return float(norm.cdf(3 * first / math.hypot(3 * noise_std, std)))


# --- truth ---


def test_margin_of_a_jump_is_the_distance_to_it_but_for_statistics() -> None:
    """Without posterior noise worth the name the smoothed reconstruction jumps where `x_1` changes its sign."""
    vae, noise_std, first = jump_vae(std=1e-6), 0.25, 0.4
    (result,) = certify_center(vae, image(first), r=15.0, noise_std=noise_std, options=CenterOptions())
    assert result.reason == ""
    assert result.center.pixels.tolist() == [10.0] * 4
    formula = noise_std * (norm.ppf(result.clean) - norm.ppf(0.55))
    assert result.margin == pytest.approx(formula, rel=1e-6)
    assert result.margin <= formula
    assert 0.8 * first < result.margin + noise_std * norm.ppf(0.55) < first


def test_no_move_within_the_margin_makes_the_centre_jump_and_a_larger_one_does() -> None:
    vae, noise_std, first = jump_vae(), 0.25, 0.4
    (result,) = certify_center(vae, image(first), r=15.0, noise_std=noise_std)
    worst = image(first - 0.999 * result.margin)
    (near,) = estimate_centers(vae, worst, noise_std=noise_std, seed=1)
    (far,) = estimate_centers(vae, image(-0.2), noise_std=noise_std, seed=1)
    assert near.reason == far.reason == ""
    assert float((near.pixels - result.center.pixels).norm()) == 0.0
    assert float((far.pixels - result.center.pixels).norm()) == 40.0


def linear_truth(vae: LinearVAE, x: Tensor, center: Tensor, noise_std: float, radius: float) -> float:
    """`P(|g - centre| <= radius)`, `g = 2 U z`, `z ~ N(3 Q^T x, (9 s^2 + std^2) I)`, the centre in the image of `U`."""
    mean = vae.mean_map(x)[0].double()
    at = torch.linalg.lstsq(vae.decoder[0].weight.double(), center.unsqueeze(1)).solution[:, 0]
    variance = 9 * noise_std**2 + vae.std**2
    return float(ncx2.cdf((radius / 2) ** 2 / variance, vae.latent, float((mean - at).square().sum()) / variance))


def test_counts_of_a_linear_model_have_the_chi_squares_probability() -> None:
    vae, noise_std, r = isotropic_vae(latent=4, a=2.0, b=3.0, std=0.1), 0.1, 6.0
    x = torch.rand(2, 1, 1, 12)
    with torch.no_grad():
        results = certify_center(vae, x, r=r, noise_std=noise_std, options=SMALL, sample_ids=[5, 9])
        for result, one in zip(results, x.split(1), strict=True):
            truth = linear_truth(vae, one, result.center.pixels, noise_std, r / 3)
            assert result.within / SMALL.samples == pytest.approx(truth, abs=4 * (0.25 / SMALL.samples) ** 0.5)
            mean = linear_truth(vae, one, result.center.pixels, noise_std, result.center.radius)
            assert result.center.tested / SMALL.selection == pytest.approx(
                mean, abs=4 * (0.25 / SMALL.selection) ** 0.5
            )
            assert result.margin > 0


def test_smoothed_reconstructions_within_the_margin_stay_within_r() -> None:
    """Attacks of length `margin` in the directions in which a linear model moves most, and in random ones."""
    vae, noise_std, r = isotropic_vae(latent=2, a=2.0, b=3.0, std=0.1), 0.2, 9.0
    x = torch.rand(1, 1, 1, 12)
    (result,) = certify_center(vae, x, r=r, noise_std=noise_std, options=SMALL)
    assert result.margin > 0.1
    worst = [row.detach() for row in vae.mean_map[1].weight]
    directions = torch.stack([*worst, *(-row for row in worst), *torch.randn(6, 12)])
    moved = x + (result.margin * directions / directions.norm(dim=1, keepdim=True)).reshape(-1, 1, 1, 12)
    found = estimate_centers(vae, moved, noise_std=noise_std, options=SMALL, seed=1)
    accepted = [center for center in found if not center.reason]
    assert len(accepted) >= 8
    assert all(float((center.pixels - result.center.pixels).norm()) <= r for center in accepted)


# --- the latent form ---


def test_latent_margin_is_the_shift_in_standard_deviations() -> None:
    vae, first = jump_vae(std=0.5), 0.2
    options = CenterOptions(samples=4000)
    (result,) = certify_latent_center(vae, image(first), r=15.0, whitened=lambda rho: 3 / 0.5 * rho, options=options)
    assert result.within / 4000 == pytest.approx(norm.cdf(3 * first / 0.5), abs=4 * (0.25 / 4000) ** 0.5)
    assert result.margin == pytest.approx(0.5 / 3 * (norm.ppf(result.clean) - norm.ppf(0.55)), rel=1e-6)
    assert 0.7 * first < result.margin < first
    (local,) = certify_latent_center(vae, image(first), r=15.0, whitened=lambda rho: 36 * rho**2, options=options)
    assert local.margin == pytest.approx(math.sqrt(result.margin / 6), rel=1e-6)


def test_latent_form_refuses_a_spread_that_moves() -> None:
    vae = jump_vae()
    vae.std_map = nn.Identity()
    with pytest.raises(NoSoundBound, match="standard deviation depends on the image"):
        certify_latent_center(vae, image(0.2), r=15.0, whitened=lambda rho: rho)
    vae = jump_vae()
    vae.encode = lambda images: Posterior(images[:, 0, 0, :1], images[:, 0, 0, 1:2].abs())  # type: ignore[method-assign]
    with pytest.raises(NoSoundBound, match="standard deviation depends on the image"):
        certify_latent_center(
            vae, torch.cat([image(0.2), 2 * image(0.1)]), r=15.0, whitened=lambda rho: rho, sample_ids=[0, 1]
        )


def test_a_shift_that_is_not_a_number_is_no_margin() -> None:
    with pytest.raises(FloatingPointError, match="not a number"):
        certify_latent_center(jump_vae(), image(0.2), r=15.0, whitened=lambda rho: rho * math.nan, options=SMALL)


# --- coverage ---


def test_clean_probability_is_covered() -> None:
    """Many runs on one image with few draws and little confidence: the bound fails no more often than it may."""
    noise_std, std, first, repeats = 0.25, 0.5, 0.3, 200
    vae, truth = jump_vae(std), jump_probability(first, noise_std, std)
    results = certify_center(vae, image(first).repeat(repeats, 1, 1, 1), r=15.0, noise_std=noise_std, options=LOOSE)
    right = [result for result in results if not result.center.reason and result.center.pixels[0] > 0]
    assert len(right) > 0.8 * repeats
    wrong = sum(result.clean > truth for result in right) / len(right)
    assert 0.01 < wrong <= 0.1 + 4 * (0.09 / len(right)) ** 0.5  # a quarter of 1 - 0.6
    reach = noise_std * (norm.ppf(truth) - norm.ppf(0.7))  # no clean bound that is right gives more
    assert all(result.margin <= reach for result in right if result.clean <= truth)


@pytest.mark.parametrize("probability", [0.7, 0.85])
def test_centres_of_a_moved_image_meet_the_claim(probability: float) -> None:
    """A ball with the probability `u` = 0.7 or more: the centre is in it or near, or there is none, in 7 of 10 runs."""
    noise_std, std, repeats = 0.25, 0.5, 100
    first = math.hypot(3 * noise_std, std) * float(norm.ppf(probability)) / 3
    assert jump_probability(first, noise_std, std) == pytest.approx(probability)
    x = image(first).repeat(repeats, 1, 1, 1)
    centers = estimate_centers(jump_vae(std), x, noise_std=noise_std, options=LOOSE, seed=1)
    accepted = [center for center in centers if not center.reason]
    assert len(accepted) > 0.5 * repeats
    assert sum(float(center.pixels[0]) < 0 for center in accepted) <= 0.3 * repeats


# --- who draws what ---


def test_choosing_testing_and_certifying_draws_are_never_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, int, str]] = []

    def recorded(seed: int, sample_ids: Sequence[int], purpose: str, shape: tuple[int, ...]) -> Tensor:
        asked.extend((seed, sample_id, purpose) for sample_id in sample_ids)
        return normal_noise(seed, sample_ids, purpose, shape)

    monkeypatch.setattr(draws_module, "normal_noise", recorded)
    certify_center(jump_vae(), image(0.4), r=15.0, noise_std=0.25, options=SMALL)
    assert len(asked) == len(set(asked))
    assert {purpose.split("/")[1] for _, _, purpose in asked} == {"candidates", "select", "test", "certify"}


def chosen(options: CenterOptions, r: float = 15.0) -> CenterResult:
    vae = isotropic_vae(latent=2, std=0.5)
    (result,) = certify_center(vae, torch.full((1, 1, 1, 12), 0.5), r=r, noise_std=0.25, options=options)
    return result


def test_certifying_draws_choose_nothing() -> None:
    first, more = (
        chosen(SMALL),
        chosen(CenterOptions(samples=500, selection=1000, candidates=16, delta=0.1, confidence=0.99)),
    )
    assert torch.equal(first.center.pixels, more.center.pixels)
    assert first.within != more.within


def test_results_belong_to_the_sample_alone() -> None:
    vae, x = isotropic_vae(latent=2, std=0.5), torch.rand(3, 1, 1, 12)
    together = certify_center(vae, x, r=9.0, noise_std=0.1, options=SMALL, sample_ids=[4, 8, 15])
    (alone,) = certify_center(vae, x[1:2], r=9.0, noise_std=0.1, options=SMALL, sample_ids=[8])
    assert alone.center == together[1].center
    assert alone == together[1]
    (other,) = certify_center(vae, x[1:2], r=9.0, noise_std=0.1, options=SMALL, sample_ids=[9])
    assert other.center != alone.center


def test_memory_is_bounded_by_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(draws_module, "_NUMBERS_AT_ONCE", 500)
    seen: list[int] = []
    vae = jump_vae()
    vae.decoder.register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs[0])))
    (result,) = certify_center(vae, image(0.4), r=15.0, noise_std=0.25, options=SMALL)
    assert max(seen) == 500 // 5
    assert sum(seen) == 16 + 2 * 1000 + 2000
    assert result.margin > 0


# --- nothing certified ---


def test_a_coin_has_no_margin_and_says_why() -> None:
    """On the jump itself both sides have probability 1/2, and no ball holds 0.6."""
    (result,) = certify_center(jump_vae(), image(0.0), r=15.0, noise_std=0.25, options=SMALL)
    assert result.margin == 0.0
    assert "only shown to have a probability of" in result.reason


def test_a_ball_that_fails_its_test_is_no_centre() -> None:
    few = CenterOptions(samples=100, selection=11, candidates=11, delta=0.01, confidence=0.99)
    (result,) = certify_center(isotropic_vae(std=0.5), torch.rand(1, 1, 1, 12), r=90.0, noise_std=0.25, options=few)
    shown = clopper_pearson_lower(result.center.tested, 11, few.each)
    assert shown <= 0.49
    assert (result.margin, result.within) == (0.0, 0)
    assert result.reason == result.center.reason != ""


def test_reconstructions_that_are_not_numbers_have_no_centre() -> None:
    (result,) = certify_center(jump_vae(decoder=Odd()), image(0.4), r=15.0, noise_std=0.25, options=SMALL)
    assert result.margin == 0.0
    assert result.reason == "too many reconstructions are not finite"


def test_a_large_distance_that_overflows_is_no_small_one() -> None:
    vae = jump_vae(decoder=nn.Sequential(Jump(), nn.Flatten(), nn.Linear(4, 4), nn.Unflatten(1, (1, 1, 4))))
    nn.init.constant_(vae.decoder[2].weight, math.inf)
    (center,) = estimate_centers(vae, image(0.4), noise_std=0.25, options=SMALL)
    assert center.reason == "too many reconstructions are not finite"
    assert isinstance(center, Center)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"delta": 0.5}, r"expected `delta` in \(0, 1/2\), got 0.5"),
        ({"candidates": 5}, "expected `candidates` >= 11 to show"),
        ({"selection": 10}, "expected `selection` >= 11 to show"),
        ({"samples": 13}, "expected `samples` >= 14 to show a probability above 0.55"),
        ({"confidence": 1.0}, "`confidence` in"),
    ],
)
def test_options_that_cannot_certify_are_refused(changed: dict[str, float], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        CenterOptions(**changed)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"r": 0.0}, "a finite `r` > 0, got 0"),
        ({"r": math.nan}, "a finite `r` > 0, got nan"),
        ({"noise_std": 0.0}, "a finite `noise_std` > 0, got 0"),
        ({"noise_std": math.inf}, "a finite `noise_std` > 0, got inf"),
        ({"sample_ids": [1, 2]}, "1 sample ids, got 2"),
    ],
)
def test_questions_without_an_answer_are_refused(changed: dict[str, object], said: str) -> None:
    asked = {"r": 15.0, "noise_std": 0.25, "options": SMALL, **changed}
    with pytest.raises(ValueError, match=said):
        certify_center(jump_vae(), image(0.4), **asked)  # type: ignore[arg-type]


def test_the_model_comes_back_as_it_was() -> None:
    vae = jump_vae().train()
    certify_center(vae, image(0.4), r=15.0, noise_std=0.25, options=SMALL)
    assert vae.training
    assert all(parameter.requires_grad for parameter in vae.parameters())
