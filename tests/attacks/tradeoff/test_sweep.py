import inspect
import math
from collections import Counter
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.attacks import searches
from vaerdict.attacks import LBFGS, Adam, MaximumDamage, ReconstructionTarget
from vaerdict.attacks.tradeoff.curve import Tradeoff
from vaerdict.attacks.tradeoff.penalised import Penalised
from vaerdict.attacks.tradeoff.sweep import spaced_weights, sweep_penalty

BY_HAND = Tradeoff(
    sample_id=7,
    weights=(0.0, 0.1, 1.0, 10.0, 100.0),
    distortion=(5.0, 3.0, 2.0, 1.0, 0.4),
    to_target=(1.5, 2.0, 4.0, 4.0, 5.0),
    to_image=(6.0, 5.0, 4.0, 2.0, 1.0),
    span=4.0,
    clean=5.0,
    least=1.0,
)
WEIGHTS = (0.5, 2.0, 10.0, 1000.0)
QUICK = Adam(steps=80, learning_rate=0.03, start=1e-8)


def test_area_is_that_computed_by_hand() -> None:
    # X = 0.1, 0.25, 0.5, 0.75 (1.25 is beyond 1); Y = 1, 0.75, 0.75, 0.25, and 0.25 again at X = 1.
    assert BY_HAND.curve == ((0.1, 1.0), (0.25, 0.75), (0.5, 0.75), (0.75, 0.25))
    expected = 0.15 * 0.875 + 0.25 * 0.75 + 0.25 * 0.5 + 0.25 * 0.25
    assert math.isclose(BY_HAND.auddc, expected, rel_tol=1e-12)
    assert BY_HAND.turning_weight == 0.1
    assert BY_HAND.reason == ""


def test_the_least_output_distortion_goes_to_the_end() -> None:
    # The last point is worse than one before it: X = 0, 0.5, 0.75; Y = 1, 0.2, 0.6, and 0.2 at X = 1.
    one = replace(BY_HAND, weights=(2.0, 1.0, 0.0), distortion=(0.0, 2.0, 3.0), to_target=(5.0, 1.8, 3.4))
    assert math.isclose(one.auddc, 0.5 * 0.6 + 0.25 * 0.4 + 0.25 * 0.4, rel_tol=1e-12)


@given(st.permutations(range(5)))
def test_area_does_not_depend_on_the_order_of_weights(order: list[int]) -> None:
    fields = {name: tuple(getattr(BY_HAND, name)[k] for k in order) for name in ("weights", "distortion", "to_target")}
    assert math.isclose(replace(BY_HAND, **fields).auddc, BY_HAND.auddc, rel_tol=1e-12)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"span": 0.0}, "the same"),
        ({"clean": 1.0}, "as near to the target"),
        ({"least": math.nan}, "not finite"),
        ({"distortion": (math.nan,) * 5}, "no weight"),
        ({"distortion": (9.0,) * 5}, "no weight"),
    ],
)
def test_a_pair_without_a_curve_says_why(change: dict, reason: str) -> None:
    one = replace(BY_HAND, **change)
    assert math.isnan(one.auddc)
    assert one.curve == ()
    assert reason in one.reason


def test_a_broken_weight_is_counted_and_left_out() -> None:
    one = replace(BY_HAND, to_target=(1.5, 2.0, math.nan, 4.0, 5.0))
    assert one.broken == 1
    assert one.curve == tuple(point for point in BY_HAND.curve if point[0] != 0.5)


def test_distortion_on_a_linear_vae_is_the_closed_form_and_falls_with_the_weight() -> None:
    # Least |M delta - t|^2 / (2 std^2) + C |delta|^2: a ridge regression.
    vae, _ = searches.linear_vae()
    images = searches.images_of(3)
    found = sweep_penalty(vae, images, images.flip(0), WEIGHTS, LBFGS(restarts=1, start=1e-8))
    matrix = vae.mean_map[1].weight.detach().double()
    goal = (images.flip(0) - images).flatten(1).double() @ matrix.T
    assert [one.weights for one in found] == [WEIGHTS] * 3
    for k, weight in enumerate(WEIGHTS):
        ridge = matrix.T @ matrix + 2 * 0.1**2 * weight * torch.eye(12, dtype=torch.float64)
        exact = torch.linalg.solve(ridge, matrix.T @ goal.T).norm(dim=0)
        moved = torch.tensor([one.distortion[k] for one in found], dtype=torch.float64)
        torch.testing.assert_close(moved, exact, rtol=0.02, atol=1e-3)
    for one in (found[0], found[2]):
        assert list(one.distortion) == sorted(one.distortion, reverse=True)
    # The middle image is its own target.
    assert found[1].reason == "image and target are the same"


@pytest.mark.parametrize("optimiser", [QUICK, LBFGS(evaluations=60, restarts=1, start=1e-8)])
def test_weights_do_not_meddle_with_each_other(optimiser: Adam | LBFGS) -> None:
    vae, images = searches.TinyVAE(), searches.images_of(3)
    optimiser = replace(optimiser, batch_size=4)
    (_, both) = sweep_penalty(vae, images[:2], images[1:], (0.5, 5.0, 50.0), optimiser, sample_ids=[4, 9])
    for k, weight in enumerate((0.5, 5.0, 50.0)):
        (alone,) = sweep_penalty(vae, images[1:2], images[2:], (weight,), optimiser, sample_ids=[9])
        assert alone.sample_id == both.sample_id == 9
        assert math.isclose(alone.distortion[0], both.distortion[k], rel_tol=0.01)
        assert math.isclose(alone.to_target[0], both.to_target[k], rel_tol=0.01)


def test_the_output_itself_can_be_the_target() -> None:
    vae, images = searches.TinyVAE(), searches.images_of(2)
    (one, _) = sweep_penalty(vae, images, images.flip(0), (0.0, 1e6), QUICK, objective=ReconstructionTarget)
    assert one.to_target[0] <= one.least < one.clean
    assert one.distortion[1] < 1e-3
    assert math.isclose(one.to_target[1], one.clean, rel_tol=1e-3)


def test_distances_of_sampled_reconstructions_are_means_over_draws() -> None:
    vae, still = searches.linear_vae()[0], replace(QUICK, steps=2)
    images = searches.images_of(2)
    (one, _) = sweep_penalty(vae, images, images.flip(0), (1e9,), still, reconstruction="sampled", samples=200)
    (mean, _) = sweep_penalty(vae, images, images.flip(0), (1e9,), still)
    # E|d + A e|^2 = |d|^2 + |A|_F^2 std^2 with A = 2 U: the mean lies between the root of it and |d|.
    assert mean.clean - 0.01 < one.clean < math.sqrt(mean.clean**2 + 4 * 4 * 0.1**2) + 0.01
    assert one.clean > mean.clean + 0.001


def test_a_sample_without_a_finite_loss_is_said() -> None:
    images = searches.images_of(2)
    images[0, 0, 0, 0] = 0.9
    targets = searches.images_of(2).flip(0)
    one, other = sweep_penalty(searches.Fenced(), images, targets, (0.0, 1.0), replace(QUICK, steps=5))
    assert one.broken == 2
    assert one.reason == "a clean reconstruction is not finite"
    assert math.isnan(one.auddc)
    assert other.broken == 0


def test_the_model_comes_back_as_it_was_lent() -> None:
    vae = searches.TinyVAE().train()
    sweep_penalty(vae, searches.images_of(1), searches.images_of(2)[1:], (1.0,), replace(QUICK, steps=2))
    assert vae.training
    assert all(weight.requires_grad for weight in vae.parameters())


def test_weights_are_spaced_as_published() -> None:
    weights = spaced_weights()
    assert (len(weights), weights[0], weights[1], weights[-1]) == (51, 0.0, 2.0**-20, 2.0**20)
    ratios = [larger / weight for weight, larger in pairwise(weights[1:])]
    assert all(math.isclose(ratio, 2 ** (40 / 49), rel_tol=1e-9) for ratio in ratios)


def test_wrong_arguments_are_refused() -> None:
    vae, images = searches.TinyVAE(), searches.images_of(2)
    with pytest.raises(ValueError, match="`weights`"):
        sweep_penalty(vae, images, images.flip(0), (), QUICK)
    with pytest.raises(ValueError, match="finite `weights` >= 0"):
        sweep_penalty(vae, images, images.flip(0), (1.0, -1.0), QUICK)
    with pytest.raises(ValueError, match=r"penalty of its own, got 0\.5"):
        sweep_penalty(vae, images, images.flip(0), (1.0,), replace(QUICK, penalty=0.5))
    with pytest.raises(ValueError, match="`target_images`"):
        sweep_penalty(vae, images, images[:1], (1.0,), QUICK)
    with pytest.raises(ValueError, match="2 `sample_ids`"):
        sweep_penalty(vae, images, images.flip(0), (1.0,), QUICK, sample_ids=[1])
    with pytest.raises(ValueError, match=r"`weights` of shape \(2,\)"):
        Penalised(MaximumDamage(), torch.ones(3)).check(vae, images)


def test_what_is_no_image_is_refused() -> None:
    # Past the types that tests check: others have no such check.
    vae, images, sweep = searches.TinyVAE(), searches.images_of(2), inspect.unwrap(sweep_penalty)
    with pytest.raises(ValueError, match="`images` of type float32 or float64, got int64"):
        sweep(vae, images.long(), images, (1.0,), QUICK)
    with pytest.raises(ValueError, match="`targets` as a torch tensor, one image per image, got NoneType"):
        sweep(vae, images, None, (1.0,), QUICK)


def test_targets_are_settled_as_images_are() -> None:
    vae, images = searches.TinyVAE(), searches.images_of(1)
    high = vae.input_range[1]
    still = replace(QUICK, steps=2)
    (expected,) = sweep_penalty(vae, images, torch.full_like(images, high), (1.0,), still)
    with pytest.warns(UserWarning, match="clamped"):
        (one,) = sweep_penalty(vae, images, torch.full_like(images, high * (1 + 3e-7)), (1.0,), still)
    assert one == expected


class Counting(searches.TinyVAE):
    """Counts what it decodes, and the pairs that it sees at once."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[str] = Counter()

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        self.seen["decoded"] += len(latents)
        return super().decode(latents)


def test_what_is_not_attacked_is_measured_once_per_image() -> None:
    images, draws = searches.images_of(2), 50
    still = replace(QUICK, steps=1)
    decoded = []
    for weights in ((1.0,), (1.0, 2.0, 3.0, 4.0, 5.0)):
        vae = Counting()
        sweep_penalty(vae, images, images.flip(0), weights, still, reconstruction="sampled", samples=draws)
        decoded.append(vae.seen["decoded"])
    # One anchor and one attacked reconstruction per pair; a clean one and a target's per image.
    pairs = (decoded[1] - decoded[0]) / 8
    assert pairs == draws + 1
    assert decoded[0] == 2 * (pairs + 2 * draws + 1)


def test_pairs_are_made_chunk_by_chunk() -> None:
    vae, images, largest = searches.TinyVAE(), searches.images_of(3), []

    def aim(goals: torch.Tensor) -> MaximumDamage:
        largest.append(len(goals))
        return MaximumDamage()

    sweep_penalty(vae, images, images.flip(0), WEIGHTS, replace(QUICK, steps=1, batch_size=5), objective=aim)
    assert max(largest) == 5
    assert sum(largest) == 3 + 12
