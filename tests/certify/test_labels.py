"""Labels of a linear classifier of a linear Gaussian model, whose true margin is a distance to a hyperplane."""

import inspect
import math
from collections.abc import Sequence

import pytest
import torch
from jaxtyping import Float64
from scipy.stats import norm
from torch import Tensor, nn

from tests.toys import LinearVAE, isotropic_vae
from vaerdict.certify import draws as draws_module
from vaerdict.certify.labels import LabelOptions, LabelResult, certified_accuracy, certify_label
from vaerdict.lipschitz import NoSoundBound
from vaerdict.models import build_vae
from vaerdict.options import ModelOptions
from vaerdict.seeds import normal_noise

STD = 0.5
DIRECTION = torch.tensor([0.6, 0.8, 0.0, 0.0])


class Sides(nn.Module):
    """Class 1 where `<w, z> > 0`, class 0 elsewhere, with `|w| = 1`."""

    def forward(self, latents: Tensor) -> Tensor:
        score = latents @ DIRECTION
        return torch.stack([-score, score], dim=1)


class SidesOfImages(nn.Module):
    """As `Sides`, from reconstructions `2 U z`."""

    def __init__(self, vae: LinearVAE) -> None:
        super().__init__()
        self.back = torch.linalg.pinv(vae.decoder[0].weight.detach())

    def forward(self, images: Tensor) -> Tensor:
        return Sides()(images.flatten(1) @ self.back.T)


class NotNumbers(nn.Module):
    """Scores without a highest one, though one of them is a number."""

    def forward(self, latents: Tensor) -> Tensor:
        return torch.tensor([1.0, math.nan, 0.0]).expand(len(latents), -1)


def toy() -> LinearVAE:
    """`mu = 3 Q^T x`: a move by `rho` moves `<w, z>` by `3 rho` at most."""
    return isotropic_vae(latent=4, a=2.0, b=3.0, std=STD)


def images_at(scores: Sequence[float]) -> Tensor:
    """Give images whose posterior means have these `<w, mu>`: their true margins are `|score| / 3`."""
    pull = toy().mean_map[1].weight.detach().T @ DIRECTION / 9.0
    return torch.stack([score * pull for score in scores]).reshape(-1, 1, 1, 12)


# --- truth ---


@pytest.mark.parametrize("on", ["latent", "reconstruction"])
def test_margin_is_the_distance_to_the_hyperplane_but_for_statistics(on: str) -> None:
    vae, scores = toy(), [0.4, -0.7, 1.1]
    classifier = Sides() if on == "latent" else SidesOfImages(vae)
    options = LabelOptions(on=on, samples=20_000)  # type: ignore[arg-type]
    results = certify_label(vae, classifier, images_at(scores), options=options)
    assert [result.label for result in results] == [1, 0, 1]
    for result, score in zip(results, scores, strict=True):
        truth = float(norm.cdf(abs(score) / STD))
        assert result.successes / result.samples == pytest.approx(truth, abs=4 * 0.5 / math.sqrt(20_000))
        assert result.margin == pytest.approx(STD / 3 * norm.ppf(result.clean), rel=1e-5)
        assert 0.9 * abs(score) / 3 < result.margin < abs(score) / 3


def test_a_higher_level_has_a_smaller_margin() -> None:
    (result,) = certify_label(toy(), Sides(), images_at([0.8]), options=LabelOptions(p=0.8, samples=20_000))
    truth = (0.8 - STD * norm.ppf(0.8)) / 3
    assert 0.85 * truth < result.margin < truth


def test_margins_are_covered_as_often_as_the_confidence_says() -> None:
    repeats, score = 300, 0.4
    options = LabelOptions(samples=200, selection=20, confidence=0.8)
    results = certify_label(toy(), Sides(), images_at([score] * repeats), options=options)
    chosen = [result for result in results if result.label == 1]
    wrong = sum(result.margin > score / 3 for result in chosen) / len(chosen)
    assert 0.05 < wrong <= 0.2 + 4 * math.sqrt(0.16 / len(chosen))


def test_a_class_chosen_among_equals_is_not_flattered_by_the_choice() -> None:
    """On the hyperplane the chosen class is the lucky one; the certifying draws do not know of its luck."""
    repeats = 300
    options = LabelOptions(samples=100, selection=100, confidence=0.8)
    results = certify_label(toy(), Sides(), images_at([0.0] * repeats), options=options)
    wrong = sum(result.margin > 0 for result in results) / repeats
    assert 0.05 < wrong <= 0.2 + 4 * math.sqrt(0.16 / repeats)


def test_no_move_within_the_margin_turns_the_majority() -> None:
    vae, clean = toy(), images_at([0.6])
    (result,) = certify_label(vae, Sides(), clean)
    directions = torch.cat([-images_at([1.0]).flatten(1), torch.randn(20, 12)])
    moved = clean + (result.margin * directions / directions.norm(dim=1, keepdim=True)).reshape(-1, 1, 1, 12)
    with torch.no_grad():
        posterior = vae.encode(moved)
    shares = [float(norm.cdf(float(mean @ DIRECTION) / STD)) for mean in posterior.mean]
    assert min(shares) > 0.5
    assert shares[0] == min(shares)
    assert shares[0] < 0.6  # the worst direction is nearly enough


# --- labels that are given, and other bounds ---


def test_a_given_label_is_the_one_that_is_certified() -> None:
    right, wrong = certify_label(toy(), Sides(), images_at([0.8, 0.8]), torch.tensor([1, 0]))
    assert right.label == 1
    assert right.margin > 0.2
    assert (wrong.label, wrong.margin) == (0, 0.0)
    assert wrong.reason.startswith("class 0 is only shown to have probability")


def test_another_bound_takes_the_gaussian_shifts_place() -> None:
    asked: list[list[float]] = []

    def shifted(clean: Float64[Tensor, " batch"], rho: Float64[Tensor, " batch"]) -> Float64[Tensor, " batch"]:
        asked.append(clean.tolist())
        return clean - rho

    results = certify_label(toy(), Sides(), images_at([0.8, -0.6]), shifted=shifted)
    assert [result.margin for result in results] == pytest.approx([result.clean - 0.5 for result in results])
    assert asked[0] == [result.clean for result in results]


def moving_vae() -> nn.Module:
    model = ModelOptions(hidden=(8,), latent=4, spread="bounded", std=0.4)
    return build_vae(model, name="moving", input_shape=(1, 1, 12))


def test_a_spread_that_moves_needs_another_bound() -> None:
    vae, images = moving_vae(), torch.rand(1, 1, 1, 12)
    with pytest.raises(NoSoundBound, match="depends on the image; `shifted` must be given"):
        certify_label(vae, nn.Identity(), images)
    (result,) = certify_label(vae, nn.Identity(), images, shifted=lambda clean, rho: clean - rho)
    assert result.margin == pytest.approx(max(0.0, result.clean - 0.5))


def test_a_mean_without_a_constant_needs_another_bound() -> None:
    vae = toy()
    vae.mean_map.append(nn.LogSigmoid())
    with pytest.raises(NoSoundBound, match=r"labels: mean: .*LogSigmoid"):
        certify_label(vae, Sides(), images_at([0.8]))


# --- who draws what ---


def test_choosing_and_certifying_draws_are_never_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, int, str]] = []

    def recorded(seed: int, sample_ids: Sequence[int], purpose: str, shape: tuple[int, ...]) -> Tensor:
        asked.extend((seed, sample_id, purpose) for sample_id in sample_ids)
        return normal_noise(seed, sample_ids, purpose, shape)

    monkeypatch.setattr(draws_module, "normal_noise", recorded)
    certify_label(toy(), Sides(), images_at([0.8, 0.4]), sample_ids=[3, 4])
    assert len(asked) == len(set(asked))
    assert {purpose.split("/")[1] for _, _, purpose in asked} == {"select", "certify"}
    asked.clear()
    certify_label(toy(), Sides(), images_at([0.8]), torch.tensor([1]))
    assert {purpose.split("/")[1] for _, _, purpose in asked} == {"certify"}


def test_results_belong_to_the_sample_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    images = images_at([0.4, -0.3, 0.2])
    together = certify_label(toy(), Sides(), images, sample_ids=[4, 8, 15])
    assert certify_label(toy(), Sides(), images[1:2], sample_ids=[8]) == [together[1]]
    assert certify_label(toy(), Sides(), images[1:2], sample_ids=[9])[0].successes != together[1].successes
    assert certify_label(toy(), Sides(), images[1:2], sample_ids=[8], seed=1)[0].successes != together[1].successes


def test_memory_is_bounded_by_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(draws_module, "_NUMBERS_AT_ONCE", 1600)
    seen: list[int] = []
    classifier = Sides()
    classifier.register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs[0])))
    certify_label(toy(), classifier, images_at([0.4]))
    assert (max(seen), sum(seen)) == (100, 200 + 10_000)


def test_model_and_classifier_come_back_as_they_were() -> None:
    vae, classifier = toy().train(), nn.Sequential(nn.Linear(4, 2), nn.Dropout(0.5)).train()
    (first,), (second,) = (certify_label(vae, classifier, images_at([0.8])) for _ in range(2))
    assert first == second  # no dropout
    assert vae.training
    assert classifier[1].training
    assert all(parameter.requires_grad for parameter in (*vae.parameters(), *classifier.parameters()))


# --- nothing certified, and refusals ---


def test_scores_that_are_not_numbers_are_no_class() -> None:
    (result,) = certify_label(toy(), NotNumbers(), images_at([0.8]))
    assert (result.label, result.successes, result.margin) == (-1, 0, 0.0)
    (given,) = certify_label(toy(), NotNumbers(), images_at([0.8]), torch.tensor([0]))
    assert (given.successes, given.margin) == (0, 0.0)


def test_a_coin_has_no_margin_and_says_why() -> None:
    (result,) = certify_label(toy(), Sides(), images_at([0.0]))
    assert result.margin == 0.0
    assert f"class {result.label} is only shown to have probability 0.4" in result.reason


def test_a_function_is_no_classifier() -> None:
    unchecked = inspect.unwrap(certify_label)  # without the tests' own check of types
    with pytest.raises(TypeError, match="expected a classifier that is a torch module, got function"):
        unchecked(toy(), lambda latents: latents, images_at([0.8]))


def test_questions_without_an_answer_are_refused() -> None:
    vae, images = toy(), images_at([0.8])
    with pytest.raises(ValueError, match=r"expected scores of shape \[200, classes\], got \(800,\)"):
        certify_label(vae, nn.Flatten(0), images, options=LabelOptions(selection=200))
    with pytest.raises(ValueError, match="labels >= 0"):
        certify_label(vae, Sides(), images, torch.tensor([-1]))
    with pytest.raises(ValueError, match="expected 1 sample ids, got 2"):
        certify_label(vae, Sides(), images, sample_ids=[0, 1])


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"samples": 9}, "expected `samples` >= 10 to show a probability above 0.5 with confidence 0.999, got 9"),
        ({"p": 0.99, "samples": 100}, "expected `samples` >= 688 to show"),
        ({"p": 0.4}, "`p` in"),
        ({"selection": 0}, "`selection` >= 1"),
        ({"confidence": 0.0}, "`confidence` in"),
    ],
)
def test_options_that_cannot_certify_are_refused(changed: dict[str, float], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        LabelOptions(**changed)  # type: ignore[arg-type]


# --- accuracy ---


def result(label: int, margin: float) -> LabelResult:
    return LabelResult(sample_id=0, label=label, margin=margin, successes=9, samples=9, clean=0.7)


def test_certified_accuracy_counts_every_image() -> None:
    results = [result(3, 0.4), result(3, 0.0), result(1, 0.9), result(-1, 0.0)]
    assert certified_accuracy(results, [3, 3, 3, 3], [0.0, 0.3, 0.4, 0.41]) == [0.25, 0.25, 0.25, 0.0]
    assert certified_accuracy(results, [3, 3, 1, 0], [0.1, 0.5, math.inf]) == [0.5, 0.25, 0.0]


def test_certified_accuracy_refuses_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match="a label for each of 1 > 0 results, got 2"):
        certified_accuracy([result(3, 0.4)], [3, 3], [0.0])
    with pytest.raises(ValueError, match="a label for each of 0 > 0 results"):
        certified_accuracy([], [], [0.0])
    with pytest.raises(ValueError, match="radii >= 0"):
        certified_accuracy([result(3, 0.4)], [3], [math.nan])
