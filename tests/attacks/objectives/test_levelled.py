"""Objectives on the posteriors of a hierarchical model: each level given the attacked levels above."""

import json
import math
import re

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from tests.attacks.hierarchies import LEVELS, CurvedLevels, LinearLevels, batch_of, linear_levels, pictures
from tests.attacks.objectives.small import SmallVAE, images_of
from vaerdict.attacks import (
    PGD,
    Evidence,
    LatentDivergence,
    LatentNorm,
    MaximumDamage,
    Objective,
    PosteriorCollapse,
    TargetedLatent,
    WeightedSum,
    attack,
)
from vaerdict.attacks.batch import Batch
from vaerdict.attacks.levels import TopDown, flat
from vaerdict.attacks.objectives.levelled import fitted
from vaerdict.attacks.question import Question
from vaerdict.attacks.threat import Ball
from vaerdict.results import canonical_json
from vaerdict.vae import Posterior

KINDS = ("sampled", "mean")
CHOICES = [(0,), (1,), (2,), (0, 2), (2, 0), (0, 1, 2)]
both = pytest.mark.parametrize("kind", KINDS)


def value(objective: Objective, batch: Batch, images: Tensor) -> Tensor:
    noise = batch.noise("test", objective.draws(batch.question), batch.vae.latent)
    return objective.loss(batch)(images, noise)


def ball_of(batch: Batch, radius: float) -> Ball:
    radii = torch.full((len(batch.images),), radius, dtype=batch.images.dtype)
    return Ball(norm="2", radius=radii, box=batch.vae.input_range, center=batch.images)


def search(objective: Objective, batch: Batch, radius: float, steps: int = 30) -> Tensor:
    delta, sane = PGD(steps=steps, restarts=2).search(batch, objective, ball_of(batch, radius), "test")
    assert sane.all()
    return delta


# --- closed forms ---


def shares(model: LinearLevels, delta: Tensor) -> Tensor:
    """Give `KL` per level, where the noise cancels since both sides share it: `|S_l delta|^2 / (2 s_l^2)`."""
    moved = [(delta.flatten(1) @ shift.T).square().sum(1) for shift in model.shifts()]
    return torch.stack([square / (2 * std**2) for square, std in zip(moved, model.stds, strict=True)])


@both
@pytest.mark.parametrize("levels", CHOICES, ids=str)
def test_each_level_has_the_divergence_of_its_own_shift(levels: tuple[int, ...], kind: str) -> None:
    model = linear_levels()
    images, delta = pictures(4, model), 0.1 * pictures(4, model, seed=2)
    batch = batch_of(model, images, kind)
    expected = shares(model, delta)[list(levels)]
    torch.testing.assert_close(value(LatentDivergence(levels=levels), batch, images + delta), expected.sum(0))
    weights = tuple(float(2 + i) for i in range(len(levels)))
    weighted = LatentDivergence(levels=levels, level_weights=weights)
    by_hand = (torch.tensor(weights, dtype=torch.float64)[:, None] * expected).sum(0)
    torch.testing.assert_close(value(weighted, batch, images + delta), by_hand)


@both
def test_targets_are_conditioned_on_their_own_levels(kind: str) -> None:
    model = linear_levels()
    images, targets, moved = (pictures(3, model, seed=seed) for seed in (1, 2, 3))
    batch = batch_of(model, images, kind)
    objective = TargetedLatent(targets, levels=(1, 2))
    torch.testing.assert_close(value(objective, batch, moved), -shares(model, moved - targets)[1:].sum(0))
    assert value(objective, batch, targets).abs().max() < 1e-9
    norm = LatentNorm(targets, levels=(0, 2))
    gaps = [((moved - targets).flatten(1) @ model.shifts()[level].T).norm(dim=1) for level in (0, 2)]
    torch.testing.assert_close(value(norm, batch, moved), -gaps[0] - gaps[1])


@both
def test_norm_and_collapse_are_of_means_given_the_levels_above(kind: str) -> None:
    model = linear_levels()
    images, moved = pictures(3, model), pictures(3, model, seed=2)
    batch = batch_of(model, images, kind)
    above = batch.noise("test", 1, batch.vae.latent)[:, 0, : sum(LEVELS)] * (kind == "sampled")
    # What the noise adds to a level's mean is that of the levels above: its own has not been drawn.
    spread = model.spread() - torch.diag(torch.diag(model.spread()))
    means = (moved.flatten(1) @ torch.cat(model.shifts()).T + above @ spread.T).split(LEVELS, dim=1)
    torch.testing.assert_close(
        value(LatentNorm(levels=(1, 2)), batch, moved), -sum(one.norm(dim=1) for one in means[1:])
    )
    for objective, stds in [
        (PosteriorCollapse(variance=0.04, direction=1, levels=(0, 1, 2)), (0.2, 0.2, 0.2)),
        (PosteriorCollapse(variance="own", direction=1, levels=(0, 1, 2)), model.stds),
    ]:
        terms = [
            kl_divergence(Normal(mean, own), Normal(torch.zeros_like(mean), std)).sum(1)
            for mean, own, std in zip(means, model.stds, stds, strict=True)
        ]
        torch.testing.assert_close(value(objective, batch, moved), sum(terms))


def tight() -> tuple[LinearLevels, Normal]:
    """Give a model of one pixel whose levels are the exact posterior of `z_1 -> z_2 -> x`, and the law of `x`."""
    c, t, a, b, s = 0.8, 0.5, 1.2, -0.7, 0.3
    load = torch.tensor([[1.0, 0, 0], [c, t, 0], [a + b * c, b * t, s]], dtype=torch.float64)
    joint = load @ load.T
    first = joint[0, 2] / joint[2, 2]
    second = torch.linalg.solve(joint[[0, 2]][:, [0, 2]], joint[[0, 2], 1])
    stds = [(joint[0, 0] - first * joint[0, 2]).sqrt(), (joint[1, 1] - second @ joint[[0, 2], 1]).sqrt()]

    class Tight(LinearLevels):
        def prior(self, earlier):
            if earlier:
                return Posterior(c * earlier[0], torch.full_like(earlier[0], t))
            return Posterior(torch.zeros(1, 1, dtype=torch.float64), torch.ones(1, 1, dtype=torch.float64))

    images = [first.reshape(1, 1), second[1].reshape(1, 1)]
    above = [torch.zeros(1, 0, dtype=torch.float64), second[0].reshape(1, 1)]
    out = torch.tensor([[a, b]], dtype=torch.float64)
    model = Tight(images, above, [float(std) for std in stds], out).requires_grad_(False)
    return model, Normal(0.0, float(joint[2, 2].sqrt()))


def test_evidence_with_the_exact_posterior_is_the_evidence() -> None:
    model, law = tight()
    count = 4000
    images = torch.full((count, 1, 1, 1), 0.9, dtype=torch.float64)
    values = -value(Evidence(std=0.3), batch_of(model, images), images)
    assert abs(values.mean() - law.log_prob(torch.tensor(0.9))) < 5 * values.std() / count**0.5
    assert values.std() < 5


# --- conditioning matters ---


def test_the_worst_direction_of_a_level_is_that_of_its_whole_shift() -> None:
    """An attack that holds the levels above at the clean image's would take the direction of `B_l` alone."""
    model, radius = linear_levels(), 0.3
    batch = batch_of(model, pictures(3, model), "sampled")
    delta = search(LatentDivergence(levels=(2,)), batch, radius)
    whole, alone = model.shifts()[2], model.images[2]
    worst = (radius * torch.linalg.svdvals(whole)[0]) ** 2 / (2 * model.stds[2] ** 2)
    found = shares(model, delta)[2]
    assert (found >= 0.99 * worst).all()
    assert (found <= worst * (1 + 1e-9)).all()
    ignorant = radius * torch.linalg.svd(alone).Vh[:1]
    assert shares(model, ignorant)[2] < 0.8 * worst


def test_a_level_that_sees_the_image_only_through_the_one_above_is_reached() -> None:
    model = CurvedLevels()
    batch, moved = batch_of(model, pictures(3, model)), pictures(3, model, seed=2).requires_grad_()
    (gradient,) = torch.autograd.grad(value(LatentDivergence(levels=(1,)), batch, moved).sum(), moved)
    assert (gradient.flatten(1).norm(dim=1) > 1e-3).all()


def test_levels_have_worst_directions_of_their_own() -> None:
    model = linear_levels()
    batch = batch_of(model, pictures(3, model), "mean")
    first, last = (shares(model, search(LatentDivergence(levels=(level,)), batch, 0.3)) for level in (0, 2))
    assert (first[0] > 1.1 * last[0]).all()
    assert (last[2] > 1.1 * first[2]).all()


# --- as objectives ---


def cases(targets: Tensor) -> list[Objective]:
    return [
        LatentDivergence(levels=(0, 1)),
        LatentDivergence("kl-symmetric", levels=(1,)),
        TargetedLatent(targets, "wasserstein", levels=(0, 1), level_weights=(1.0, 0.5)),
        LatentNorm(targets, levels=(1,)),
        PosteriorCollapse(variance="own", levels=(0, 1)),
        WeightedSum([(1.0, MaximumDamage()), (0.1, LatentDivergence(levels=(0, 1)))]),
    ]


@both
@pytest.mark.parametrize("which", range(6))
def test_a_loss_belongs_to_its_image_and_has_the_slope_of_finite_differences(which: int, kind: str) -> None:
    model = CurvedLevels()
    images, targets, moved, direction = (pictures(3, model, seed=seed) for seed in (1, 2, 3, 4))
    batch, objective = batch_of(model, images, kind), cases(targets)[which]
    objective.check(batch.vae, images)
    moved, step = moved.requires_grad_(), 1e-6
    values = value(objective, batch, moved)
    (alone,) = torch.autograd.grad(values[1], moved, retain_graph=True)
    (gradient,) = torch.autograd.grad(values.sum(), moved)
    assert not alone[[0, 2]].any()
    with torch.no_grad():
        ahead, behind = (value(objective, batch, moved + side * step * direction) for side in (1, -1))
    slope = (gradient * direction).flatten(1).sum(1)
    torch.testing.assert_close((ahead - behind) / (2 * step), slope, rtol=1e-4, atol=1e-6)
    chosen = torch.tensor([False, True, False])
    part = objective.part(slice(1, 2))
    assert part.describe(0) == objective.describe(1)
    torch.testing.assert_close(value(part, batch.select(chosen), moved[1:2]), values[1:2], rtol=1e-9, atol=1e-12)


@both
@pytest.mark.parametrize("which", [2, 3])
def test_a_targeted_search_comes_nearer(which: int, kind: str) -> None:
    model = CurvedLevels()
    images, targets = pictures(3, model), pictures(3, model, seed=2)
    batch, objective = batch_of(model, images, kind), cases(targets)[which]
    delta = search(objective, batch, 0.4, steps=15)
    assert (value(objective, batch, images + delta) > 0.8 * value(objective, batch, images)).all()


def test_rows_tell_the_levels() -> None:
    model = linear_levels(torch.float32)
    images, view = pictures(2, model).float(), flat(model)
    objective = fitted(LatentDivergence(), view)
    for kind in ("sampled", "anchored", "mean"):
        rows = attack(view, images, radius=0.3, r=1.0, objective=objective, reconstruction=kind, options=PGD(steps=3))
        assert [row.method for row in rows] == ["pgd-divergence-levels0to2"] * 2
        assert [row.status for row in rows] == ["ok"] * 2
        assert json.loads(rows[0].constants)["levels"] == [0, 1, 2]
    chosen = LatentNorm(levels=(0, 2), level_weights=(1.0, 3.0))
    assert chosen.name == "norm-levels0and2"
    assert json.loads(canonical_json(chosen.describe(0)))["level_weights"] == [1.0, 3.0]
    assert LatentNorm(levels=(1,)).name == "norm-level1"
    assert "levels" not in LatentNorm().describe(0)


def test_only_a_level_below_another_needs_draws() -> None:
    asked = [Question(r=1.0, reconstruction=kind) for kind in ("sampled", "anchored", "mean")]
    for levels, draws in [(None, [0, 0, 0]), ((0,), [0, 0, 0]), ((1,), [1, 1, 0]), ((0, 2), [1, 1, 0])]:
        assert [LatentDivergence(levels=levels).draws(question) for question in asked] == draws


def test_levels_left_open_are_all_of_a_hierarchical_model() -> None:
    model, ordinary = linear_levels(), SmallVAE()
    for one in (model, TopDown(model)):
        assert fitted(LatentDivergence(), one) == LatentDivergence(levels=(0, 1, 2))
        terms = fitted(WeightedSum([(1.0, MaximumDamage()), (0.5, LatentNorm())]), one).terms
        assert [getattr(term, "levels", None) for _, term in terms] == [None, (0, 1, 2)]
        kept = LatentDivergence(levels=(1,))
        assert fitted(kept, one) is kept
    damage, divergence = MaximumDamage(), LatentDivergence()
    assert fitted(damage, model) is damage
    assert fitted(divergence, ordinary) is divergence
    with pytest.raises(ValueError, match="expected `levels` of a hierarchical model, got None"):
        LatentDivergence().loss(batch_of(model, pictures(1, model)))


def test_an_ordinary_model_has_level_zero() -> None:
    images, moved = images_of(3), images_of(3, seed=7)
    vae = SmallVAE()
    question = Question(r=1.0)
    batch = Batch.of(vae, images, question, 0, (0, 1, 2))
    for plain, levelled in [
        (LatentDivergence(), LatentDivergence(levels=(0,), level_weights=(2.0,))),
        (TargetedLatent(moved), TargetedLatent(moved, levels=(0,), level_weights=(2.0,))),
        (LatentNorm(), LatentNorm(levels=(0,), level_weights=(2.0,))),
    ]:
        levelled.check(vae, images)
        torch.testing.assert_close(value(levelled, batch, moved), 2 * value(plain, batch, moved))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: LatentNorm(levels=()), "expected distinct `levels` >= 0, got ()"),
        (lambda: LatentNorm(levels=(0, 0)), "expected distinct `levels` >= 0, got (0, 0)"),
        (lambda: LatentDivergence(levels=(-1,)), "expected distinct `levels` >= 0, got (-1,)"),
        (lambda: PosteriorCollapse(level_weights=(1.0, 0.0)), "expected finite `level_weights` > 0, got (1.0, 0.0)"),
        (lambda: LatentNorm(level_weights=(math.nan,)), "expected finite `level_weights` > 0, got (nan,)"),
        (lambda: LatentNorm(levels=(0, 1), level_weights=(1.0,)), "expected as many `level_weights` as `levels`"),
        (lambda: checked(LatentDivergence(levels=(3,))), "expected `levels` below 2, the model's number of levels"),
        (lambda: checked(LatentNorm(levels=(0, 2))), "expected `levels` below 2, the model's number of levels"),
        (lambda: checked(TargetedLatent(pictures(1, CurvedLevels()), levels=(2,))), "expected `levels` below 2"),
        (lambda: checked(PosteriorCollapse(level_weights=(1.0,))), "expected 2 `level_weights`, got 1"),
        (lambda: checked(WeightedSum([(1.0, LatentNorm(levels=(2,)))])), "expected `levels` below 2"),
        (lambda: checked(Evidence(std=1.0)), "expected a hierarchical model with a `prior`, got CurvedLevels"),
        (lambda: LatentNorm(levels=(1,)).check(SmallVAE(), images_of(1)), "expected `levels` below 1"),
    ],
)
def test_what_does_not_fit_is_refused(make, said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        make()


def checked(objective: Objective) -> None:
    model = CurvedLevels()
    objective.check(TopDown(model), pictures(1, model))
