"""Objectives of one's own classes are tried before a search: one number per image, each of its own image only."""

import json
from collections.abc import Callable

import pytest
from torch import Tensor

from tests.attacks import searches
from tests.attacks.hierarchies import CurvedLevels, pictures
from vaerdict.attacks import PGD, MaximumDamage, Objective, ReconstructionTarget, WeightedSum, attack
from vaerdict.attacks.batch import Batch
from vaerdict.attacks.levels import flat
from vaerdict.attacks.objectives import Loss
from vaerdict.attacks.objectives.base import Uniform
from vaerdict.attacks.question import Question

ASK = {"radius": 0.4, "r": 0.5, "reconstruction": "mean", "options": PGD(steps=3, restarts=1)}


class Bright(Uniform):
    """An objective of one's own: its losses are any function of the batch, the images and the noise."""

    name = "bright"

    def __init__(self, losses: Callable[[Batch, Tensor, Tensor], Tensor]) -> None:
        self.losses = losses

    def draws(self, question: Question) -> int:
        return 2

    def loss(self, batch: Batch) -> Loss:
        return lambda images, noise: self.losses(batch, images, noise)


def total(images: Tensor) -> Tensor:
    return images.flatten(1).square().sum(1)


MIXED = {
    "scalar": (lambda batch, images, noise: total(images).sum(), r"of shape \(2,\) for 2 images, got \(\)"),
    "per pixel": (lambda batch, images, noise: images, r"of shape \(2,\) for 2 images, got \(2, 1, 1, 12\)"),
    "mean": (lambda batch, images, noise: total(images).mean().expand(len(images)), "got a gradient in another image"),
    "running": (lambda batch, images, noise: total(images).cumsum(0), "got a gradient in another image"),
    "hidden": (
        lambda batch, images, noise: total(images) + total(images).detach().sum(),
        "got .* for the same image beside two others",
    ),
    "clean": (
        lambda batch, images, noise: total(images) / total(batch.images).sum(),
        "got .* for the same image beside two others",
    ),
    "noise": (lambda batch, images, noise: total(images) + noise.sum(), "got .* for the same image beside two others"),
    "rounded": (lambda batch, images, noise: total(images).detach(), "that can be differentiated in the images"),
}


@pytest.mark.parametrize("name", MIXED)
@pytest.mark.parametrize("wrap", [lambda one: one, lambda one: WeightedSum([(1.0, MaximumDamage()), (0.5, one)])])
def test_objectives_of_ones_own_are_per_image(wrap: Callable[[Objective], Objective], name: str) -> None:
    losses, said = MIXED[name]
    with pytest.raises(ValueError, match=f"expected losses of 'bright' .*{said}"):
        attack(searches.TinyVAE(), searches.images_of(3), objective=wrap(Bright(losses)), **ASK)


def test_a_scalar_is_refused_for_one_image_too() -> None:
    with pytest.raises(ValueError, match=r"of shape \(1,\) for 1 image, got \(\)"):
        attack(searches.TinyVAE(), searches.images_of(1), objective=Bright(MIXED["scalar"][0]), **ASK)


def test_the_trial_of_an_objective_costs_nothing_and_changes_nothing() -> None:
    class Mine(MaximumDamage):
        pass

    own, ours = (
        attack(searches.TinyVAE(), searches.images_of(3), objective=one(), **ASK) for one in (Mine, MaximumDamage)
    )
    assert [row.damage for row in own] == [row.damage for row in ours]
    assert [json.loads(row.constants)["cost"] for row in own] == [json.loads(row.constants)["cost"] for row in ours]


@pytest.mark.parametrize("count", [1, 3])
def test_objectives_of_ones_own_may_hold_something_per_image(count: int) -> None:
    class Mine(ReconstructionTarget):
        pass

    images = searches.images_of(count)
    images[0, ..., :6] = 0.0  # in the middle of the range
    rows = attack(searches.TinyVAE(), images, objective=Mine(images.roll(3, -1)), **ASK)
    assert all(row.damage > 0 for row in rows)


def test_objectives_of_ones_own_work_on_hierarchies() -> None:
    model = flat(CurvedLevels())
    own = Bright(lambda batch, images, noise: total(images) + noise[:, 1].sum(1))
    assert len(attack(model, pictures(3, model), objective=own, **ASK)) == 3
