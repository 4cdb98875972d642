"""The terms of the ELBO are those of torch.distributions, and their sum is the exact one of a linear-Gaussian model."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.distributions import Bernoulli, Independent, MultivariateNormal, Normal, kl_divergence

from tests.models.small import random_images, small_vae
from vaerdict.models import GaussianVAE, elbo, kl_to_prior, log_likelihood, wrap
from vaerdict.options import ModelOptions

BERNOULLI = ModelOptions()
sizes = {"count": st.integers(1, 5), "latent": st.integers(1, 8), "seed": st.integers(0, 2**32)}


def draw(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# --- the two terms ---


@settings(deadline=None)
@given(**sizes)
def test_kl_is_that_of_torch(count: int, latent: int, seed: int) -> None:
    mean, std = draw(count, latent, seed=seed), draw(count, latent, seed=seed + 1).exp()
    expected = kl_divergence(Independent(Normal(mean, std), 1), Independent(Normal(0 * mean, 0 * mean + 1), 1))
    assert torch.allclose(kl_to_prior(mean, std), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("grey", [False, True])
def test_bernoulli_likelihood_is_that_of_torch(grey: bool) -> None:
    images, reconstructions = random_images(4).double(), random_images(4, seed=1).double()
    if grey:  # the cross-entropy, linear in the pixels
        expected = images * reconstructions.log() + (1 - images) * (1 - reconstructions).log()
    else:
        images = images.round()
        expected = Bernoulli(reconstructions).log_prob(images)
    assert torch.allclose(log_likelihood(images, reconstructions, BERNOULLI), expected.flatten(1).sum(1), rtol=1e-12)


@settings(deadline=None)
@given(std=st.floats(1e-3, 1e3), seed=st.integers(0, 2**32))
def test_gaussian_likelihood_is_that_of_torch(std: float, seed: int) -> None:
    images, reconstructions = draw(2, 3, 1, 2, 5, seed=seed)
    options = ModelOptions(likelihood="gaussian", observation_std=std)
    expected = Normal(reconstructions, std).log_prob(images).flatten(1).sum(1)
    assert torch.allclose(log_likelihood(images, reconstructions, options), expected, rtol=1e-9)


@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian"])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_reconstructions_that_are_no_numbers_are_refused(likelihood: Any, value: float) -> None:
    images, reconstructions = random_images(2), random_images(2)
    reconstructions[1, 0, 3, 3] = value
    with pytest.raises(FloatingPointError, match=r"^expected finite reconstructions, got NaN or infinity$"):
        log_likelihood(images, reconstructions, ModelOptions(likelihood=likelihood))


@pytest.mark.parametrize("spread", ["constant", "bounded", "log_variance"])
def test_the_terms_are_taken_at_the_sample(spread: str) -> None:
    vae, images, noise = small_vae(spread=spread), random_images(4), torch.randn(4, 3)
    likelihood, kl = elbo(vae, images, noise, BERNOULLI)
    posterior = vae.encode(images)
    reconstructions = vae.decode(posterior.mean + noise * posterior.std)
    assert torch.equal(likelihood, log_likelihood(images, reconstructions, BERNOULLI))
    assert torch.equal(kl, kl_to_prior(posterior.mean, posterior.std))


# --- a model whose evidence is known: z ~ N(0, I), x = U diag(d) z + c + s e with orthonormal columns of U ---

PIXELS, LATENT, NOISE = 6, 3, 0.4


class Fixed(nn.Module):
    """The same standard deviations for each image."""

    def __init__(self, std: Tensor) -> None:
        super().__init__()
        self.register_buffer("values", std)

    def forward(self, images: Tensor) -> Tensor:
        return self.values.expand(len(images), -1)


class Encoder(nn.Module):
    """Mean linear in the image, standard deviation fixed."""

    def __init__(self, matrix: Tensor, shift: Tensor, std: Tensor) -> None:
        super().__init__()
        self.mean = nn.Sequential(nn.Flatten(), linear(matrix, shift))
        self.std = Fixed(std)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return self.mean(images), self.std(images)


def linear(matrix: Tensor, shift: Tensor) -> nn.Linear:
    layer = nn.Linear(matrix.shape[1], matrix.shape[0], dtype=torch.float64)
    layer.load_state_dict({"weight": matrix, "bias": shift})
    return layer


class LinearGaussian:
    """The model, its exact posterior `N(gain (x - c), diag(std^2))` and its evidence."""

    def __init__(self, seed: int) -> None:
        self.scales = draw(LATENT, seed=seed).exp()
        self.matrix = torch.linalg.qr(draw(PIXELS, LATENT, seed=seed + 1)).Q * self.scales
        self.centre = draw(PIXELS, seed=seed + 2)
        self.std = (1 + (self.scales / NOISE).square()).rsqrt()
        self.gain = (self.std / NOISE).square()[:, None] * self.matrix.T
        self.options = ModelOptions(latent=LATENT, likelihood="gaussian", observation_std=NOISE)

    def evidence(self, images: Tensor) -> Tensor:
        covariance = self.matrix @ self.matrix.T + NOISE**2 * torch.eye(PIXELS, dtype=torch.float64)
        return MultivariateNormal(self.centre, covariance).log_prob(images.flatten(1))

    def vae(self, gain: Tensor, offset: Tensor, std: Tensor) -> GaussianVAE:
        decoder = nn.Sequential(linear(self.matrix, self.centre), nn.Unflatten(1, (1, 1, PIXELS)))
        encoder = Encoder(gain, offset - gain @ self.centre, std)
        return wrap(encoder, decoder, input_shape=(1, 1, PIXELS), latent_shape=(LATENT,), spread="std")

    def exact_elbo(self, vae: GaussianVAE, images: Tensor) -> Tensor:
        """Average over the cubature points `±sqrt(n) e_i`, exact because the likelihood is quadratic in the noise."""
        corners = LATENT**0.5 * torch.eye(LATENT, dtype=torch.float64)
        terms = [elbo(vae, images, point.expand(len(images), -1), self.options) for point in (*corners, *-corners)]
        return torch.stack([likelihood - kl for likelihood, kl in terms]).mean(0).detach()


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_the_elbo_reaches_the_evidence_at_the_exact_posterior(seed: int) -> None:
    model, images = LinearGaussian(seed), draw(4, 1, 1, PIXELS, seed=seed + 3)
    vae = model.vae(model.gain, torch.zeros(LATENT).double(), model.std)
    assert torch.allclose(model.exact_elbo(vae, images), model.evidence(images), rtol=1e-9)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32), size=st.floats(1e-3, 2))
def test_the_elbo_is_below_the_evidence_by_the_divergence_of_the_posteriors(seed: int, size: float) -> None:
    model, images = LinearGaussian(seed), draw(4, 1, 1, PIXELS, seed=seed + 3)
    gain = model.gain + size * draw(LATENT, PIXELS, seed=seed + 4)
    offset = size * draw(LATENT, seed=seed + 5)
    std = model.std * (size * draw(LATENT, seed=seed + 6)).exp()
    vae = model.vae(gain, offset, std)
    gap = model.evidence(images) - model.exact_elbo(vae, images)
    exact = Independent(Normal((images.flatten(1) - model.centre) @ model.gain.T, model.std), 1)
    posterior = vae.encode(images)
    expected = kl_divergence(Independent(Normal(posterior.mean.detach(), posterior.std), 1), exact)
    assert (gap > 0).all()
    assert torch.allclose(gap, expected, rtol=1e-6, atol=1e-8)
