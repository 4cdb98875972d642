import math

import pytest
import torch
from torch import nn

from tests.attacks.objectives.small import CLASSES, LATENT, SmallVAE, batch_of, energy, head, images_of, labels_of
from vaerdict.attacks import PGD
from vaerdict.attacks.objectives import Custom, Downstream, LatentDivergence, MaximumDamage, WeightedSum
from vaerdict.attacks.threat import Ball


def brightness(vae, images, noise):
    return images.flatten(1).sum(1)


def normalised(vae, images, noise):
    return brightness(vae, images, noise) / brightness(vae, images, noise).detach().mean()


def softmax(vae, images, noise):
    return brightness(vae, images, noise).softmax(0)


def batch_mean(vae, images, noise):
    return brightness(vae, images, noise) - brightness(vae, images, noise).mean()


def by_place(vae, images, noise):
    return brightness(vae, images, noise) * torch.tensor([1.0, 2.0])


def ranked(vae, images, noise):
    values = brightness(vae, images, noise)
    return values + values.argsort()


def by_slope(vae, images, noise):
    """Give the values of an honest loss, and the slope of their sum."""
    values = brightness(vae, images, noise)
    return values + (values - values.detach()).sum()


NOT_SINGLE = [normalised, softmax, batch_mean, by_place, ranked, by_slope]


@pytest.mark.parametrize("function", NOT_SINGLE)
def test_a_loss_that_knows_its_neighbours_is_refused(function) -> None:
    with pytest.raises(ValueError, match="expected losses of 'mine' in which no image depends on another, got"):
        Custom(function, "mine").check(SmallVAE(), images_of(3))


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (lambda vae, images, noise: images.sum(), r"of shape \(2,\) for 2 images, got \(\)"),
        (lambda vae, images, noise: images.flatten(1), r"of shape \(2,\) for 2 images, got \(2, 64\)"),
        (lambda vae, images, noise: 3.0, "of one tensor, got float"),
        (lambda vae, images, noise: torch.arange(2), "in floating point, got torch.int64"),
        (lambda vae, images, noise: torch.zeros(2), "that can be differentiated in the images, got no gradient"),
        (
            lambda vae, images, noise: torch.zeros(2, requires_grad=True) + 1,
            "that can be differentiated in the images, got no gradient",
        ),
    ],
)
def test_what_is_not_one_smooth_number_per_image_is_refused(function, said: str) -> None:
    with pytest.raises(ValueError, match=f"expected losses of 'mine' {said}"):
        Custom(function, "mine").check(SmallVAE(), images_of(3))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_honest_losses_pass_even_where_they_are_nearly_zero(dtype: torch.dtype) -> None:
    vae, images = SmallVAE(dtype), images_of(3, dtype=dtype)
    clean = vae.decode(vae.encode(images[:1]).mean).detach()

    def fit(lent, images, noise):
        return (lent.decode(lent.encode(images).mean) - clean).square().flatten(1).sum(1)

    def distance(lent, images, noise):
        return (images - images.detach()).flatten(1).norm(dim=1) + brightness(lent, images, noise)

    def steep_where_dark(lent, images, noise):
        return images.sqrt().flatten(1).sum(1)

    for function in (brightness, fit, distance, steep_where_dark):
        Custom(function, "mine").check(vae, images)
    Custom(energy, "mine", draws_needed=2).check(vae, images)


def test_a_loss_that_is_not_finite_on_one_image_does_not_stop_the_others() -> None:
    Custom(lambda vae, images, noise: brightness(vae, images, noise) * math.nan, "mine").check(SmallVAE(), images_of(1))


def test_the_trial_gives_the_model_back_as_it_was() -> None:
    vae = SmallVAE().train().requires_grad_(True)
    Custom(energy, "mine", draws_needed=1).check(vae, images_of(2))
    assert vae.training
    assert all(weight.requires_grad and weight.grad is None for weight in vae.parameters())


def test_the_function_sees_the_model_the_images_and_its_draws() -> None:
    batch, seen = batch_of(images_of(3)), []

    def look(vae, images, noise):
        seen.append((vae.latent, tuple(images.shape), tuple(noise.shape)))
        return brightness(vae, images, noise)

    objective = Custom(look, "mine", draws_needed=5)
    objective.loss(batch)(batch.images, batch.noise("test", objective.draws(batch.question), LATENT))
    assert seen == [(3, (3, 1, 8, 8), (3, 5, 3))]
    assert objective.describe(0)["function"].endswith("look")


@pytest.mark.parametrize("name", ["", "a/b", "..", "a b", "-a"])
def test_names_that_cannot_end_a_file_name_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="expected a `name` of letters"):
        Custom(brightness, name)


def test_negative_draws_are_refused() -> None:
    with pytest.raises(ValueError, match="expected `draws_needed` >= 0, got -1"):
        Custom(brightness, "mine", draws_needed=-1)


@pytest.mark.parametrize("kind", ["sampled", "mean"])
def test_downstream_is_the_cross_entropy_of_the_latent(kind: str) -> None:
    vae, batch, moved, labels = SmallVAE(), batch_of(images_of(3), kind), images_of(3, seed=7), labels_of(3)
    network, noise = head(LATENT), batch.noise("test", 1, LATENT)
    one = vae.encode(moved)
    latents = one.mean if kind == "mean" else one.mean + one.std * noise[:, 0]
    expected = -network(latents).log_softmax(1)[torch.arange(3), labels]
    torch.testing.assert_close(Downstream(network, labels).loss(batch)(moved, noise), expected)
    pixels = vae.decode(latents)
    network = head(64)
    expected = -network(pixels).log_softmax(1)[torch.arange(3), labels]
    torch.testing.assert_close(Downstream(network, labels, "reconstruction").loss(batch)(moved, noise), expected)


def test_downstream_makes_the_head_less_sure_and_leaves_it_alone() -> None:
    network, labels, batch, vae = head(LATENT).requires_grad_(True), labels_of(6), batch_of(images_of(6), "mean"), None
    ball = Ball(norm="2", radius=torch.full((6,), 2.0), box=(0, 1), center=batch.images)
    delta, _ = PGD(steps=20, restarts=1).search(batch, Downstream(network, labels), ball, "test")
    vae = SmallVAE()
    before, after = (
        network(vae.encode(x).mean).softmax(1)[torch.arange(6), labels] for x in (batch.images, batch.images + delta)
    )
    assert (after < 0.9 * before).all()
    assert all(weight.grad is None for weight in network.parameters())


def test_downstream_says_which_head_it_was() -> None:
    first, second = head(LATENT), head(LATENT)
    second[1].bias.data += 1
    facts = [Downstream(network, labels_of(3)).describe(2) for network in (first, second)]
    assert facts[0]["label"] == 2
    assert facts[0]["head"] != facts[1]["head"]
    assert Downstream(brightness_head, labels_of(3)).describe(0)["head"].endswith("brightness_head")


def brightness_head(latents):
    return latents


class Crowd(nn.Module):
    def forward(self, latents):
        return latents - latents.mean(0)


@pytest.mark.parametrize(
    ("network", "labels", "said"),
    [
        (head(LATENT), labels_of(2), r"`labels` of shape \(3,\), got \(2,\)"),
        (head(LATENT), torch.tensor([0, 1, CLASSES]), r"`labels` from 0 to 3, got 0 to 4"),
        (head(LATENT), torch.tensor([0, -100, 1]), r"`labels` from 0 to 3, got -100 to 1"),
        (head(LATENT).train(), labels_of(3), "a `head` in evaluation mode, got training mode"),
        (nn.Flatten(0).eval(), labels_of(3), r"logits of shape \(1, classes\) from `head`, got \(3,\)"),
        (Crowd().eval(), labels_of(3), "a `head` with a cross-entropy in which no image depends on another"),
    ],
)
def test_heads_and_labels_that_do_not_fit_are_refused(network, labels, said: str) -> None:
    with pytest.raises(ValueError, match=f"expected {said}"):
        Downstream(network, labels).check(SmallVAE(), images_of(3))


def test_a_sum_is_the_sum_on_common_draws() -> None:
    batch, moved = batch_of(images_of(3)), images_of(3, seed=7)
    noise = batch.noise("test", 2, LATENT)
    terms = [(2.0, MaximumDamage()), (-0.5, LatentDivergence("l2")), (0.1, Custom(energy, "e", draws_needed=1))]
    alone = [objective.loss(batch)(moved, noise[:, : objective.draws(batch.question)]) for _, objective in terms]
    expected = 2.0 * alone[0] - 0.5 * alone[1] + 0.1 * alone[2]
    objective = WeightedSum(terms)
    torch.testing.assert_close(objective.loss(batch)(moved, noise), expected)
    assert objective.name == "damage+minus-divergence-l2+e"
    assert [term["weight"] for term in objective.describe(0)["terms"]] == [2.0, -0.5, 0.1]


def test_a_sum_checks_its_terms_and_its_weights() -> None:
    with pytest.raises(ValueError, match="no image depends on another"):
        WeightedSum([(1.0, MaximumDamage()), (1.0, Custom(softmax, "s"))]).check(SmallVAE(), images_of(2))
    with pytest.raises(ValueError, match="expected at least one of `terms`, got none"):
        WeightedSum([])
    for weight in (0.0, math.inf, math.nan):
        with pytest.raises(ValueError, match="expected finite weights other than 0 in `terms`, got"):
            WeightedSum([(weight, MaximumDamage())])
