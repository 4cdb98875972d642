import math

import pytest
import torch
from scipy.stats import binomtest, ncx2

from tests.toys import isotropic_vae
from vaerdict.attacks.batch import Batch, Meter
from vaerdict.attacks.evaluate import Evaluation, bound_probability, evaluate, size_up
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
