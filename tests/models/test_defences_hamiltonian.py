"""Hamiltonian Monte Carlo as a defence: the right posterior, a deterministic decoder, gradients for attacks."""

import math

import pytest
import torch
from torch import Tensor

from tests.attacks.searches import DAMAGE, TinyVAE, case, images_of
from tests.models.small import random_images, small_vae
from tests.toys import LinearVAE
from vaerdict.attacks import PGD, Evaluation, attack
from vaerdict.attacks.judge.evaluate import evaluate
from vaerdict.models.defences import HamiltonianDefence
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
    changes = [
        {},
        {"steps": 3},
        {"step_size": 0.2},
        {"leapfrogs": 3},
        {"std": 0.4},
        {"likelihood": "bernoulli", "std": None},
    ]
    assert len({fingerprint(HamiltonianDefence(vae, **{**options, **change})) for change in changes}) == len(changes)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "expected `steps` >= 1, got 0"),
        ({"leapfrogs": 0}, "expected `leapfrogs` >= 1, got 0"),
        ({"step_size": math.inf}, "expected a finite `step_size` > 0, got inf"),
        ({"std": None}, "expected `std` given with likelihood 'gaussian', got None"),
        ({"likelihood": "bernoulli"}, "expected `std` not given with likelihood 'bernoulli', got 1.0"),
        ({"std": -1.0}, "expected a finite `std` > 0, got -1"),
    ],
)
def test_options_out_of_range_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        HamiltonianDefence(TinyVAE(), **{"steps": 1, "step_size": 0.1, "std": 1.0, **options})
