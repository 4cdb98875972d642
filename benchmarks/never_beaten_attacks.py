"""Attacks without any range of pixels, and a judge who counts on fresh draws."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from never_beaten_cases import CONFIDENCE, Case
from never_beaten_models import TwoLevels
from torch import Tensor

from vaerdict.attacks.judge.evaluate import bound_probability, size_up
from vaerdict.models import GaussianVAE
from vaerdict.options import Norm

OBJECTIVES = 3


@dataclass(frozen=True, kw_only=True)
class Effort:
    """How much is certified and attacked per model."""

    images: int = 128
    samples: int = 2000
    restarts: int = 6
    steps: int = 40
    draws: int = 4
    selection: int = 300
    verdicts: tuple[int, ...] = (1000, 20_000, 200_000)
    judged: tuple[int, ...] = (10**9, 48, 4)
    """Most changes that get so many draws: the ones that looked most dangerous on the fewer draws before."""


@dataclass(frozen=True)
class Game:
    """A model and the event that certificates rule out; images are `[n, ...]`, noise `[n, draws, 2, latent]`."""

    vae: GaussianVAE | TwoLevels
    r: float
    case: Case

    @property
    def latent(self) -> int:
        """Give how many numbers a draw takes."""
        return self.vae.latent if isinstance(self.vae, GaussianVAE) else sum(self.vae.levels)

    def noise(self, images: int, draws: int, generator: torch.Generator) -> Tensor:
        """Draw noise; one draw where nothing is random."""
        draws = 1 if self.case.reconstruction == "mean" else draws
        return torch.randn(images, draws, 2, self.latent, generator=generator)

    def means(self, images: Tensor) -> Tensor:
        """Give the latents without noise, in standard deviations."""
        if isinstance(self.vae, GaussianVAE):
            posterior = self.vae.encode(images)
            return posterior.mean / posterior.std.detach()
        first = self.vae.posterior(images, []).mean
        return torch.cat([first, self.vae.posterior(images, [first]).mean], dim=1)

    def reconstruct(self, images: Tensor, noise: Tensor) -> Tensor:
        """Give reconstructions `[n, draws, pixels]` from noise `[n, draws, latent]`."""
        draws = noise.shape[1]
        if isinstance(self.vae, GaussianVAE):
            posterior = self.vae.encode(images)
            latents = posterior.mean[:, None] + posterior.std[:, None] * noise
            return self.vae.decode(latents.flatten(0, 1)).reshape(len(images), draws, -1)
        images, drawn = images.repeat_interleave(draws, 0), []
        for part in noise.flatten(0, 1).split(list(self.vae.levels), dim=1):
            drawn.append(self.vae.posterior(images, drawn).sample(part))
        return self.vae.decode(drawn).reshape(-1, draws, images[0].numel())

    def change(self, clean: Tensor, moved: Tensor, noise: Tensor) -> Tensor:
        """Give `|Delta|`, `[n, draws]`, in float64."""
        after, before = noise[:, :, 0], noise[:, :, 1]
        if self.case.reconstruction == "mean":
            after = torch.zeros_like(after)
        if self.case.reconstruction != "sampled":
            before = torch.zeros_like(before[:, :1])
        return (self.reconstruct(moved, after).double() - self.reconstruct(clean, before).double()).norm(dim=2)

    @torch.no_grad()
    def within(self, clean: Tensor, moved: Tensor, draws: int, generator: torch.Generator) -> Tensor:
        """Count, per image, the fresh draws that stay within `r`; draws of a deterministic change are all the same."""
        counts = torch.zeros(len(clean), dtype=torch.int64)
        at_once = max(1, 2**18 // len(clean))
        for start in range(0, draws, at_once):
            noise = self.noise(len(clean), min(at_once, draws - start), generator)
            counts += (self.change(clean, moved, noise) <= self.r).sum(1)
            if self.case.reconstruction == "mean":
                return draws * counts
        return counts

    def upper(self, counts: Tensor, draws: int) -> Tensor:
        """Bound the probability of staying within `r` from above."""
        if self.case.reconstruction == "mean":
            return counts.double() / draws
        return torch.from_numpy(bound_probability(counts.numpy(), draws, CONFIDENCE))


def _column(values: Tensor) -> Tensor:
    return values.reshape(-1, 1, 1, 1)


def project(delta: Tensor, radius: Tensor, norm: Norm) -> Tensor:
    """Bring changes into their balls."""
    if norm == "inf":
        return delta.clamp(-_column(radius), _column(radius))
    return delta * _column((radius / delta.flatten(1).norm(dim=1).clamp(min=1e-30)).clamp(max=1.0))


def add(clean: Tensor, delta: Tensor, radius: Tensor, norm: Norm) -> Tensor:
    """Give `clean + delta` in float32, still in the ball despite rounding (where that is larger than the rounding)."""
    ulps = 2.0**-23 * (clean.abs() + delta.abs()).flatten(1).amax(1)
    slack = ulps * (clean[0].numel() ** 0.5 if norm == "2" else 1.0)
    return clean + project(delta, (radius.float() * (1 - 1e-6) - slack).clamp(min=0.0), norm)


def climb(game: Game, clean: Tensor, radius: Tensor, effort: Effort, generator: torch.Generator) -> Tensor:
    """Ascend from random starts, a third each on the damage, on its probability, and on the move of the latents."""
    norm = game.case.norm
    radius = radius.float()
    delta = project(torch.randn(clean.shape, generator=generator) * _column(2 * radius), radius, norm)
    objective = torch.arange(len(clean)) % OBJECTIVES
    here = game.means(clean).detach()
    for k in range(effort.steps):
        delta = delta.detach().requires_grad_()
        change = game.change(clean, clean + delta, game.noise(len(clean), effort.draws, generator))
        values = (
            change.square().mean(1),
            torch.sigmoid((change / game.r - 1) * 8).mean(1),
            (game.means(clean + delta) - here).square().sum(1).double(),
        )
        (gradient,) = torch.autograd.grad(torch.stack(values).gather(0, objective[None]).sum(), delta)
        gradient = gradient / _column(gradient.flatten(1).abs().amax(1).clamp(min=1e-30))
        move = gradient.sign() if norm == "inf" else gradient / _column(gradient.flatten(1).norm(dim=1).clamp(min=0.1))
        length = radius * (1 + math.cos(math.pi * k / effort.steps)) / 2
        delta = project(delta.detach() + move * _column(length), radius, norm)
    return delta


class Attacked(NamedTuple):
    """The worst change found within each radius: which, its size, and whether the judge says that it succeeds."""

    delta: Tensor
    size: Tensor
    success: Tensor


def attack(game: Game, clean: Tensor, radius: Tensor, effort: Effort, seed: int) -> Attacked:
    """Attack each image within its radius; the judge's draws are fresh."""
    generator = torch.Generator().manual_seed(seed)
    norm, restarts = game.case.norm, effort.restarts
    many, radii = clean.repeat_interleave(restarts, 0), radius.repeat_interleave(restarts, 0)
    delta = climb(game, many, radii, effort, generator)
    with torch.no_grad():
        change = game.change(many, add(many, delta, radii, norm), game.noise(len(many), effort.selection, generator))
    score = (change <= game.r).double().mean(1) - 1e-3 * (change.mean(1) / game.r).tanh()
    best = score.reshape(-1, restarts).argmin(1) + torch.arange(len(clean)) * restarts
    delta = delta[best]
    moved = add(clean, delta, radius, norm)
    success = torch.zeros(len(clean), dtype=torch.bool)
    chosen = torch.arange(len(clean))
    for draws, most in zip(effort.verdicts, effort.judged, strict=True):
        chosen = chosen[:most]
        counts = game.within(clean[chosen], moved[chosen], draws, generator)
        success[chosen] |= game.upper(counts, draws) <= game.case.p
        order = counts.argsort()
        chosen = chosen[order][counts[order] <= (game.case.p + 0.05) * draws]
        if not len(chosen):
            break
    return Attacked(delta, size_up(moved, clean, norm), success)


def stretch(game: Game, clean: Tensor, delta: Tensor, draws: int, seed: int) -> Tensor:
    """Give the sizes of longer changes in the same directions that the judge accepts; infinite where he does not."""
    generator = torch.Generator().manual_seed(seed)
    noise, sure = game.noise(len(clean), draws // 4, generator), 7 * math.sqrt(0.25 / draws)
    low, high = torch.ones(len(clean)), torch.full((len(clean),), 32.0)
    for _ in range(12):
        middle = (low * high).sqrt()
        with torch.no_grad():
            share = (game.change(clean, clean + delta * _column(middle), noise) <= game.r).double().mean(1)
        enough = share <= game.case.p - (0 if game.case.reconstruction == "mean" else sure)
        low, high = torch.where(enough, low, middle), torch.where(enough, middle, high)
    moved = clean + delta * _column(high * (1 + 1e-4))
    accepted = game.upper(game.within(clean, moved, draws, generator), draws) <= game.case.p
    return torch.where(accepted, size_up(moved, clean, game.case.norm), math.inf)
