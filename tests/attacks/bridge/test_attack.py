import json
import math

import numpy as np
import pytest
import torch

from tests.attacks.bridge.outcomes import SmallVAE, small_images
from tests.attacks.searches import DAMAGE, Fenced, TinyVAE, assert_stays_inside, case, damage, images_of, linear_vae
from vaerdict.attacks import Evaluation, MarginSearch, TargetedLatent, attack, attack_margin
from vaerdict.attacks.bridge import FoolboxAttack
from vaerdict.attacks.bridge.library import load
from vaerdict.attacks.margins.least import Narrower
from vaerdict.attacks.optimisers.common import Optimiser

fb = load()
L2PGD = FoolboxAttack(fb.attacks.L2PGD(steps=20, rel_stepsize=0.2))
TOP = 6.0
"""The linear VAE's largest singular value."""


def middle(low: float, high: float, count: int = 3) -> torch.Tensor:
    return (low + high) / 2 + (high - low) * images_of(count) / 20


def test_it_is_an_optimiser_and_a_search() -> None:
    assert isinstance(L2PGD, Optimiser)
    assert isinstance(L2PGD, Narrower)
    assert L2PGD.name == "foolbox-L2ProjectedGradientDescent"
    assert FoolboxAttack(fb.attacks.L2PGD().repeat(2)).name == "foolbox-L2ProjectedGradientDescent-repeated"


@pytest.mark.parametrize("box", [(0.0, 1.0), (-1.0, 1.0), (-20.0, 5.0)])
@pytest.mark.parametrize("reconstruction", ["mean", "sampled"])
def test_gradient_attacks_reach_the_singular_value(box: tuple[float, float], reconstruction: str) -> None:
    batch, ball = case(linear_vae(box)[0], middle(*box), 0.3, reconstruction=reconstruction)
    ball = ball.with_radius(torch.tensor([0.1, 0.2, 0.3]))
    delta, sane = L2PGD.search(batch, DAMAGE, ball, "test")
    assert bool(sane.all())
    share = damage(batch, ball, delta) / (ball.radius * TOP)
    assert bool((share > 0.98).all())
    assert bool((share < 1 + 1e-4).all())


@pytest.mark.parametrize(
    "inner",
    [
        fb.attacks.DDNAttack(steps=50),
        fb.attacks.L2DeepFoolAttack(steps=10),
        fb.attacks.L2CarliniWagnerAttack(steps=60, binary_search_steps=3, initial_const=0.01, stepsize=0.02),
    ],
    ids=lambda inner: type(inner).__name__,
)
def test_minimisers_find_the_margin(inner) -> None:
    box, options = (-1.0, 1.0), FoolboxAttack(inner)
    rows = attack_margin(linear_vae(box)[0], middle(*box, 2), r=0.6, reconstruction="mean", searches=[options])
    # DeepFool leaves the random direction where it crosses the boundary first.
    most = 1.05 if "DeepFool" not in options.name else 2.0
    assert all(0.6 / TOP * (1 - 1e-5) < row.margin < 0.6 / TOP * most for row in rows)
    assert [row.method for row in rows] == [f"{options.name}-damage"] * 2
    constants = json.loads(rows[0].constants)
    assert constants["searches"][0]["settings"]["foolbox"] == fb.__version__


def test_a_minimiser_at_a_radius_is_shortened_but_never_lengthened_to_it() -> None:
    batch, ball = case(linear_vae()[0], images_of(2), 0.3, r=0.6)
    ball = ball.with_radius(torch.tensor([0.05, 0.3]))
    delta, _ = FoolboxAttack(fb.attacks.DDNAttack(init_epsilon=0.002)).search(batch, DAMAGE, ball, "test")
    lengths = delta.flatten(1).norm(dim=1).tolist()
    assert lengths[0] == pytest.approx(0.05, rel=1e-3)
    assert 0.1 < lengths[1] < 0.11


@pytest.mark.parametrize(
    ("inner", "norm"),
    [
        (fb.attacks.LinfPGD(steps=5), "inf"),
        (fb.attacks.L1PGD(steps=5), "1"),
        (fb.attacks.L2ClippingAwareAdditiveGaussianNoiseAttack(), "2"),
        (fb.attacks.InversionAttack(), "2"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_ends_lie_in_ball_and_box(inner, norm: str) -> None:
    assert_stays_inside(FoolboxAttack(inner), norm)


def test_a_stochastic_question_finds_its_margin() -> None:
    vae, images = linear_vae((-3.0, 3.0))[0], images_of(2)
    few = MarginSearch(levels=6, selection=100, polish=500, attempts=2)
    options = FoolboxAttack(fb.attacks.DDNAttack(steps=30))
    asked = {"r": 2.0, "options": few, "evaluation": Evaluation(samples=1000)}
    found = [row.margin for row in attack_margin(vae, images, searches=[options], **asked)]
    known = [row.margin for row in attack_margin(vae, images, **asked)]
    assert all(math.isfinite(one) and one < 1.1 * other for one, other in zip(found, known, strict=True))


def test_other_objectives_are_climbed_where_the_attack_takes_a_loss() -> None:
    vae, images = SmallVAE(), small_images(3)
    target = TargetedLatent(small_images(3).flip(0), "l2")
    batch, ball = case(vae, images, 0.5)
    noise = batch.noise("unused", 0, 3)
    found = {
        together: FoolboxAttack(fb.attacks.L2PGD(steps=10, rel_stepsize=0.2), together=together).search(
            batch, target, ball, "test"
        )[0]
        for together in (False, True)
    }
    loss = target.loss(batch)
    for delta in found.values():
        assert bool((loss(images + delta, noise) > loss(images, noise))[[0, 2]].all())
    with pytest.raises(ValueError, match="objective 'damage'"):
        FoolboxAttack(fb.attacks.DDNAttack()).search(batch, target, ball, "test")


def test_repeated_attacks_keep_the_best_of_their_runs() -> None:
    batch, ball = case(SmallVAE(), small_images(2), 0.3, r=0.3)
    noisy = fb.attacks.LinearSearchBlendedUniformNoiseAttack(directions=1, steps=100)
    sizes = []
    for inner in (noisy, noisy.repeat(20)):
        delta, _ = FoolboxAttack(inner).search(batch, DAMAGE, ball.with_radius(10 * ball.radius), "test")
        assert bool((damage(batch, ball, delta) > 0.3).all())
        sizes.append(delta.flatten(1).norm(dim=1))
    assert bool((sizes[1] <= sizes[0]).all())
    assert bool((sizes[1] < sizes[0]).any())
    climbing = FoolboxAttack(fb.attacks.L2PGD(steps=5).repeat(2))
    assert bool((damage(batch, ball, climbing.search(batch, DAMAGE, ball, "test")[0]) > 1).all())


def test_what_does_not_fit_is_refused() -> None:
    batch, ball = case(SmallVAE(), small_images(1), 0.5, norm="inf")
    with pytest.raises(ValueError, match=r"`norm` in \('2',\) for foolbox-L2ProjectedGradientDescent, got 'inf'"):
        L2PGD.search(batch, DAMAGE, ball, "test")
    with pytest.raises(ValueError, match="a minimisation attack for margins"):
        attack_margin(SmallVAE(), small_images(1), r=1.0, searches=[L2PGD])
    flat, around = case(Flat(), torch.zeros(1, 12), 0.5)
    with pytest.raises(ValueError, match=r"images \[channels, height, width\]"):
        FoolboxAttack(fb.attacks.SpatialAttack()).search(flat, DAMAGE, around, "test")


class Flat(TinyVAE):
    def __init__(self) -> None:
        super().__init__()
        self.input_shape = (12,)

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        return super().decode(latents).flatten(1)


def test_pixels_outside_the_mask_stay() -> None:
    mask = torch.zeros(1, 1, 4, 4, dtype=torch.bool)
    mask[..., :2] = True
    vae, images = SmallVAE(), small_images(2)
    for options, verb in ((L2PGD, "attack"), (FoolboxAttack(fb.attacks.DDNAttack(steps=30)), "margin")):
        given = {"r": 0.5, "mask": mask, "reconstruction": "mean"}
        if verb == "attack":
            rows = attack(vae, images, radius=0.5, options=options, **given)
        else:
            rows = attack_margin(vae, images, searches=[options], **given)
        # The judge counts a changed pixel outside the mask as a failure.
        assert all(row.margin < math.inf for row in rows)


def test_results_belong_to_the_sample_and_the_global_generators_are_left_alone() -> None:
    vae, images, ids = linear_vae()[0], images_of(3), [7, 3, 11]
    noisy = FoolboxAttack(fb.attacks.L2AdditiveGaussianNoiseAttack())

    def found(order: list[int]) -> torch.Tensor:
        batch, ball = case(vae, images[order], 0.3, ids=[ids[i] for i in order])
        return noisy.search(batch, DAMAGE, ball, "test")[0]

    before, legacy = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    whole = found([0, 1, 2])
    torch.testing.assert_close(found([2, 0]), whole[[2, 0]])
    assert bool((torch.get_rng_state() == before).all())
    assert bool((np.random.get_state()[1] == legacy).all())  # noqa: NPY002


def test_a_sample_that_is_not_finite_leaves_the_others_alone() -> None:
    images = images_of(3)
    images[0, 0, 0, 0] = 0.8
    batch, ball = case(Fenced(), images, 0.05, r=0.02)
    for options in (L2PGD, FoolboxAttack(fb.attacks.DDNAttack(steps=10, init_epsilon=0.02))):
        delta, sane = options.search(batch, DAMAGE, ball, "test")
        assert sane.tolist() == [False, True, True]
        assert bool(delta.isfinite().all())
        assert bool((damage(batch, ball, delta)[1:] > 0).all())


@pytest.mark.parametrize("together", [False, True])
def test_a_sample_without_a_damaging_start_is_given_up_by_itself(together: bool) -> None:
    vae, images = linear_vae((0.0, 1.0))[0], images_of(2).abs()
    images[0] = 0.5
    with torch.no_grad():
        vae.mean_map[1].weight[:, :6] = 0
    mask = torch.ones(2, 1, 1, 12, dtype=torch.bool)
    mask[0, ..., 6:] = False  # the first image may only change where the encoder does not look
    hop = FoolboxAttack(
        fb.attacks.HopSkipJumpAttack(steps=2, initial_gradient_eval_steps=10), together=together, batch_size=2
    )
    rows = attack_margin(vae, images, r=0.3, mask=mask, reconstruction="mean", searches=[hop])
    assert [math.isfinite(row.margin) for row in rows] == [False, True]


def test_images_together_give_what_they_give_alone_where_nothing_is_drawn() -> None:
    vae, images = SmallVAE(), small_images(4)
    inner = fb.attacks.L2BasicIterativeAttack(steps=5)
    batch, ball = case(vae, images, 0.5)
    ball = ball.with_radius(torch.tensor([0.1, 0.3, 0.3, 0.2]))
    alone, together = (
        FoolboxAttack(inner, together=both).search(batch, DAMAGE, ball, "test")[0] for both in (False, True)
    )
    torch.testing.assert_close(damage(batch, ball, alone), damage(batch, ball, together), rtol=1e-3, atol=1e-5)
    lengths = together.flatten(1).norm(dim=1)
    assert bool((lengths > 0.95 * ball.radius).all())


def test_together_an_attack_that_re_batches_is_refused_not_misread() -> None:
    batch, ball = case(SmallVAE(), small_images(3), 0.3)
    halved = FoolboxAttack(HalvedPGD(steps=2), together=True)
    with pytest.raises(ValueError, match="expected 3 rows, one per clean image, got 2"):
        halved.search(batch, DAMAGE, ball, "test")


class HalvedPGD(fb.attacks.L2PGD):
    def value_and_grad(self, loss_fn, x):
        return super().value_and_grad(loss_fn, x[:2])
