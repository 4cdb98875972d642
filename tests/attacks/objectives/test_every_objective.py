"""What must hold of every objective: one number per image, the right slope, and the way up."""

import json
import re

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from tests.attacks.objectives.small import CASES, STILL, SmallVAE, batch_of, images_of, labels_of, noise_of
from vaerdict.attacks import PGD, Objective, attack
from vaerdict.attacks.batch import Batch
from vaerdict.attacks.question import Question
from vaerdict.attacks.threat import Ball
from vaerdict.results import array_sha256, canonical_json

KINDS = ("sampled", "anchored", "mean")
every = pytest.mark.parametrize("name", CASES)


def case(name: str, count: int) -> Objective:
    return CASES[name](images_of(count, seed=2), labels_of(count))


def ball_of(batch: Batch, radius: float) -> Ball:
    return Ball(norm="2", radius=torch.full_like(batch.images[:, 0, 0, 0], radius), box=(0, 1), center=batch.images)


def value_and_gradient(objective: Objective, batch: Batch, images: Tensor) -> tuple[Tensor, Tensor]:
    images = images.clone().requires_grad_()
    values = objective.loss(batch)(images, noise_of(objective, batch))
    return values.detach(), torch.autograd.grad(values.sum(), images)[0]


@every
def test_it_is_an_objective_with_its_name_and_facts_that_can_be_written(name: str) -> None:
    objective = case(name, 3)
    assert isinstance(objective, Objective)
    assert objective.name == name
    assert re.fullmatch(r"[a-z0-9+-]+", name)
    objective.check(SmallVAE(), images_of(3))
    facts = json.loads(canonical_json(objective.describe(1)))
    assert facts["objective"] == name
    expected = array_sha256(images_of(3, seed=2)[1].numpy())
    targeted = name.startswith(("latent", "target")) or name.endswith("target")
    assert (expected in canonical_json(facts)) == targeted


@every
@pytest.mark.parametrize("kind", ["sampled", "mean"])
def test_a_loss_belongs_to_its_image_whatever_the_batch(name: str, kind: str) -> None:
    images, ids = images_of(5), (10, 11, 12, 13, 14)
    moved = images.flip(0)
    values, gradient = value_and_gradient(case(name, 5), batch_of(images, kind, ids), moved)
    assert values.shape == (5,)
    for order in ([4, 2, 0, 1, 3], [3, 1]):
        objective = CASES[name](images_of(5, seed=2)[order], labels_of(5)[order])
        batch = batch_of(images[order], kind, tuple(ids[i] for i in order))
        some, slopes = value_and_gradient(objective, batch, moved[order])
        torch.testing.assert_close(some, values[order], rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(slopes, gradient[order], rtol=1e-7, atol=1e-10)


@every
def test_a_part_is_the_objective_of_those_images(name: str) -> None:
    objective, chunk = case(name, 5), slice(1, 4)
    batch = batch_of(images_of(5)[chunk])
    part, whole = objective.part(chunk), CASES[name](images_of(5, seed=2)[chunk], labels_of(5)[chunk])
    moved = images_of(3, seed=7)
    torch.testing.assert_close(
        value_and_gradient(part, batch, moved)[0], value_and_gradient(whole, batch, moved)[0], rtol=1e-12, atol=0
    )
    assert part.describe(0) == objective.describe(1)


@every
def test_no_image_has_a_slope_in_another(name: str) -> None:
    batch, objective = batch_of(images_of(3)), case(name, 3)
    moved = images_of(3, seed=7).requires_grad_()
    values = objective.loss(batch)(moved, noise_of(objective, batch))
    (gradient,) = torch.autograd.grad(values[1], moved)
    assert gradient[1].any()
    assert not gradient[[0, 2]].any()


@every
@pytest.mark.parametrize("kind", ["sampled", "mean"])
def test_the_gradient_is_that_of_finite_differences(name: str, kind: str) -> None:
    batch, objective = batch_of(images_of(4), kind), case(name, 4)
    images, direction = images_of(4, seed=7), images_of(4, seed=8) - 0.5
    _, gradient = value_and_gradient(objective, batch, images)
    loss, noise, step = objective.loss(batch), noise_of(objective, batch), 1e-6
    difference = (loss(images + step * direction, noise) - loss(images - step * direction, noise)) / (2 * step)
    slope = (gradient * direction).flatten(1).sum(1)
    scale = gradient.flatten(1).norm(dim=1) * direction.flatten(1).norm(dim=1)
    assert (difference - slope).abs().div(scale).amax() < 1e-6


@every
def test_where_the_clean_image_has_no_slope(name: str) -> None:
    batch, objective = batch_of(images_of(3), "mean"), case(name, 3)
    _, at_rest = value_and_gradient(objective, batch, batch.images)
    _, moving = value_and_gradient(objective, batch, images_of(3, seed=7))
    share = at_rest.flatten(1).norm(dim=1) / moving.flatten(1).norm(dim=1)
    assert (share < 1e-6).all() if name in STILL else (share > 1e-3).all()


@pytest.mark.parametrize(("name", "norm"), [*((name, "2") for name in CASES), ("damage", "inf"), ("latent", "inf")])
def test_the_search_climbs(name: str, norm: str) -> None:
    batch, objective = batch_of(images_of(4), "mean"), case(name, 4)
    ball = Ball(norm=norm, radius=torch.full((4,), 0.5 if norm == "2" else 0.1), box=(0, 1), center=batch.images)
    delta, sane = PGD(steps=8, restarts=1).search(batch, objective, ball, "test")
    loss, noise = objective.loss(batch), noise_of(objective, batch)
    before, after = loss(batch.images, noise), loss(batch.images + delta, noise)
    start = loss(batch.images + ball.random_start(batch.noise("other", *batch.images.shape[1:])), noise)
    assert sane.all()
    assert (after > before).all()
    assert (after > start).all()


@every
def test_an_image_that_is_not_finite_leaves_the_others_alone(name: str) -> None:
    images = images_of(3)
    images[1, 0, 0, 0] = 1
    objective = case(name, 3)
    with_it, gradient = value_and_gradient(objective, batch_of(images), images)
    assert with_it.isfinite().tolist() == [True, False, True]
    keep = [0, 2]
    alone = CASES[name](images_of(3, seed=2)[keep], labels_of(3)[keep])
    without, slopes = value_and_gradient(alone, batch_of(images[keep], ids=(0, 2)), images[keep])
    torch.testing.assert_close(with_it[keep], without, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(gradient[keep], slopes, rtol=1e-7, atol=1e-10)
    objective.check(SmallVAE(), images[[1, 0, 2]])


@every
def test_the_draws_it_asks_for_are_enough(name: str) -> None:
    objective = case(name, 2)
    for kind in KINDS:
        batch = batch_of(images_of(2), kind)
        noise = noise_of(objective, batch)
        assert noise.shape[1] <= 2
        values = objective.loss(batch)(images_of(2, seed=7), noise)
        more = torch.cat([noise, 100 + noise.new_zeros(2, 1, 3)], dim=1)
        assert (objective.loss(batch)(images_of(2, seed=7), more) == values).all()


class Operations(TorchDispatchMode):
    """Record the name of every operation that torch executes."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.add(func.name())
        return func(*args, **(kwargs or {}))


@every
def test_a_value_and_its_slope_never_wait_for_the_device(name: str) -> None:
    batch, objective = batch_of(images_of(2)), case(name, 2)
    loss, noise, images = objective.loss(batch), noise_of(objective, batch), images_of(2, seed=7).requires_grad_()
    with Operations() as seen:
        torch.autograd.grad(loss(images, noise).sum(), images)
    assert "aten::mm" in seen.names
    # The last would be a tensor made of Python's numbers, which a device has to be sent.
    assert not seen.names & {"aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::lift_fresh"}


@pytest.mark.parametrize("name", ["damage-ms-ssim", "layerwise", "downstream-latent", "energy", "damage+target"])
def test_rows_name_the_objective_and_a_broken_image_is_its_own(name: str) -> None:
    images = images_of(3, dtype=torch.float32)
    images[0, 0, 0, 0] = 1
    objective = CASES[name](images_of(3, seed=2, dtype=torch.float32), labels_of(3))
    vae = SmallVAE(torch.float32).train()
    rows = attack(
        vae, images, radius=0.5, r=0.1, objective=objective, reconstruction="mean",
        options=PGD(steps=4, restarts=1, batch_size=2),
    )  # fmt: skip
    assert [row.method for row in rows] == [f"pgd-{name}"] * 3
    assert [row.status for row in rows] == ["error", "ok", "ok"]
    assert all(row.damage > 0 for row in rows[1:])
    assert vae.training
    assert not any(module._forward_hooks for module in vae.modules())


def test_each_question_has_its_draws() -> None:
    asked = [Question(r=1.0, reconstruction=kind) for kind in KINDS]
    draws = {name: [case(name, 1).draws(question) for question in asked] for name in CASES}
    for name in ("damage", "damage-linf", "damage-ms-ssim", "damage+target"):
        assert draws.pop(name) == [2, 1, 0]
    for name in ("target", "downstream-latent", "downstream-reconstruction"):
        assert draws.pop(name) == [1, 1, 0]
    for name in ("evidence", "energy"):
        assert draws.pop(name) == [1, 1, 1]
    assert set(map(tuple, draws.values())) == {(0, 0, 0)}
