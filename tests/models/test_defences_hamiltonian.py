"""Hamiltonian Monte Carlo as a defence: the right posterior, a deterministic decoder, gradients for attacks."""

import math

import pytest
import torch
from torch import Tensor, nn

from tests.attacks.hierarchies import CurvedLevels
from tests.attacks.searches import DAMAGE, TinyVAE, case, images_of
from tests.models.small import random_images, small_vae
from tests.toys import LinearVAE
from tests.untyped import untyped
from vaerdict.attacks import PGD, Evaluation, attack
from vaerdict.attacks.judge.evaluate import evaluate
from vaerdict.models import GaussianVAE, wrap
from vaerdict.models.defences import EvidenceAscent, HamiltonianDefence, Purified
from vaerdict.models.defences.hamiltonian import HOPELESS
from vaerdict.vae import VAE, fingerprint

PIXEL_STD = 0.5
DRAWS = 4000


def linear() -> tuple[LinearVAE, Tensor, Tensor, Tensor]:
    """Give a VAE whose encoder is wrong, an image, and the mean and covariance of its true posterior."""
    generator = torch.Generator().manual_seed(4)
    decoder, encoder = (torch.randn(shape, generator=generator) / 2 for shape in ((6, 2), (2, 6)))
    image = torch.randn(1, 1, 1, 6, generator=generator)
    covariance = torch.linalg.inv(torch.eye(2) + decoder.T @ decoder / PIXEL_STD**2)
    return LinearVAE(encoder, decoder, 0.05), image, covariance @ decoder.T @ image.flatten() / PIXEL_STD**2, covariance


def draws(defence: HamiltonianDefence, image: Tensor) -> Tensor:
    noise = torch.randn(DRAWS, defence.latent, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        return defence.refine(defence.encode(image.expand(DRAWS, -1, -1, -1)).sample(noise))


def test_the_chain_ends_in_the_true_posterior() -> None:
    """With leapfrogs so long that, were all accepted, the variance would be too large by nearly a half."""
    vae, image, mean, covariance = linear()
    ends = draws(HamiltonianDefence(vae, steps=20, step_size=0.3, leapfrogs=2, std=PIXEL_STD), image)
    start = vae.encode(image).mean[0].detach()
    assert float(((start - mean).abs() / covariance.diagonal().sqrt()).max()) > 1.5
    errors = (covariance.diagonal() / DRAWS).sqrt()
    assert bool(((ends.mean(0) - mean).abs() < 5 * errors).all())
    scale = covariance.diagonal().sqrt()
    found = torch.cov(ends.T) / scale.outer(scale)
    torch.testing.assert_close(found, covariance / scale.outer(scale), rtol=0, atol=5 * math.sqrt(2 / DRAWS))


def test_more_steps_come_nearer() -> None:
    vae, image, mean, _ = linear()
    distances = []
    for steps in (1, 4, 16):
        defence = HamiltonianDefence(vae, steps=steps, step_size=0.1, leapfrogs=2, std=PIXEL_STD)
        distances.append(float((draws(defence, image).mean(0) - mean).norm()))
    assert distances[0] > 1.3 * distances[1] > 1.3**2 * distances[2]


def test_it_is_a_vae_whose_decoder_is_a_function_of_the_latents() -> None:
    vae, images = small_vae(spread="log_variance", likelihood="bernoulli").eval(), random_images(3)
    defence = HamiltonianDefence(vae, steps=2, step_size=0.1, likelihood="bernoulli")
    assert isinstance(defence, VAE)
    assert (defence.name, defence.latent) == ("small+hmc", 3 + 2 * 3 + 2)
    posterior = defence.encode(images)
    torch.testing.assert_close(posterior.mean[:, :3], vae.encode(images).mean)
    torch.testing.assert_close(posterior.std[:, :3], vae.encode(images).std)
    assert not posterior.std[:, -64:].any()
    latents = posterior.sample(torch.randn(3, defence.latent))
    decoded = defence.decode(latents)
    torch.testing.assert_close(defence.decode(latents[1:2]), decoded[1:2], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(decoded, vae.decode(defence.refine(latents)))


@pytest.mark.parametrize("likelihood", ["gaussian", "bernoulli"])
def test_gradients_go_through_every_leapfrog(likelihood: str) -> None:
    """Held against differences in float64, for the image and for the noise."""
    std = 0.3 if likelihood == "gaussian" else None
    defence = HamiltonianDefence(
        small_vae().eval().double(), steps=2, step_size=0.05, leapfrogs=2, likelihood=likelihood, std=std
    )
    noise = torch.randn(1, defence.latent, dtype=torch.float64, generator=torch.Generator().manual_seed(6))

    def end(images: Tensor, noise: Tensor) -> Tensor:
        return defence.refine(defence.encode(images).sample(noise))

    given = (random_images(1).double().requires_grad_(), noise.requires_grad_())
    assert torch.autograd.gradcheck(end, given, eps=1e-6, atol=1e-5, fast_mode=True)


def test_a_step_that_is_far_too_long_keeps_the_old_place() -> None:
    vae, image, _, _ = linear()
    defence = HamiltonianDefence(vae, steps=3, step_size=1e30, std=PIXEL_STD)
    posterior = defence.encode(image)
    with torch.no_grad():
        torch.testing.assert_close(defence.refine(posterior.mean), posterior.mean[:, :2])


def soft() -> tuple[GaussianVAE, Tensor]:
    """Give a model whose trajectories leave all bounds when leapfrogs are long, and eight images."""
    generator = torch.Generator().manual_seed(8)
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    decoder = nn.Sequential(nn.Linear(3, 32), nn.Softplus(), nn.Linear(32, 16), nn.Unflatten(1, (1, 4, 4)))
    for weight in (*encoder.parameters(), *decoder.parameters()):
        weight.data = torch.randn(weight.shape, generator=generator) / weight.shape[-1] ** 0.5
    vae = wrap(encoder, decoder, input_shape=(1, 4, 4), latent_shape=(3,), spread="constant", std=0.1)
    return vae.requires_grad_(False), random_images(8, (1, 4, 4))


@pytest.mark.parametrize(
    ("steps", "step_size", "leapfrogs", "std"), [(1, 0.5, 20, 0.01), (3, 0.1, 40, 0.02), (2, 1e30, 3, 0.5)]
)
def test_what_is_rejected_passes_no_gradient_on(steps: int, step_size: float, leapfrogs: int, std: float) -> None:
    """Its own would be zero times infinity, which stops an attack and makes the defence look strong."""
    vae, images = soft()
    defence = HamiltonianDefence(vae, steps=steps, step_size=step_size, leapfrogs=leapfrogs, std=std)
    noise = torch.randn(8, defence.latent, generator=torch.Generator().manual_seed(9))
    images.requires_grad_()
    latents = defence.encode(images).sample(noise)
    ends = defence.refine(latents)
    (slope,) = torch.autograd.grad(ends.sum(), images)
    assert bool(slope.isfinite().all())
    stayed = (ends == latents[:, :3]).all(1)
    assert bool(stayed.any())
    (undefended,) = torch.autograd.grad(vae.encode(images).mean.sum(), images)
    torch.testing.assert_close(slope[stayed], undefended[stayed])


def test_a_hopeless_trajectory_stops_where_all_is_finite() -> None:
    vae, images = soft()
    defence = HamiltonianDefence(vae, steps=1, step_size=0.5, leapfrogs=60, std=0.01)
    start, momentum, _, _ = defence.encode(images).mean.split(defence.sizes, dim=1)
    here = defence._point(start, images)
    there, total = defence._leapfrog(here, momentum, images)
    assert bool(total.isinf().all())
    assert all(bool(part.isfinite().all()) for part in there)
    assert bool((there.energy - here.energy < HOPELESS).all())


def test_an_attack_through_the_defence_does_more_than_one_that_ignores_it() -> None:
    tiny, images = TinyVAE(), images_of(6)
    defence = HamiltonianDefence(tiny, steps=8, step_size=0.1, leapfrogs=3, std=0.3)
    options = PGD(steps=20, restarts=1)
    found = {}
    batch, ball = case(defence, images, 0.7, reconstruction="anchored")
    for name, vae in {"transfer": tiny, "adaptive": defence}.items():
        delta, sane = options.search(case(vae, images, 0.7, reconstruction="anchored")[0], DAMAGE, ball, "test")
        assert bool(sane.all())
        verdicts = evaluate(batch, ball, delta, Evaluation(samples=300), "test")
        found[name] = sum(verdict.damage for verdict in verdicts) / len(images)
    assert found["adaptive"] > 1.25 * found["transfer"]


def test_the_verbs_take_it_as_any_other_model() -> None:
    defence = HamiltonianDefence(TinyVAE(), steps=2, step_size=0.1, leapfrogs=2, std=0.5)
    rows = attack(
        defence, images_of(2), radius=0.5, r=0.2, options=PGD(steps=3, restarts=1), evaluation=Evaluation(samples=50)
    )
    assert [(row.status, row.model) for row in rows] == [("ok", "tiny+hmc")] * 2
    assert all(row.damage is not None and row.damage > 0 for row in rows)


def test_the_fingerprint_knows_every_option() -> None:
    vae = TinyVAE()
    options = {"steps": 2, "step_size": 0.1, "leapfrogs": 2, "std": 0.5}
    changes = [{}, {"steps": 3}, {"step_size": 0.2}, {"leapfrogs": 3}, {"std": 0.4}]
    assert len({fingerprint(HamiltonianDefence(vae, **{**options, **change})) for change in changes}) == len(changes)
    given = {**options, "likelihood": "bernoulli", "std": None}
    prints = {fingerprint(HamiltonianDefence(small_vae(), **one)) for one in (options, given)}
    assert len(prints) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "expected `steps` >= 1, got 0"),
        ({"steps": 1.5}, "expected a whole number of `steps`, got 1.5"),
        ({"leapfrogs": 2.5}, "expected a whole number of `leapfrogs`, got 2.5"),
        ({"leapfrogs": 0}, "expected `leapfrogs` >= 1, got 0"),
        ({"step_size": math.inf}, "expected a finite `step_size` > 0, got inf"),
        ({"std": None}, "expected `std` given with likelihood 'gaussian', got None"),
        ({"likelihood": "bernoulli"}, "expected `std` not given with likelihood 'bernoulli', got 1.0"),
        ({"std": -1.0}, "expected a finite `std` > 0, got -1"),
    ],
)
def test_options_out_of_range_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        untyped(HamiltonianDefence, TinyVAE(), **{"steps": 1, "step_size": 0.1, "std": 1.0, **options})


def test_a_bernoulli_likelihood_needs_probabilities() -> None:
    options = {"steps": 1, "step_size": 0.1, "likelihood": "bernoulli"}
    with pytest.raises(ValueError, match=r"expected pixels in \[0, 1\] with the Bernoulli .*, got \(-1.0, 1.0\)"):
        HamiltonianDefence(TinyVAE(), **options)
    with pytest.raises(ValueError, match=r"expected reconstructions in \[0, 1\] with the Bernoulli likelihood, got"):
        HamiltonianDefence(soft()[0], **options)


def test_no_chain_around_a_chain_or_several_levels() -> None:
    options = {"steps": 1, "step_size": 0.1, "std": 0.5}
    chain = HamiltonianDefence(TinyVAE(), **options)
    message = "expected a VAE whose latents are all drawn, got tiny.hmc.*, which is given 12 of them"
    for inner in (chain, Purified(chain, nn.Identity())):
        with pytest.raises(ValueError, match=message):
            HamiltonianDefence(inner, **options)
    with pytest.raises(ValueError, match=message):
        EvidenceAscent(chain, std=0.5)
    for make in (
        lambda: HamiltonianDefence(CurvedLevels(), **options),
        lambda: EvidenceAscent(CurvedLevels(), std=0.5),
        lambda: Purified(CurvedLevels(), nn.Identity()),
    ):
        with pytest.raises(TypeError, match="expected a VAE with one level of latents, see vaerdict"):
            make()
