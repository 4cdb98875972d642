"""A hierarchical model behind its flat view is attacked like any other; what its levels do is known exactly."""

import re

import pytest
import torch
from torch import Tensor, nn

from tests.attacks.hierarchies import LEVELS, CurvedLevels, batch_of, linear_levels, pictures
from tests.toys import isotropic_vae
from vaerdict.attacks import APGD, FMN, PGD, Evaluation, Layerwise, MarginSearch, attack, attack_margin
from vaerdict.attacks.levels import TopDown, behind, check_levels, count_levels, flat, latents_of, top_down
from vaerdict.attacks.threat import Ball
from vaerdict.certify import certify_hierarchical
from vaerdict.vae import VAE, HierarchicalVAE, Posterior, borrowed

KINDS = ("sampled", "anchored", "mean")
LATENT = sum(LEVELS)


def test_the_view_keeps_the_contract_and_the_model_its_own() -> None:
    model = CurvedLevels()
    view = flat(model)
    assert isinstance(view, VAE)
    assert isinstance(model, HierarchicalVAE)
    assert not isinstance(view, HierarchicalVAE)
    assert (view.latent, view.input_shape, view.name) == (3 + 4, (1, 2, 4), "curved levels")
    assert flat(view) is view
    assert behind(view) is model
    assert [count_levels(one) for one in (model, view, isotropic_vae())] == [2, 2, 1]
    ordinary = isotropic_vae()
    assert flat(ordinary) is behind(ordinary) is ordinary
    assert top_down(ordinary) is None
    model.train()
    with borrowed(view):
        assert not model.first.training
    assert model.first.training


def test_what_it_decodes_is_what_the_levels_draw() -> None:
    model, images = linear_levels(), pictures(4, linear_levels())
    view, noise = (
        TopDown(model),
        torch.randn(4, LATENT, dtype=torch.float64, generator=torch.Generator().manual_seed(0)),
    )
    given = view.encode(images)
    latents = images.flatten(1) @ torch.cat(model.shifts()).T
    torch.testing.assert_close(latents_of(view, given.mean), latents)
    torch.testing.assert_close(view.decode(given.mean), (images.flatten(1) @ model.whole().T).reshape(images.shape))
    drawn = given.sample(noise)
    torch.testing.assert_close(latents_of(view, drawn), latents + noise @ model.spread().T)
    posteriors, _ = view.descend(drawn, 2)
    assert [one.mean.shape[1] for one in posteriors] == [2, 3]


def test_the_view_leaves_images_and_latents_as_they_are() -> None:
    model = CurvedLevels()
    images = pictures(3, model)
    view, kept = TopDown(model), images.clone()
    latents = view.encode(images).mean
    before = latents.clone()
    view.decode(latents)
    assert (images == kept).all()
    assert (latents == before).all()


@pytest.mark.parametrize("kind", KINDS)
def test_damage_has_its_closed_form(kind: str) -> None:
    """The mean square is `|M delta|^2`, and for each draw the noise's share, `|D F|^2`."""
    model = linear_levels()
    images, count = pictures(1, model), 1 if kind == "mean" else 20_000
    batch = batch_of(model, images, kind)
    delta = 0.3 * pictures(1, model, seed=2)
    noise = batch.noise("test", count, batch.question.draws, batch.vae.latent)
    squared = batch.squared_change(batch.vae.encode(images + delta), noise)
    expected = (model.whole() @ delta.flatten()).square().sum()
    expected = expected + batch.question.draws * (model.out @ model.spread()).square().sum()
    error = 0 if kind == "mean" else 5 * squared.std() / count**0.5
    assert abs(squared.mean() - expected) <= error + 1e-9


def test_gradients_reach_the_image_through_the_top_level() -> None:
    """The second level of this model knows the image through the first alone, and its decoder sees only the second."""
    model = CurvedLevels()
    with torch.no_grad():
        model.decoder.weight[:, :3] = 0
    batch, direction = batch_of(model, pictures(3, model), "sampled"), pictures(3, model, seed=3) - 0.5
    noise = batch.noise("test", 1, 2, batch.vae.latent)

    def change(images: Tensor) -> Tensor:
        return batch.squared_change(batch.vae.encode(images), noise).sum(1)

    images = pictures(3, model, seed=2).requires_grad_()
    (gradient,) = torch.autograd.grad(change(images).sum(), images)
    assert (gradient.flatten(1).norm(dim=1) > 1e-3).all()
    step = 1e-6
    with torch.no_grad():
        slope = (change(images + step * direction) - change(images - step * direction)) / (2 * step)
    torch.testing.assert_close((gradient * direction).flatten(1).sum(1), slope, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("kind", KINDS)
def test_attacks_find_the_worst_damage(kind: str) -> None:
    model = linear_levels(torch.float32)
    images = pictures(3, model).float()
    rows = attack(TopDown(model), images, radius=0.5, r=1.0, reconstruction=kind, options=PGD(steps=30, restarts=1))
    top = torch.linalg.svd(model.whole().double())
    worst = 0.5 * float(top.S[0])
    draws = {"sampled": 2, "anchored": 1, "mean": 0}[kind]
    noise = torch.randn(4000, LATENT, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * draws**0.5
    along = worst * top.U[:, 0] + noise @ (model.out @ model.spread()).double().T
    for row in rows:
        assert row.status == "ok"
        assert row.damage >= 0.99 * float(along.norm(dim=1).mean()) * (1 if kind == "mean" else 0.98)
        assert kind != "mean" or row.damage <= worst * (1 + 1e-4)


@pytest.mark.parametrize("options", [APGD(steps=20, restarts=1), FMN(steps=40)], ids=lambda options: options.name)
def test_margins_have_their_closed_form(options) -> None:
    model = linear_levels(torch.float32)
    images, exact = pictures(2, model).float(), 1.0 / float(torch.linalg.svdvals(model.whole().double())[0])
    if isinstance(options, FMN):
        rows = attack_margin(TopDown(model), images, r=1.0, reconstruction="mean", searches=[options])
        assert all(exact * (1 - 1e-4) <= row.margin <= 1.01 * exact for row in rows)
    else:
        rows = attack(TopDown(model), images, radius=1.02 * exact, r=1.0, reconstruction="mean", options=options)
        assert all(row.margin <= 1.02 * exact * (1 + 1e-6) for row in rows)


def test_the_judge_finds_a_sampled_margin_above_the_certified_one() -> None:
    model = linear_levels(torch.float32)
    images, r = pictures(2, model).float(), 3.0
    search = MarginSearch(levels=6, steps=10, restarts=1, polish=1000, start=PGD(steps=20, restarts=1))
    rows = attack_margin(TopDown(model), images, r=r, options=search, evaluation=Evaluation(samples=2000))
    whitened = [
        float(torch.linalg.matrix_norm(one, 2)) / s * 1.001 for one, s in zip(model.images, model.stds, strict=True)
    ]
    proved = certify_hierarchical(model, images, r=r, whitened=whitened, samples=2000)
    top, noise = torch.linalg.svd(model.whole()), batch_of(model, images).noise("other", 4000, 2, LATENT)
    moved = (noise[0, :, 0] - noise[0, :, 1]) @ (model.out @ model.spread()).T
    along = [float((rho * top.S[0] * top.U[:, 0] + moved).norm(dim=1).median()) for rho in (row.margin for row in rows)]
    for row, bound, median in zip(rows, proved, along, strict=True):
        assert 0 < bound.margin < row.margin < 3
        assert row.margin < 10
        # At that length not even the best direction of the mean does much more.
        assert r <= median * 1.02
        assert median <= 1.1 * r


def test_an_image_that_is_not_finite_leaves_the_others_alone() -> None:
    class Fenced(CurvedLevels):
        def posterior(self, images, earlier):
            poison = torch.where(images[:, 0, 0, :1] > 0.95, torch.inf, 0.0)
            posterior = super().posterior(images, earlier)
            return Posterior(posterior.mean + 0 * poison, posterior.std)

    images = pictures(3, CurvedLevels())
    images[1, 0, 0, 0] = 0.99
    rows = attack(TopDown(Fenced()), images, radius=0.02, r=0.1, options=PGD(steps=4, restarts=1))
    assert [row.status for row in rows] == ["ok", "error", "ok"]


def test_layers_of_all_levels_can_be_watched() -> None:
    model = CurvedLevels()
    objective = Layerwise({"first": 1.0, "second": 1.0})
    batch = batch_of(model, pictures(3, model), "mean")
    ball = Ball(norm="2", radius=torch.full((3,), 0.3, dtype=torch.float64), box=(0, 1), center=batch.images)
    delta, sane = PGD(steps=8, restarts=1).search(batch, objective, ball, "test")
    loss = objective.loss(batch)
    start = ball.random_start(batch.noise("other", *model.input_shape))
    none = batch.noise("none", 0, batch.vae.latent)
    assert sane.all()
    assert (loss(batch.images + delta, none) > loss(batch.images + start, none)).all()


class Wrong(CurvedLevels):
    def posterior(self, images, earlier):
        posterior = super().posterior(images, earlier)
        return Posterior(posterior.mean[:, :1], posterior.std[:, :1]) if earlier else posterior


class NoModule:
    name, input_shape, input_range, levels = "no module", (2,), (0.0, 1.0), (2,)

    def posterior(self, images, earlier):
        return Posterior(images, images)

    def decode(self, latents):
        return latents[0]


def test_models_that_do_not_fit_are_refused() -> None:
    model = CurvedLevels()
    view = TopDown(Wrong())
    with pytest.raises(ValueError, match=re.escape("expected a mean of shape (2, 4) at level 1, got (2, 1)")):
        view.decode(view.encode(pictures(2, model)).mean)
    model.levels = ()
    with pytest.raises(ValueError, match=re.escape("expected `levels` of 1 latent or more each, got ()")):
        TopDown(model)
    with pytest.raises(TypeError, match="expected a VAE that is a torch module, got NoModule"):
        flat(NoModule())


@pytest.mark.parametrize(
    ("vae", "levels", "weights", "said"),
    [
        (CurvedLevels(), (0, 2), None, "expected `levels` below 2, the model's number of levels, got (0, 2)"),
        (TopDown(CurvedLevels()), (5,), None, "expected `levels` below 2, "),
        (nn.Identity(), (1,), None, "expected `levels` below 1, the model's number of levels, got (1,)"),
        (CurvedLevels(), None, (1.0,), "expected 2 `level_weights`, got 1"),
        (nn.Identity(), None, (1.0, 2.0), "expected 1 `level_weights`, got 2"),
    ],
)
def test_levels_that_a_model_lacks_are_refused(vae, levels, weights, said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        check_levels(vae, levels, weights)
    check_levels(vae, None, None)
    check_levels(vae, (0,), (2.0,))
