"""The latent defence of Kuzina et al. (NeurIPS 2022): Hamiltonian Monte Carlo from `q(z|x)` towards `p(z|x)`."""

import math
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from vaerdict.models.adapters.trials import two_images
from vaerdict.models.defences.counts import require_count
from vaerdict.models.defences.purified import as_module, require_drawn
from vaerdict.models.defences.slopes import value_and_slope
from vaerdict.options import Likelihood, require, require_known
from vaerdict.vae import Posterior, borrowed

TINY = 1e-7
"""Least probability of a Bernoulli pixel's value: its logarithm and two derivatives stay finite in float32."""
HOPELESS = 1000.0
"""Rise of the total energy, in nats, after which a trajectory is stopped: no float64 is as small as its chance."""


class Point(NamedTuple):
    """Where a chain is: the latents, their energy and its gradient, one row per image."""

    latents: Float[Tensor, "batch latent"]
    energy: Float[Tensor, " batch"]
    slope: Float[Tensor, "batch latent"]


class Gate:
    """Lets gradients back only where a trajectory was accepted, which is known when all of it has been followed.

    Those of a rejected one are zero, but zero times the infinite derivatives on its way would not be a number.
    """

    open: Bool[Tensor, " batch"]

    def __call__(self, values: Tensor) -> Tensor:
        """Give the values, whose gradients pass through here."""
        if not values.requires_grad:
            return values
        gated = values.view_as(values)
        gated.register_hook(self._back)
        return gated

    def _back(self, slope: Tensor | None) -> Tensor | None:
        # Torch says None for a gradient that is zero throughout.
        return None if slope is None else _where(self.open, slope, torch.zeros_like(slope))


class HamiltonianDefence(nn.Module):
    """A VAE whose latents are moved by Hamiltonian Monte Carlo before they are decoded, in the contract of `VAE`.

    A chain draws a momentum per step and, after some leapfrogs, accepts the new place or keeps the old one. So that
    `decode` is a function of its latents, these hold all that the chain needs: where it starts, standard normal
    momenta, a standard normal number per step that decides on acceptance, and the image, whose standard deviation is
    zero. An attack through `decode` thus differentiates through every leapfrog, with acceptance as it fell; latents
    drawn from `encode` run independent chains. With the posterior's mean, the chain is one without momenta.

    A trajectory whose energy rises without hope stops where it is and is never accepted; what is not accepted passes no
    gradient on, however steep it was. The posterior is the one before the chain, so attack reconstructions: objectives
    on the posterior alone do not see the defence.

    Args:
        vae: the defended model, a torch module.
        steps: of the chain.
        step_size: of one leapfrog, in latent units; fixed. One that is too long is rejected, not repaired.
        leapfrogs: per step of the chain; each costs one evaluation and gradient of the decoder.
        likelihood: of pixels given latents, as the model was trained: "gaussian", or "bernoulli", for which pixels and
            reconstructions lie in [0, 1].
        std: of a Gaussian pixel, in pixel units; given exactly where the likelihood is Gaussian.
        name: how tables call the defended model; by default the model's name and `+hmc`.

    Raises:
        ValueError: an option is out of its range; pixels or reconstructions are no probabilities, with a Bernoulli
            likelihood; the model's posterior has coordinates that are not drawn, as another such defence's.
        TypeError: the model is not a torch module, or has several levels.

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
        require_count("steps", steps)
        require_count("leapfrogs", leapfrogs)
        require(0 < step_size < math.inf, "a finite `step_size` > 0", step_size)
        require_known("likelihood", [likelihood], ("gaussian", "bernoulli"))
        wanted = f"`std` {'' if likelihood == 'gaussian' else 'not '}given with likelihood {likelihood!r}"
        require((std is not None) == (likelihood == "gaussian"), wanted, std)
        require(std is None or 0 < std < math.inf, "a finite `std` > 0", std)
        self.vae = as_module(vae)
        require_drawn(vae)
        if likelihood == "bernoulli":
            _require_probabilities(vae)
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
        gate = Gate()
        there, total = self._leapfrog(Point(*map(gate, here)), gate(momentum), gate(images))
        # Mapped by the normal distribution function, the chance is uniform. What is not finite is never accepted.
        gate.open = torch.special.log_ndtr(chance) < _total(here, momentum) - total
        return _either(gate.open, there, here)

    def _leapfrog(self, here: Point, momentum: Tensor, images: Tensor) -> tuple[Point, Tensor]:
        """Follow the motion without friction: half a push, then moves and pushes in turn, half a push.

        Where the total energy rises without hope, the motion stops; it is then infinite at the end.
        """
        step, first = self.step_size, _total(here, momentum)
        moving = torch.ones_like(first, dtype=torch.bool)
        for _ in range(self.leapfrogs):
            half = momentum - step / 2 * here.slope
            there = self._point(_where(moving, here.latents + step * half, here.latents), images)
            pushed = half - step / 2 * there.slope
            moving = moving & (_total(there, pushed) - first < HOPELESS)
            here, momentum = _either(moving, there, here), _where(moving, pushed, momentum)
        return here, torch.where(moving, _total(here, momentum), math.inf)

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


def _require_probabilities(vae: Any) -> None:
    pixels = tuple(vae.input_range)
    require(pixels == (0.0, 1.0), "pixels in [0, 1] with the Bernoulli likelihood", pixels)
    images = two_images(tuple(vae.input_shape), vae.input_range, next(vae.parameters(), None))
    with borrowed(vae), torch.no_grad(), torch.random.fork_rng(devices=[]):
        least, most = map(float, vae.decode(vae.encode(images).mean).aminmax())
    # A comparison with NaN is false: a broken model is the attack's to report.
    wrong = least < 0 or most > 1
    require(not wrong, "reconstructions in [0, 1] with the Bernoulli likelihood", f"[{least:g}, {most:g}]")


def _total(point: Point, momentum: Tensor) -> Float[Tensor, " batch"]:
    return point.energy + momentum.square().sum(1) / 2


def _either(condition: Tensor, new: Point, old: Point) -> Point:
    return Point(*(_where(condition, one, other) for one, other in zip(new, old, strict=True)))


def _where(condition: Tensor, new: Tensor, old: Tensor) -> Tensor:
    return torch.where(condition.reshape(-1, *(1,) * (new.dim() - 1)), new, old)
