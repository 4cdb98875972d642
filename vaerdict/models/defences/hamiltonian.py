"""The latent defence of Kuzina et al. (NeurIPS 2022): Hamiltonian Monte Carlo from `q(z|x)` towards `p(z|x)`."""

import math
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vaerdict.models.defences.purified import as_module
from vaerdict.models.defences.slopes import value_and_slope
from vaerdict.options import Likelihood, require, require_known
from vaerdict.vae import Posterior

TINY = 1e-7
"""Least probability of a Bernoulli pixel's value: its logarithm and two derivatives stay finite in float32."""


class Point(NamedTuple):
    """Where a chain is: the latents, their energy and its gradient, one row per image."""

    latents: Float[Tensor, "batch latent"]
    energy: Float[Tensor, " batch"]
    slope: Float[Tensor, "batch latent"]


class HamiltonianDefence(nn.Module):
    """A VAE whose latents are moved by Hamiltonian Monte Carlo before they are decoded, in the contract of `VAE`.

    A chain draws a momentum per step and, after some leapfrogs, accepts the new place or keeps the old one. So that
    `decode` is a function of its latents, these hold all that the chain needs: where it starts, standard normal
    momenta, a standard normal number per step that decides on acceptance, and the image, whose standard deviation is
    zero. An attack through `decode` thus differentiates through every leapfrog, with acceptance as it fell; latents
    drawn from `encode` run independent chains. With the posterior's mean, the chain is one without momenta.

    Objectives on the posterior alone (divergences, collapse, latent targets) do not fit it: the image is among its
    coordinates, without spread. Attack reconstructions.

    Args:
        vae: the defended model, a torch module.
        steps: of the chain.
        step_size: of one leapfrog, in latent units; fixed. One that is too long is rejected, not repaired.
        leapfrogs: per step of the chain; each costs one evaluation and gradient of the decoder.
        likelihood: of pixels given latents: "gaussian" or "bernoulli", as the model was trained.
        std: of a Gaussian pixel, in pixel units; given exactly where the likelihood is Gaussian.
        name: how tables call the defended model; by default the model's name and `+hmc`.

    Raises:
        ValueError: an option is out of its range.
        TypeError: the model is not a torch module.

    >>> from vaerdict.models import build_vae
    >>> from vaerdict.options import ModelOptions
    >>> vae = build_vae(ModelOptions(latent=3, hidden=(8,)), name="toy", input_shape=(1, 4, 4))
    >>> HamiltonianDefence(vae, steps=2, step_size=0.1, likelihood="bernoulli").latent  # 3 + 2 * 3 + 2
    11
    """

    def __init__(
        self,
        vae: Any,
        *,
        steps: int,
        step_size: float,
        leapfrogs: int = 5,
        likelihood: Likelihood = "gaussian",
        std: float | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__()
        require(steps >= 1, "`steps` >= 1", steps)
        require(leapfrogs >= 1, "`leapfrogs` >= 1", leapfrogs)
        require(0 < step_size < math.inf, "a finite `step_size` > 0", step_size)
        require_known("likelihood", [likelihood], ("gaussian", "bernoulli"))
        wanted = f"`std` {'' if likelihood == 'gaussian' else 'not '}given with likelihood {likelihood!r}"
        require((std is not None) == (likelihood == "gaussian"), wanted, std)
        require(std is None or 0 < std < math.inf, "a finite `std` > 0", std)
        self.vae = as_module(vae)
        self.name = name or f"{vae.name}+hmc"
        self.steps, self.step_size, self.leapfrogs, self.std = steps, step_size, leapfrogs, std
        self.input_shape, self.input_range = tuple(vae.input_shape), vae.input_range
        self.sizes = (vae.latent, steps * vae.latent, steps, torch.Size(self.input_shape).numel())
        self.latent = sum(self.sizes[:-1])

    def encode(self, images: Tensor) -> Posterior:
        """Give the posterior of start, momenta and acceptance, `latent` together, and the image, which is given."""
        start = self.vae.encode(images.clone())
        pixels = images.flatten(1)
        standard = start.mean.new_zeros(len(images), self.sizes[1] + self.sizes[2])
        mean = torch.cat([start.mean, standard, pixels], dim=1)
        std = torch.cat([start.std, torch.ones_like(standard), torch.zeros_like(pixels)], dim=1)
        return Posterior(mean, std, given=pixels.shape[1])

    def decode(self, latents: Tensor) -> Tensor:
        """Give the mean reconstructions of where the chains end."""
        return self.vae.decode(self.refine(latents))

    def refine(self, latents: Float[Tensor, "batch noise"]) -> Float[Tensor, "batch latent"]:
        """Run the chains: from all that they need to the defended model's latents at their ends."""
        start, momenta, chances, pixels = latents.split(self.sizes, dim=1)
        images = pixels.unflatten(1, self.input_shape)
        here = self._point(start, images)
        for momentum, chance in zip(momenta.chunk(self.steps, dim=1), chances.unbind(1), strict=True):
            here = self._step(here, momentum, chance, images)
        return here.latents

    def _step(self, here: Point, momentum: Tensor, chance: Tensor, images: Tensor) -> Point:
        there, final = self._leapfrog(here, momentum, images)
        fall = here.energy - there.energy + (momentum.square() - final.square()).sum(1) / 2
        # Mapped by the normal distribution function, the chance is uniform. What is not finite is never accepted.
        accepted = torch.special.log_ndtr(chance) < fall
        return Point(*(_where(accepted, new, old) for new, old in zip(there, here, strict=True)))

    def _leapfrog(self, here: Point, momentum: Tensor, images: Tensor) -> tuple[Point, Tensor]:
        """Follow the motion without friction: half a push, then moves and pushes in turn, half a push."""
        step = self.step_size
        for _ in range(self.leapfrogs):
            momentum = momentum - step / 2 * here.slope
            here = self._point(here.latents + step * momentum, images)
            momentum = momentum - step / 2 * here.slope
        return here, momentum

    def _point(self, latents: Tensor, images: Tensor) -> Point:
        return Point(latents, *value_and_slope(lambda z: self.energy(z, images), latents, images))

    def energy(self, latents: Float[Tensor, "batch latent"], images: Float[Tensor, "batch ..."]) -> Tensor:
        """Give `-log p(x|z) - log p(z)` per image, in nats, up to a constant."""
        pixels = self.vae.decode(latents.clone())
        if self.std is None:
            sure = pixels.clamp(TINY, 1 - TINY)
            missed = -(images * sure.log() + (1 - images) * (1 - sure).log())
        else:
            missed = ((images - pixels) / self.std).square() / 2
        return missed.flatten(1).sum(1) + latents.square().sum(1) / 2

    def extra_repr(self) -> str:
        """Show the options: they are part of the fingerprint."""
        names = ("name", "steps", "step_size", "leapfrogs", "std")
        return ", ".join(f"{name}={getattr(self, name)!r}" for name in names)


def _where(condition: Tensor, new: Tensor, old: Tensor) -> Tensor:
    return torch.where(condition if new.dim() == 1 else condition.unsqueeze(1), new, old)
