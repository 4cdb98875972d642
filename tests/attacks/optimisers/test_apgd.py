import json

import pytest
import torch

from tests.attacks import searches
from vaerdict.attacks import PGD, Evaluation, TargetedLatent, attack
from vaerdict.attacks.optimisers.apgd import APGD, checkpoints
from vaerdict.attacks.optimisers.singular import Singular

QUICK = APGD(steps=30, restarts=2)


@pytest.mark.parametrize("reconstruction", ["mean", "sampled"])
def test_finds_the_singular_value(reconstruction: str) -> None:
    searches.assert_reaches_the_singular_value(QUICK, reconstruction)


@pytest.mark.parametrize("norm", ["2", "inf"])
def test_reaches_the_best_known_damage(norm: str) -> None:
    searches.assert_reaches_the_best_known(APGD(steps=40, restarts=3), norm)


@pytest.mark.parametrize("norm", ["1", "2", "inf"])
def test_never_leaves_ball_or_box(norm: str) -> None:
    searches.assert_stays_inside(QUICK, norm)


def test_not_finite_stays_its_own() -> None:
    searches.assert_not_finite_stays_its_own(QUICK)


@pytest.mark.parametrize("reconstruction", ["mean", "sampled"])
def test_draws_do_not_depend_on_the_batch(reconstruction: str) -> None:
    searches.assert_same_draws_in_any_batch(APGD(steps=10, restarts=1), reconstruction)


def test_never_waits_for_the_device() -> None:
    batch, ball = searches.case(searches.linear_vae()[0].requires_grad_(False), searches.images_of(3), 0.3)
    searches.assert_never_waits(lambda: QUICK.search(batch, searches.DAMAGE, ball, "test"))


def test_checkpoints_are_the_papers() -> None:
    assert list(checkpoints(100)) == [22, 41, 57, 70, 80, 87, 93, 99]
    assert sum(checkpoints(50).values()) == max(checkpoints(50)) < 50
    assert checkpoints(1) == {}


def test_overshooting_is_mended_and_a_given_start_never_lost() -> None:
    # A first step of ten diameters overshoots for long: only halving and going back to the best make it converge.
    searches.assert_reaches_the_best_known(APGD(steps=40, restarts=3, step=20.0), "2")
    batch, ball = searches.case(searches.TinyVAE(), searches.images_of(4), 0.5)
    begun = Singular().search(batch, searches.DAMAGE, ball, "first/first")[0]
    ended = APGD(steps=40, restarts=1, first=Singular()).search(batch, searches.DAMAGE, ball, "first")[0]
    assert bool((searches.damage(batch, ball, ended) >= searches.damage(batch, ball, begun) * (1 - 1e-6)).all())


def test_rows_name_the_optimiser_and_its_options() -> None:
    vae, images = searches.TinyVAE(), searches.images_of(2)
    options = APGD(steps=5, restarts=1, first=PGD(steps=3, restarts=1, probes=1))
    quick = Evaluation(samples=20)
    (row, _) = attack(vae, images, radius=0.5, r=1.0, reconstruction="mean", options=options, evaluation=quick)
    assert row.method == "apgd-damage"
    described = json.loads(row.constants)["options"]
    assert (described["steps"], described["rho"]) == (5, 0.75)
    assert {"name": "pgd", "steps": 3, "restarts": 1}.items() <= described["first"].items()
    # Clean image, judge and its 8-bit copy; three steps and their comparison; five steps, their last value and theirs.
    assert (row.n_forward, row.n_backward) == (2 + 4 + 2 * (3 + 1) + 2 * (5 + 2), 2 * 8)


def test_targeted_attack_comes_nearer_its_target() -> None:
    vae, _ = searches.linear_vae()
    images = searches.images_of(4)
    objective = TargetedLatent(images.flip(0), "l2")
    batch, ball = searches.case(vae, images, 0.3)
    delta, _ = QUICK.search(batch, objective, ball, "test")
    known, _ = PGD(steps=80).search(batch, objective, ball, "known")
    loss, none = objective.loss(batch), torch.empty(4, 0, 4)
    before, after, best = (loss(x, none) for x in (images, images + delta, images + known))
    assert bool((after > before).all())
    assert bool((after - before >= 0.995 * (best - before)).all())


@pytest.mark.parametrize("wrong", [{"steps": 0}, {"restarts": 0}, {"rho": 0.0}, {"rho": 1.5}, {"step": float("nan")}])
def test_wrong_options_are_refused(wrong: dict) -> None:
    with pytest.raises(ValueError, match=f"`{next(iter(wrong))}`"):
        APGD(**wrong)


def test_options_repr_rebuilds_them() -> None:
    options = APGD(steps=7, first=Singular(of="reconstruction"))
    assert eval(repr(options)) == options
