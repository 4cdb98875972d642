import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest, ncx2

from tests.attacks.searches import Fenced, case, images_of, linear_vae
from tests.toys import isotropic_vae
from vaerdict.attacks.batch import Batch, Meter
from vaerdict.attacks.judge.evaluate import Evaluation, bound_probability, evaluate, size_up
from vaerdict.attacks.judge.precision import exact_arithmetic
from vaerdict.attacks.judge.quantised import from_levels, judge_quantised, to_levels
from vaerdict.attacks.question import Question
from vaerdict.attacks.threat import Ball


@pytest.mark.parametrize(("within", "samples"), [(0, 10), (5, 10), (10, 10), (0, 1), (471, 1000), (9999, 10_000)])
def test_upper_bound_is_scipys_exact_interval(within: int, samples: int) -> None:
    peer = binomtest(within, samples, alternative="less").proportion_ci(0.999, method="exact").high
    assert float(bound_probability(within, samples, 0.999)) == pytest.approx(peer, rel=1e-9)


def _judged(reconstruction: str, rho: float, r: float = 3.0, samples: int = 20_000):
    """Judge the perturbation of length `rho` along a right singular vector; its exact law is known."""
    vae, images = isotropic_vae(), torch.randn(2, 1, 1, 12)
    batch = Batch.of(Meter(vae), images, Question(r=r, reconstruction=reconstruction), 0, (3, 5))
    delta = (vae.mean_map[1].weight[0].detach() / 3.0 * rho).expand(2, -1).reshape(2, 1, 1, 12)
    ball = Ball(norm="2", radius=torch.full((2,), 50.0), box=vae.input_range, center=images)
    return evaluate(batch, ball, delta, Evaluation(samples=samples), "test")


@pytest.mark.parametrize(("reconstruction", "variance"), [("sampled", 2 * 0.1**2), ("anchored", 0.1**2)])
def test_estimated_probability_is_the_non_central_chi_square(reconstruction: str, variance: float) -> None:
    for verdict in _judged(reconstruction, 0.49):
        exact = ncx2.cdf((3.0 / 2.0) ** 2 / variance, 4, (3.0 * 0.49) ** 2 / variance)
        error = 4 * math.sqrt(exact * (1 - exact) / verdict.samples)
        assert verdict.within / verdict.samples == pytest.approx(exact, abs=error)
        assert verdict.upper > verdict.within / verdict.samples


@pytest.mark.parametrize(("rho", "success"), [(0.48, False), (0.52, True)])
def test_success_is_the_bound_at_or_below_p(rho: float, success: bool) -> None:
    for verdict in _judged("sampled", rho):
        assert verdict.success is success
        assert (verdict.upper <= 0.5) is success


def test_mean_damage_is_exact_and_a_tie_is_no_success() -> None:
    (above, _), (tie, _) = _judged("mean", 0.5001), _judged("mean", 0.5)
    assert above.damage == pytest.approx(3.0006, rel=1e-5)
    assert (above.success, above.upper, above.samples) == (True, 0.0, 1)
    assert not tie.success


def test_candidate_outside_the_ball_is_brought_back() -> None:
    vae, images = isotropic_vae(), torch.randn(1, 1, 1, 12)
    batch = Batch.of(Meter(vae), images, Question(r=1.0, reconstruction="mean"), 0, (0,))
    ball = Ball(norm="2", radius=torch.tensor([0.1]), box=vae.input_range, center=images)
    (verdict,) = evaluate(batch, ball, torch.ones(1, 1, 1, 12), Evaluation(), "test")
    assert verdict.size <= 0.1 * (1 + 1e-6)
    assert not verdict.success


def test_memory_passes_do_not_change_the_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = _judged("sampled", 0.5, samples=1200)
    monkeypatch.setattr("vaerdict.attacks.batch.PASS_VALUES", 24 * 7)
    parts = _judged("sampled", 0.5, samples=1200)
    assert [v.within for v in whole] == [v.within for v in parts]
    assert [v.samples for v in parts] == [1200, 1200]


def test_size_is_rounded_up_and_zero_stays_zero() -> None:
    images = torch.zeros(2, 1, 1, 3)
    adversarial = images.clone()
    adversarial[1] = 0.1
    sizes = size_up(adversarial, images, "2")
    assert sizes[0] == 0
    exact = float(torch.tensor(0.1).double() * torch.tensor(3.0, dtype=torch.float64).sqrt())
    assert exact < float(sizes[1]) < exact * (1 + 1e-14)


@pytest.mark.parametrize(
    ("norm", "exact"), [("0", 2.0), ("0-values", 3.0), ("1", 1.0), ("2", 0.375**0.5), ("inf", 0.5)]
)
def test_sizes_of_all_norms_are_those_of_the_pixels(norm: str, exact: float) -> None:
    images = torch.full((2, 2, 1, 3), 0.25)
    adversarial = images.clone()
    adversarial[1, :, 0, 0] = torch.tensor([0.5, 0.0])
    adversarial[1, 0, 0, 2] = 0.75
    zero, found = size_up(adversarial, images, norm).tolist()
    assert zero == 0
    # Counts are exact; distances are rounded up, and by little.
    assert found == exact if norm.startswith("0") else exact < found < exact * (1 + 1e-14)


def test_no_success_where_a_pixel_outside_the_mask_moved(monkeypatch: pytest.MonkeyPatch) -> None:
    vae, images = isotropic_vae(), torch.randn(2, 1, 1, 12)
    batch = Batch.of(Meter(vae), images, Question(r=1.0, reconstruction="mean"), 0, (0, 1))
    mask = torch.arange(12).reshape(1, 1, 1, 12) < 11
    ball = Ball(norm="2", radius=torch.full((2,), 50.0), box=vae.input_range, center=images, mask=mask)
    delta = 10 * torch.ones_like(images)
    brought_back = evaluate(batch, ball, delta, Evaluation(), "test")
    assert all(
        torch.equal(v.adversarial[..., 11], image[..., 11]) for v, image in zip(brought_back, images, strict=True)
    )
    assert [v.success for v in brought_back] == [True, True]
    moved = images + torch.stack([delta[0] * mask[0], delta[1]])
    monkeypatch.setattr(Ball, "apply", lambda self, delta: moved)
    assert [v.success for v in evaluate(batch, ball, delta, Evaluation(), "test")] == [True, False]


def test_too_few_samples_for_the_confidence_are_refused() -> None:
    with pytest.raises(ValueError, match="expected enough `samples` to decide"):
        Evaluation(samples=9).check_level(0.5)
    Evaluation(samples=10).check_level(0.5)


@pytest.mark.parametrize("wrong", [{"samples": 0}, {"confidence": 1.0}, {"confidence": 0.0}])
def test_wrong_options_are_refused(wrong: dict) -> None:
    with pytest.raises(ValueError, match="expected `"):
        Evaluation(**wrong)


def _precision() -> tuple[object, ...]:
    return (
        torch.get_float32_matmul_precision(),
        torch.backends.cudnn.allow_tf32,
        torch.is_autocast_enabled("cpu"),
        torch.backends.mkldnn.matmul.fp32_precision,
    )


def _look(coarse: bool) -> None:
    with exact_arithmetic(torch.device("cpu")) as told:
        assert told == coarse
        assert _precision() == ("highest", False, False, "ieee")
        raise KeyError


@pytest.mark.parametrize("matmul", ["highest", "high", "medium"])
@pytest.mark.parametrize("convolutions", [True, False])
def test_exact_arithmetic_is_exact_and_leaves_what_it_found(matmul: str, convolutions: bool) -> None:
    first = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    try:
        torch.set_float32_matmul_precision(matmul)
        torch.backends.cudnn.allow_tf32 = convolutions
        found = _precision()
        with pytest.raises(KeyError):
            _look(coarse=matmul != "highest")
        assert _precision() == found
        # What runs on an accelerator may have been coarse by torch's own default.
        with exact_arithmetic(torch.device("cuda")) as coarse:
            assert coarse == (convolutions or matmul != "highest")
    finally:
        torch.set_float32_matmul_precision(first[0])
        torch.backends.cudnn.allow_tf32 = first[1]


def test_exact_arithmetic_in_releases_with_the_older_switches_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vaerdict.attacks.judge.precision._kinds", lambda device: [])
    test_exact_arithmetic_is_exact_and_leaves_what_it_found("high", True)


@pytest.mark.parametrize("reconstruction", ["mean", "sampled"])
def test_the_judge_does_not_share_the_searchs_precision(reconstruction: str) -> None:
    vae, images = linear_vae()[0], images_of(3)
    delta = 0.1 * images.sign()
    batch, ball = case(vae, images, 0.5, reconstruction=reconstruction)
    exact = evaluate(batch, ball, delta, Evaluation(samples=500), "test")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        batch, ball = case(vae, images, 0.5, reconstruction=reconstruction)
        assert batch.anchor.dtype == torch.bfloat16
        judged = evaluate(batch, ball, delta, Evaluation(samples=500), "test")
        assert torch.is_autocast_enabled("cpu")
    assert [one.damage for one in judged] == pytest.approx([one.damage for one in exact], rel=1e-5)
    assert [one.within for one in judged] == [one.within for one in exact]


@given(st.sampled_from([(0.0, 1.0), (-1.0, 1.0), (-100.0, 100.0), (0.2, 0.7)]), st.sampled_from(["float32", "float64"]))
def test_levels_survive_storing(box: tuple[float, float], name: str) -> None:
    levels = torch.arange(256, dtype=torch.uint8)
    values = from_levels(levels, box, getattr(torch, name))
    assert torch.equal(to_levels(values, box), levels)
    low, high = box
    assert low <= float(values.min())
    assert float(values.max()) <= high
    assert torch.equal(to_levels(torch.tensor([low - 1e-6, high + 1e-6]), box), levels[[0, 255]])


@given(st.floats(-1.0, 1.0, width=32))
def test_the_level_is_the_nearest(value: float) -> None:
    rounded = from_levels(to_levels(torch.tensor([value]), (-1.0, 1.0)), (-1.0, 1.0), torch.float32)
    assert abs(float(rounded) - value) <= 1 / 255 + 1e-6


def test_what_rounding_takes_away_is_told() -> None:
    vae, _ = linear_vae((0.0, 1.0))
    images = torch.randint(0, 255, (3, 1, 1, 12)).float() / 255
    batch, ball = case(vae, images, 1.0, r=0.004)
    delta = torch.zeros_like(images)
    delta[0] += 0.4 / 255  # nothing of it is left
    delta[1] += 0.6 / 255  # rounded up, beyond the radius
    delta[2, ..., 0] = torch.nan
    ball = ball.with_radius(torch.tensor([1.0, 0.6 / 255 * 12**0.5, 1.0]))
    verdicts = evaluate(batch, ball, delta, Evaluation(), "test")
    gone, more, broken = judge_quantised(batch, ball, verdicts, Evaluation(), "test")
    assert [verdict.success for verdict in verdicts] == [True, True, False]
    assert gone == {"damage": 0.0, "success": False, "size": 0.0}
    assert more["success"]
    assert more["size"] == pytest.approx(12**0.5 / 255, rel=1e-5)
    assert more["size"] > float(ball.radius[1])
    assert more["damage"] == pytest.approx(verdicts[1].damage / 0.6, rel=1e-3)
    assert broken == {"damage": None, "success": None, "size": None}


def test_8_bits_are_judged_on_noise_of_their_own_and_only_where_there_is_a_verdict() -> None:
    vae, images = isotropic_vae(), torch.randn(2, 1, 1, 12)
    batch = Batch.of(Meter(vae), images, Question(r=3.0), 0, (3, 5))
    ball = Ball(norm="2", radius=torch.full((2,), 50.0), box=vae.input_range, center=images)
    ends = from_levels(to_levels(images + 1.0, ball.box), ball.box, torch.float32)
    first, second = evaluate(batch, ball, ends - images, Evaluation(samples=500), "test")
    nothing, again = judge_quantised(batch, ball, [None, second], Evaluation(samples=500), "test")
    assert nothing == {"damage": None, "success": None, "size": None}
    assert again["size"] == pytest.approx(second.size, rel=1e-5)
    assert again["damage"] == pytest.approx(second.damage, rel=0.02)
    assert again["damage"] != second.damage
    alone = judge_quantised(batch, ball, [first, second], Evaluation(samples=500), "test")[1]
    assert alone["damage"] == pytest.approx(again["damage"], rel=1e-5)
    assert judge_quantised(batch, ball, [None, None], Evaluation(), "test") == [nothing, nothing]


def test_an_image_of_8_bits_keeps_its_other_pixels() -> None:
    vae, _ = linear_vae((-1.0, 1.0))
    images = (torch.arange(12.0) * 20 - 127.5).reshape(1, 1, 1, 12) / 127.5
    batch, ball = case(vae, images, 2.0, "0")
    delta = torch.zeros_like(images)
    delta[..., :2] = 0.503
    (told,) = judge_quantised(batch, ball, evaluate(batch, ball, delta, Evaluation(), "test"), Evaluation(), "test")
    assert told["size"] == 2.0


def test_a_reconstruction_that_is_not_finite_is_no_success() -> None:
    images = images_of(2)
    images[0, 0, 0, 0] = 0.8
    batch, ball = case(Fenced(), images, 0.3)
    first, second = evaluate(batch, ball, 0.05 * torch.ones_like(images), Evaluation(), "test")
    assert (first.finite, first.success) == (False, False)
    assert second.finite
