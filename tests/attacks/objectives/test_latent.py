import math
import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import sqrtm
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from tests.attacks.objectives.small import SmallVAE, batch_of, images_of, unchecked
from vaerdict.attacks import PGD, TargetedLatent
from vaerdict.attacks.objectives import Evidence, LatentDivergence, LatentNorm, PosteriorCollapse, ReconstructionTarget
from vaerdict.attacks.objectives.divergences import DIVERGENCES, divergence_to_normal
from vaerdict.attacks.threat import Ball
from vaerdict.vae import Posterior

NONE = torch.empty(4, 0, 3)


def posterior(seed: int, count: int = 5) -> Posterior:
    generator = torch.Generator().manual_seed(seed)
    mean = torch.randn(count, 3, generator=generator, dtype=torch.float64)
    return Posterior(mean, torch.rand(count, 3, generator=generator, dtype=torch.float64) + 0.1)


def torch_kl(one: Posterior, other: Posterior) -> Tensor:
    return kl_divergence(Normal(one.mean, one.std), Normal(other.mean, other.std)).sum(1)


def full_wasserstein(one: Posterior, other: Posterior) -> Tensor:
    """Give the squared distance by the formula for any covariances (Gelbrich 1990)."""
    values = []
    for i in range(len(one.mean)):
        first, second = (np.diag(p.std[i].numpy() ** 2) for p in (one, other))
        root = sqrtm(first)
        cross = sqrtm(root @ second @ root).real
        shift = (one.mean[i] - other.mean[i]).square().sum()
        values.append(float(shift) + float(np.trace(first + second - 2 * cross)))
    return torch.tensor(values, dtype=torch.float64)


PEERS = {
    "kl": torch_kl,
    "kl-reverse": lambda one, other: torch_kl(other, one),
    "kl-symmetric": lambda one, other: (torch_kl(one, other) + torch_kl(other, one)) / 2,
    "l2": lambda one, other: torch.linalg.vector_norm(one.mean - other.mean, dim=1) ** 2,
    "wasserstein": full_wasserstein,
}


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_divergences_are_those_of_a_peer(divergence: str) -> None:
    one, other = posterior(1), posterior(2)
    torch.testing.assert_close(DIVERGENCES[divergence](one, other), PEERS[divergence](one, other))


@settings(max_examples=40)
@given(seed=st.integers(0, 10_000), divergence=st.sampled_from(list(DIVERGENCES)))
def test_divergences_are_positive_and_zero_without_slope_at_themselves(seed: int, divergence: str) -> None:
    one, other = posterior(seed), posterior(seed + 1)
    measure = DIVERGENCES[divergence]
    assert (measure(one, other) > 0).all()
    leaves = (one.mean.clone().requires_grad_(), one.std.clone().requires_grad_())
    same = measure(Posterior(*leaves), one)
    assert same.abs().max() < 1e-12
    for gradient in torch.autograd.grad(same.sum(), leaves, allow_unused=divergence == "l2"):
        assert gradient is None or gradient.abs().max() < 1e-12


def test_the_gap_to_a_normal_is_torchs() -> None:
    one = posterior(1)
    for std in (1.0, 1e-4, posterior(2).std):
        wide = torch.as_tensor(std, dtype=torch.float64).expand(5, 3)
        torch.testing.assert_close(divergence_to_normal(one, std), torch_kl(one, Posterior(torch.zeros(5, 3), wide)))


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_a_targeted_search_comes_nearer_and_an_untargeted_one_goes_away(divergence: str) -> None:
    """One published attack added the gradient of the distance to its target, and so moved away from it."""
    images, targets = images_of(4), images_of(4, seed=2)
    vae, batch = SmallVAE(), batch_of(images, "mean")
    ball = Ball(norm="2", radius=torch.full((4,), 1.0), box=(0, 1), center=images)
    measure = PEERS[divergence]
    near, _ = PGD(steps=20, restarts=1).search(batch, TargetedLatent(targets, divergence), ball, "near")
    goal, start = vae.encode(targets), vae.encode(images)
    assert (measure(vae.encode(images + near), goal) < 0.8 * measure(start, goal)).all()
    far, _ = PGD(steps=20, restarts=1).search(batch, LatentDivergence(divergence), ball, "far")
    random = ball.random_start(batch.noise("random", *images.shape[1:]))
    assert (measure(vae.encode(images + far), start) > 2 * measure(vae.encode(images + random), start)).all()


def test_a_targeted_reconstruction_comes_nearer() -> None:
    images, targets = images_of(4), images_of(4, seed=2)
    vae, batch = SmallVAE(), batch_of(images, "mean")
    ball = Ball(norm="2", radius=torch.full((4,), 1.0), box=(0, 1), center=images)
    delta, _ = PGD(steps=20, restarts=1).search(batch, ReconstructionTarget(targets), ball, "near")
    before, after = (
        (vae.decode(vae.encode(x).mean) - targets).flatten(1).norm(dim=1) for x in (images, images + delta)
    )
    assert (after < 0.98 * before).all()


def test_norm_is_the_distance_to_zero_or_to_the_targets_mean() -> None:
    batch, vae, moved, targets = batch_of(images_of(4)), SmallVAE(), images_of(4, seed=7), images_of(4, seed=2)
    mean, goal = vae.encode(moved).mean, vae.encode(targets).mean
    torch.testing.assert_close(LatentNorm().loss(batch)(moved, NONE), -mean.square().sum(1).sqrt())
    found = LatentNorm(targets).loss(batch)(moved, NONE)
    torch.testing.assert_close(found, -(mean - goal).square().sum(1).sqrt())


def test_norm_at_its_target_has_no_slope_and_no_nan() -> None:
    images = images_of(4)
    moved = images.clone().requires_grad_()
    value = LatentNorm(images).loss(batch_of(images))(moved, NONE)
    (gradient,) = torch.autograd.grad(value.sum(), moved)
    assert not gradient.any()


@pytest.mark.parametrize(("variance", "direction"), [(1e-8, -1), (1.0, 1), ("own", -1), ("own", 1)])
def test_collapse_is_the_papers_sum_up_to_a_constant(variance: float | str, direction: int) -> None:
    batch, vae, moved = batch_of(images_of(4)), SmallVAE(), images_of(4, seed=7).requires_grad_()
    one = vae.encode(moved)
    v = vae.encode(batch.images).std.square() if variance == "own" else torch.tensor(variance, dtype=torch.float64)
    paper = (-one.std.square().log() - 1 + (one.mean.square() + one.std.square()) / v).sum(1) / 2
    objective = PosteriorCollapse(variance=variance, direction=direction)
    value = objective.loss(batch)(moved, NONE)
    constant = (v.log().expand(4, 3).sum(1)) / 2
    torch.testing.assert_close(value, direction * (paper + constant))
    (ours,) = torch.autograd.grad(value.sum(), moved, retain_graph=True)
    (theirs,) = torch.autograd.grad(direction * paper.sum(), moved)
    torch.testing.assert_close(ours, theirs)
    assert objective.describe(0)["variance"] == variance


@pytest.mark.parametrize("likelihood", ["gaussian", "bernoulli"])
def test_evidence_is_minus_the_elbo_at_one_draw(likelihood: str) -> None:
    std = 0.3 if likelihood == "gaussian" else None
    batch, vae, moved = batch_of(images_of(4), "mean"), SmallVAE(), images_of(4, seed=7)
    noise = batch.noise("test", 1, 3)
    one = vae.encode(moved)
    pixels = vae.decode(one.mean + one.std * noise[:, 0])
    if std:
        likelihoods = Normal(pixels, std).log_prob(moved)
    else:
        likelihoods = -torch.nn.functional.binary_cross_entropy(pixels, moved, reduction="none")
    elbo = likelihoods.flatten(1).sum(1) - torch_kl(one, Posterior(torch.zeros(4, 3), torch.ones(4, 3)))
    torch.testing.assert_close(Evidence(likelihood=likelihood, std=std).loss(batch)(moved, noise), -elbo)


def test_bernoulli_at_its_ends_is_finite_and_outside_is_nan() -> None:
    pixels = torch.tensor([[0.0], [1.0], [-0.1], [1.1]], requires_grad=True)
    value = Evidence(likelihood="bernoulli").log_likelihood(torch.full((4, 1), 0.5), pixels)
    assert value.isfinite().tolist() == [True, True, False, False]
    assert float(value[0].detach()) == pytest.approx(0.5 * math.log(torch.finfo(torch.float32).tiny))
    (gradient,) = torch.autograd.grad(value[:2].sum(), pixels)
    assert gradient[:2].isfinite().all()


def test_bernoulli_refuses_what_are_no_probabilities() -> None:
    objective, images = Evidence(likelihood="bernoulli"), images_of(2)
    vae = SmallVAE()
    vae.decoder[3] = torch.nn.Identity()
    with pytest.raises(ValueError, match=r"expected reconstructions in \[0, 1\] with the Bernoulli .*, got \[-"):
        objective.check(vae, images)
    vae = SmallVAE()
    vae.input_range = (-1.0, 1.0)
    with pytest.raises(ValueError, match=r"expected pixels in \[0, 1\] with the Bernoulli likelihood, got \(-1.0"):
        objective.check(vae, images)
    Evidence(std=1.0).check(vae, images)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (unchecked(TargetedLatent, divergence="tv").__post_init__, "got 'tv'"),
        (unchecked(LatentDivergence, divergence="tv").__post_init__, "`divergence` in ('kl', 'kl-reverse', "),
        (unchecked(PosteriorCollapse, variance="other", direction=1).__post_init__, "or 'own', got 'other'"),
        (unchecked(PosteriorCollapse, variance=1.0, direction=0).__post_init__, "`direction` in (-1, 1), got 0"),
        (unchecked(Evidence, likelihood="poisson", std=None).__post_init__, "unknown likelihood 'poisson'"),
        (lambda: PosteriorCollapse(variance=0.0), "a finite `variance` > 0 or 'own', got 0.0"),
        (lambda: PosteriorCollapse(variance=math.nan), "a finite `variance` > 0 or 'own', got nan"),
        (lambda: Evidence(), "`std` given with likelihood 'gaussian', got None"),
        (lambda: Evidence(likelihood="bernoulli", std=1.0), "`std` not given with likelihood 'bernoulli', got 1.0"),
        (lambda: Evidence(std=-1.0), "a finite `std` > 0, got -1.0"),
    ],
)
def test_wrong_options_are_refused(make, said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        make()


@pytest.mark.parametrize("make", [TargetedLatent, LatentNorm, ReconstructionTarget])
def test_targets_are_one_per_image_and_images(make) -> None:
    images = images_of(3)
    with pytest.raises(ValueError, match=r"expected `target_images` of shape \(3, 1, 8, 8\), got \(2, 1, 8, 8\)"):
        make(images[:2]).check(SmallVAE(), images)
    with pytest.raises(ValueError, match="expected finite pixels"):
        make(images * math.nan).check(SmallVAE(), images)
