"""Center smoothing on models whose smoothed reconstruction is known: two values, and a linear Gaussian."""

import json
import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from scipy.stats import ncx2, norm
from torch import Tensor, nn

from tests.toys import LinearVAE, isotropic_vae
from vaerdict.certify import certify, choose_methods, estimate_centers, methods, smoothed
from vaerdict.certify import draws as draws_module
from vaerdict.certify.methods import SMOOTHED
from vaerdict.certify.methods import center as center_module
from vaerdict.certify.smoothed import SELECTION, Center, confidence_of_each
from vaerdict.certify.statistics import clopper_pearson_lower
from vaerdict.lipschitz import NoSoundBound
from vaerdict.options import METHOD_NAMES, CertifyOptions
from vaerdict.results import Row
from vaerdict.seeds import normal_noise
from vaerdict.vae import Posterior

LOOSE: dict[str, Any] = {"SELECTION": 60, "CANDIDATES": 5, "SHARE": 0.7}


def search(monkeypatch: pytest.MonkeyPatch, **constants: Any) -> None:
    """Change how the centre is found, wherever the constants are known."""
    for module in (smoothed, methods, center_module):
        for name, value in constants.items():
            if hasattr(module, name):
                monkeypatch.setattr(module, name, value)


def certified(vae: Any, x: Tensor, *, r: float = 15.0, noise_std: float = 0.25, **more: Any) -> list[Row]:
    """Give the rows of the smoothing method that applies; `more` is options, `seed` or `sample_ids`."""
    ask = {name: more.pop(name) for name in ("seed", "sample_ids") if name in more}
    options = CertifyOptions(reconstruction="smoothed", noise_std=noise_std, **more)
    return [row for row in certify(vae, x, r=r, options=options, **ask) if row.status == "ok"]


def facts(row: Row) -> dict[str, Any]:
    return dict(json.loads(row.constants))


def clean_of(row: Row) -> float:
    """Recompute the lower bound of the clean probability."""
    told = facts(row)
    return clopper_pearson_lower(told["successes"], told["samples"], 1 - told["alpha"])


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


@pytest.mark.parametrize("norm_of_change", ["2", "inf"])
def test_margin_of_a_jump_is_the_distance_to_it_but_for_statistics(norm_of_change: str) -> None:
    """Without posterior noise worth the name the smoothed reconstruction jumps where `x_1` changes its sign."""
    vae, noise_std, first = jump_vae(std=1e-6), 0.25, 0.4
    (row,) = certified(vae, image(first), samples=10_000, norm=norm_of_change)
    assert (row.method, row.strength, row.reconstruction, row.noise_std) == (
        "center", "statistical", "smoothed", noise_std
    )  # fmt: skip
    assert (row.reason, row.confidence, row.norm) == ("", 0.999, norm_of_change)
    (center,) = estimate_centers(vae, image(first), noise_std=noise_std)
    assert center.pixels.tolist() == [10.0] * 4
    formula = noise_std * (norm.ppf(clean_of(row)) - norm.ppf(0.55))
    margin = row.margin * (2.0 if norm_of_change == "inf" else 1.0)  # of four pixels
    assert margin == pytest.approx(formula, rel=1e-6)
    assert margin <= formula
    assert 0.8 * first < margin + noise_std * norm.ppf(0.55) < first


def test_no_move_within_the_margin_makes_the_centre_jump_and_a_larger_one_does() -> None:
    vae, noise_std, first = jump_vae(), 0.25, 0.4
    (row,) = certified(vae, image(first))
    (center,) = estimate_centers(vae, image(first), noise_std=noise_std)
    worst = image(first - 0.999 * row.margin)
    (near,) = estimate_centers(vae, worst, noise_std=noise_std, seed=1)
    (far,) = estimate_centers(vae, image(-0.2), noise_std=noise_std, seed=1)
    assert near.reason == far.reason == ""
    assert float((near.pixels - center.pixels).norm()) == 0.0
    assert float((far.pixels - center.pixels).norm()) == 40.0


def linear_truth(vae: LinearVAE, x: Tensor, center: Tensor, noise_std: float, radius: float) -> float:
    """`P(|g - centre| <= radius)`, `g = 2 U z`, `z ~ N(3 Q^T x, (9 s^2 + std^2) I)`, the centre in the image of `U`."""
    mean = vae.mean_map(x)[0].double()
    at = torch.linalg.lstsq(vae.decoder[0].weight.double(), center.unsqueeze(1)).solution[:, 0]
    variance = 9 * noise_std**2 + vae.std**2
    return float(ncx2.cdf((radius / 2) ** 2 / variance, vae.latent, float((mean - at).square().sum()) / variance))


def test_counts_of_a_linear_model_have_the_chi_squares_probability() -> None:
    vae, noise_std, r = isotropic_vae(latent=4, a=2.0, b=3.0, std=0.1), 0.1, 6.0
    x = torch.rand(2, 1, 1, 12)
    rows = certified(vae, x, r=r, noise_std=noise_std, sample_ids=[5, 9])
    centers = estimate_centers(vae, x, noise_std=noise_std, sample_ids=[5, 9])
    with torch.no_grad():
        for row, center, one in zip(rows, centers, x.split(1), strict=True):
            told = facts(row)
            assert (told["radius"], told["tested"]) == (center.radius, center.tested)
            truth = linear_truth(vae, one, center.pixels, noise_std, r / 3)
            assert told["successes"] / 2000 == pytest.approx(truth, abs=4 * (0.25 / 2000) ** 0.5)
            held = linear_truth(vae, one, center.pixels, noise_std, center.radius)
            assert center.tested / SELECTION == pytest.approx(held, abs=4 * (0.25 / SELECTION) ** 0.5)
            assert row.margin > 0


def test_smoothed_reconstructions_within_the_margin_stay_within_r() -> None:
    """Attacks of length `margin` in the directions in which a linear model moves most, and in random ones."""
    vae, noise_std, r = isotropic_vae(latent=2, a=2.0, b=3.0, std=0.1), 0.2, 9.0
    x = torch.rand(1, 1, 1, 12)
    (row,) = certified(vae, x, r=r, noise_std=noise_std)
    (center,) = estimate_centers(vae, x, noise_std=noise_std)
    assert row.margin > 0.1
    worst = [row.detach() for row in vae.mean_map[1].weight]
    directions = torch.stack([*worst, *(-row for row in worst), *torch.randn(6, 12)])
    moved = x + (row.margin * directions / directions.norm(dim=1, keepdim=True)).reshape(-1, 1, 1, 12)
    found = estimate_centers(vae, moved, noise_std=noise_std, seed=1)
    accepted = [one for one in found if not one.reason]
    assert len(accepted) >= 8
    assert all(float((one.pixels - center.pixels).norm()) <= r for one in accepted)


def test_the_row_holds_what_recomputes_it() -> None:
    (row,) = certified(jump_vae(), image(0.4), samples=3000, confidence=0.99)
    told = facts(row)
    assert told["alpha"] == pytest.approx(0.01 / 4)
    assert 1 - told["alpha"] >= confidence_of_each(0.99)
    assert (told["samples"], told["share"], told["noise_std"], row.confidence) == (3000, 0.55, 0.25, 0.99)
    assert (told["candidates"], told["selection"], row.n_forward) == (32, 4000, 2 * (32 + 2 * 4000 + 3000))
    assert told["shift"] == pytest.approx(row.margin / 0.25)
    assert norm.cdf(norm.ppf(clean_of(row)) - told["shift"]) == pytest.approx(0.55, abs=1e-6)


def test_the_level_plays_no_part() -> None:
    options = CertifyOptions(reconstruction="smoothed", noise_std=0.25)
    half, most = (
        [row.margin for row in certify(jump_vae(), image(0.4), r=15.0, p=p, options=options) if row.status == "ok"]
        for p in (0.5, 0.99999)
    )
    assert half == most


# --- the latent form ---


def test_latent_margin_is_the_shift_in_standard_deviations() -> None:
    vae, first = jump_vae(std=0.5), 0.2
    (row,) = certified(vae, image(first), noise_std=0.0, samples=4000)
    told = facts(row)
    assert (row.method, row.strength, row.noise_std) == ("latent_center", "statistical", 0.0)
    assert told["successes"] / 4000 == pytest.approx(norm.cdf(3 * first / 0.5), abs=4 * (0.25 / 4000) ** 0.5)
    assert row.margin == pytest.approx(0.5 / 3 * (norm.ppf(clean_of(row)) - norm.ppf(0.55)), rel=1e-4)
    assert 0.7 * first < row.margin < first
    assert told["shift"] == pytest.approx(
        told["b"] / told["std_min"] * row.margin + told["mean_rounding"] / 0.5, rel=1e-3
    )
    assert told["shift_by"] == "global"


class Bent(LinearVAE):
    """`mu = 3 |x_1| + 30 relu(x_1 - 5)`: steep, but not near the images here."""

    def __init__(self) -> None:
        super().__init__(3.0 * torch.eye(4)[:1], torch.ones(4, 1), 0.5)
        first, last = nn.Linear(4, 2), nn.Linear(2, 1)
        with torch.no_grad():
            first.weight.copy_(torch.tensor([[1.0, 0, 0, 0], [1.0, 0, 0, 0]]))
            first.bias.copy_(torch.tensor([100.0, -5.0]))
            last.weight.copy_(torch.tensor([[3.0, 30.0]]))
            last.bias.fill_(-300.0)
        self.mean_map = nn.Sequential(nn.Flatten(), first, nn.ReLU(), last)
        self.decoder = Jump()


def test_latent_form_uses_bounds_on_balls() -> None:
    (near,) = certified(Bent(), image(0.2), noise_std=0.0)
    (everywhere,) = certified(Bent(), image(0.2), noise_std=0.0, local=False)
    assert facts(near)["shift_by"] == "local"
    assert facts(everywhere)["shift_by"] == "global"
    assert 0.1 < near.margin < 0.2
    assert everywhere.margin < 0.2 * near.margin


def test_latent_form_refuses_a_spread_that_moves() -> None:
    vae = jump_vae()
    vae.std_map = nn.Identity()
    with pytest.raises(NoSoundBound, match=r"latent_center .* standard deviation depends on the image .see `center`"):
        certified(vae, image(0.2), noise_std=0.0)
    vae = jump_vae()
    vae.encode = lambda images: Posterior(images[:, 0, 0, :1], images[:, 0, 0, 1:2].abs())  # type: ignore[method-assign]
    with pytest.raises(ValueError, match="the same standard deviations for all images"):
        certified(vae, torch.cat([image(0.2), 2 * image(0.1)]), noise_std=0.0)


# --- which method applies ---


class Untouched(nn.Module):
    """May be neither called nor traced."""

    def forward(self, inputs: Tensor) -> Tensor:
        pytest.fail("a map was used")


class Anything(nn.Module):
    """Its encoder jumps, its posterior's deviation moves, and nothing could bound either."""

    name, input_shape, input_range, latent = "anything", (1, 1, 4), (-100.0, 100.0), 1

    def __init__(self) -> None:
        super().__init__()
        self.mean_map, self.std_map, self.decoder_map = Untouched(), Untouched(), Untouched()

    def encode(self, images: Tensor) -> Posterior:
        first = images[:, 0, 0, :1]
        return Posterior((3 * first).round(decimals=3), 0.1 + 0.1 * first.abs())

    def decode(self, latents: Tensor) -> Tensor:
        return Jump()(latents)


def test_nothing_of_the_model_is_bounded_where_noise_is_on_the_pixels() -> None:
    (row,) = certified(Anything(), image(0.4))
    assert 0.1 < row.margin < 0.4


@pytest.mark.parametrize(("noise_std", "applies"), [(0.25, "center"), (0.0, "latent_center")])
def test_only_one_method_certifies_smoothed_reconstructions(noise_std: float, applies: str) -> None:
    reasons = choose_methods(
        isotropic_vae(), torch.rand(1, 1, 1, 12), CertifyOptions(reconstruction="smoothed", noise_std=noise_std)
    )
    assert tuple(reasons) == METHOD_NAMES
    assert [name for name, reason in reasons.items() if reason is None] == [applies]
    (other,) = {*SMOOTHED} - {applies}
    assert f"(see `{applies}`)" in str(reasons[other])
    assert {str(reasons[name]) for name in METHOD_NAMES if name not in SMOOTHED} == {
        "certifies reconstructions of the model itself, not smoothed ones"
    }


@pytest.mark.parametrize("kind", ["sampled", "anchored", "mean"])
def test_reconstructions_of_the_model_itself_are_not_smoothed(kind: str) -> None:
    reasons = choose_methods(isotropic_vae(), torch.rand(1, 1, 1, 12), CertifyOptions(reconstruction=kind))  # type: ignore[arg-type]
    assert {reasons[name] for name in SMOOTHED} == {f"`reconstruction` is {kind}, this certifies smoothed ones"}
    with pytest.raises(NoSoundBound, match=f"center does not apply to linear: `reconstruction` is {kind}"):
        certify(
            isotropic_vae(),
            torch.rand(1, 1, 1, 12),
            r=1.0,
            options=CertifyOptions(methods=("center",), reconstruction=kind),
        )  # type: ignore[arg-type]


# --- coverage ---


def test_clean_probability_is_covered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many runs on one image with few draws and little confidence: the bound fails no more often than it may."""
    search(monkeypatch, **LOOSE)
    noise_std, std, first, repeats = 0.25, 0.5, 0.3, 200
    vae, truth, x = jump_vae(std), jump_probability(first, noise_std, std), image(first).repeat(repeats, 1, 1, 1)
    rows = certified(vae, x, samples=60, confidence=0.6)
    right = [row for row in rows if facts(row)["successes"] > 30]  # the centre is on the likelier side
    assert len(right) > 0.8 * repeats
    wrong = sum(clean_of(row) > truth for row in right) / len(right)
    assert 0.01 < wrong <= 0.1 + 4 * (0.09 / len(right)) ** 0.5  # a quarter of 1 - 0.6
    reach = noise_std * (norm.ppf(truth) - norm.ppf(0.7))  # no clean bound that is right gives more
    assert all(row.margin <= reach for row in right if clean_of(row) <= truth)


@pytest.mark.parametrize("probability", [0.7, 0.85])
def test_centres_of_a_moved_image_meet_the_claim(probability: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """A ball with the probability `u` = 0.7 or more: the centre is in it or near, or there is none, in 7 of 10 runs."""
    search(monkeypatch, **LOOSE)
    noise_std, std, repeats = 0.25, 0.5, 100
    first = math.hypot(3 * noise_std, std) * float(norm.ppf(probability)) / 3
    assert jump_probability(first, noise_std, std) == pytest.approx(probability)
    x = image(first).repeat(repeats, 1, 1, 1)
    centers = estimate_centers(jump_vae(std), x, noise_std=noise_std, confidence=0.6, seed=1)
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
    certified(jump_vae(), image(0.4))
    assert len(asked) == len(set(asked))
    assert {purpose.split("/")[1] for _, _, purpose in asked} == {"candidates", "select", "test", "certify"}


def test_certifying_draws_choose_nothing() -> None:
    vae, x = isotropic_vae(latent=2, std=0.5), torch.full((1, 1, 1, 12), 0.5)
    first, fewer = (facts(certified(vae, x, samples=samples)[0]) for samples in (2000, 500))
    assert (first["radius"], first["tested"]) == (fewer["radius"], fewer["tested"])
    assert first["successes"] != fewer["successes"]


def test_results_belong_to_the_sample_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    search(monkeypatch, SELECTION=1000, SHARE=0.6)
    vae, x = isotropic_vae(latent=2, std=0.5), torch.rand(3, 1, 1, 12)
    together = certified(vae, x, r=9.0, noise_std=0.1, sample_ids=[4, 8, 15])
    (alone,) = certified(vae, x[1:2], r=9.0, noise_std=0.1, sample_ids=[8])
    assert facts(alone) == facts(together[1])
    assert (alone.margin, alone.sample_id) == (together[1].margin, together[1].sample_id)
    (other,) = certified(vae, x[1:2], r=9.0, noise_std=0.1, sample_ids=[9])
    assert facts(other)["radius"] != facts(alone)["radius"]


def test_memory_is_bounded_by_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(draws_module, "_NUMBERS_AT_ONCE", 500)
    seen: list[int] = []
    vae = jump_vae()
    vae.decoder.register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs[0])))
    (row,) = certified(vae, image(0.4))
    assert max(seen) == 500 // 5
    assert sum(seen) == 32 + 2 * 4000 + 2000
    assert row.margin > 0


# --- nothing certified ---


def test_a_coin_has_no_margin_and_says_why() -> None:
    """On the jump itself both sides have probability 1/2, and no ball holds 0.55."""
    (row,) = certified(jump_vae(), image(0.0))
    assert row.margin == 0.0
    assert "only shown to have a probability of" in row.reason


def test_a_ball_that_fails_its_test_is_no_centre(monkeypatch: pytest.MonkeyPatch) -> None:
    search(monkeypatch, SELECTION=11, SHARE=0.51)
    vae, x = isotropic_vae(std=0.5), torch.rand(1, 1, 1, 12)
    (row,) = certified(vae, x, r=90.0, confidence=0.99)
    (center,) = estimate_centers(vae, x, noise_std=0.25, confidence=0.99)
    assert clopper_pearson_lower(center.tested, 11, confidence_of_each(0.99)) <= 0.49
    assert (row.margin, facts(row)["successes"]) == (0.0, 0)
    assert row.reason == center.reason
    assert "the ball of the centre is only shown" in row.reason


def test_reconstructions_that_are_not_numbers_have_no_centre() -> None:
    (row,) = certified(jump_vae(decoder=Odd()), image(0.4))
    assert (row.margin, row.status, facts(row)["radius"]) == (0.0, "ok", None)
    assert row.reason == "too many reconstructions are not finite"


def test_a_large_distance_that_overflows_is_no_small_one() -> None:
    vae = jump_vae(decoder=nn.Sequential(Jump(), nn.Flatten(), nn.Linear(4, 4), nn.Unflatten(1, (1, 1, 4))))
    nn.init.constant_(vae.decoder[2].weight, math.inf)
    (center,) = estimate_centers(vae, image(0.4), noise_std=0.25)
    assert center.reason == "too many reconstructions are not finite"
    assert isinstance(center, Center)


@pytest.mark.parametrize("confidence", [0.5, 0.999, 1 - 1e-15])
def test_there_are_candidates_enough_for_any_confidence(confidence: float) -> None:
    count = smoothed.count_candidates(confidence)
    assert 0.45**count <= 1 - confidence_of_each(confidence)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"r": 0.0}, "a finite `r` > 0, got 0"),
        ({"r": math.nan}, "a finite `r` > 0, got nan"),
        ({"noise_std": -0.1}, "a finite `noise-std` >= 0, got -0.1"),
        ({"noise_std": math.inf}, "a finite `noise-std` >= 0, got inf"),
        ({"noise_std": math.nan}, "a finite `noise-std` >= 0, got nan"),
        ({"sample_ids": [1, 2]}, "1 sample ids, got 2"),
        ({"samples": 13}, "expected `samples` >= 14 to show a probability above 0.55"),
        ({"samples": 13, "methods": ("center",)}, "expected `samples` >= 14 to show a probability above 0.55"),
        ({"confidence": 1.0}, "`confidence` in"),
    ],
)
def test_questions_without_an_answer_are_refused(changed: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        certified(jump_vae(), image(0.4), **changed)


@pytest.mark.parametrize(("noise_std", "said"), [(-1.0, "`noise_std` >= 0, got -1"), (math.nan, "got nan")])
def test_noise_that_is_none_is_refused(noise_std: float, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        estimate_centers(jump_vae(), image(0.4), noise_std=noise_std)


def test_the_model_comes_back_as_it_was() -> None:
    vae = jump_vae().train()
    certified(vae, image(0.4))
    assert vae.training
    assert all(parameter.requires_grad for parameter in vae.parameters())
