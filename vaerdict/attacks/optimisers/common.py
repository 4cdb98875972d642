"""What all optimisers at a fixed radius share: their interface, gradients, starts, and how restarts are compared."""

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from vaerdict.attacks.batch import Batch
from vaerdict.attacks.objectives import Loss, Objective
from vaerdict.attacks.threat import Ball, scaled, size, where

HELD_OUT = 16
"""Draws on which restarts are compared, the same for all restarts of a sample."""

BLOCK = 100
"""Steps whose noise is drawn at once: that of thousands would not fit in memory."""

Ends = tuple[Float[Tensor, "batch ..."], Bool[Tensor, " batch"]]
"""One perturbation per sample, and which samples had a finite loss and gradient at least once."""
Climb = Callable[[str, Tensor, Tensor], Ends]
"""From a restart's name for its draws, its starts `[B, ...]` and held-out noise `[B, H, draws, latent]` to its ends."""


@runtime_checkable
class Optimiser(Protocol):
    """What an attack at a fixed radius needs of a search; its options are a frozen dataclass."""

    @property
    def name(self) -> str:
        """The beginning of the method's name in the results."""
        ...

    @property
    def batch_size(self) -> int:
        """Images searched at once."""
        ...

    def search(self, batch: Batch, objective: Objective, ball: Ball, use: str) -> Ends:
        """Give the best perturbation found per sample, within ball and box; `use` names the draws."""
        ...


def value_and_gradient(
    function: Callable[..., Tensor], delta: Float[Tensor, "batch ..."], *rest: Tensor
) -> tuple[Float[Tensor, " batch"], Float[Tensor, "batch ..."]]:
    """Give `function(delta, *rest)` per sample and its gradient in `delta`, both detached.

    >>> value_and_gradient(lambda delta: delta.square().sum(1), torch.tensor([[1.0, 2.0]]))
    (tensor([5.]), tensor([[2., 4.]]))
    """
    if torch.compiler.is_compiling():  # it takes gradients of functions only
        gradient, (_, value) = torch.func.grad_and_value(lambda x: _summed(function(x, *rest)), has_aux=True)(delta)
        return value, gradient
    with torch.enable_grad():
        delta = delta.detach().requires_grad_()
        value = function(delta, *rest)
        (gradient,) = torch.autograd.grad(value.sum(), delta)
    return value.detach(), gradient


def _summed(value: Float[Tensor, " batch"]) -> tuple[Float[Tensor, ""], Float[Tensor, " batch"]]:
    return value.sum(), value


def both_finite(value: Float[Tensor, " batch"], gradient: Float[Tensor, "batch ..."]) -> Bool[Tensor, " batch"]:
    """Say per sample whether the value and the whole gradient are finite.

    >>> both_finite(torch.tensor([1.0, 2.0]), torch.tensor([[0.0], [torch.inf]]))
    tensor([ True, False])
    """
    both = value + gradient.flatten(1).abs().amax(1)  # ten times as fast as the norm of that name
    return both - both == 0


@torch.no_grad()
def score(
    loss: Loss, ball: Ball, delta: Float[Tensor, "batch ..."], noise: Float[Tensor, "batch held_out draws latent"]
) -> Float[Tensor, " batch"]:
    """Give the mean loss over the noise."""
    return torch.stack([loss(ball.center + delta, noise[:, k]) for k in range(noise.shape[1])]).mean(0)


def random_starts(
    batch: Batch, ball: Ball, use: str, restarts: int, reach: float = 1.0
) -> Iterator[Float[Tensor, "batch ..."]]:
    """Give random points at `reach` times the radius, one batch per restart."""
    ball = ball if reach == 1 else ball.with_radius(ball.radius * reach)
    for restart in range(restarts):
        yield ball.random_start(batch.noise(f"{use}/{restart}/start", *batch.images.shape[1:]))


def best_starts(
    batch: Batch, loss: Loss, draws: int, ball: Ball, use: str, restarts: int, probes: int
) -> Iterator[Float[Tensor, "batch ..."]]:
    """Give per restart the random point with the largest loss of several, compared on one draw, without gradients.

    While a sample's losses are not finite, each further point is half as far away.
    """
    for restart in range(restarts):
        noise = batch.noise(f"{use}/{restart}/probe", 1, draws, batch.vae.latent)
        best, most = torch.zeros_like(batch.images), torch.full_like(ball.radius, -math.inf)
        reach = torch.ones_like(ball.radius)
        for start in random_starts(batch, ball, f"{use}/{restart}", probes):
            start = scaled(start, reach)
            value = score(loss, ball, start, noise) if probes > 1 else most
            value = value.nan_to_num(-math.inf, -math.inf, -math.inf)
            better = (value > most) | most.isneginf()
            best, most = where(better, start, best), torch.where(better, value, most)
            reach = torch.where(most.isneginf(), reach / 2, reach)
        yield best


def starts_after(
    first: Optimiser | None,
    batch: Batch,
    objective: Objective,
    ball: Ball,
    use: str,
    starts: Iterable[Float[Tensor, "batch ..."]],
) -> Iterator[Float[Tensor, "batch ..."]]:
    """Give the starts, the first of them replaced by another optimiser's end, where one is given.

    A sample for which that optimiser found nothing keeps its start.
    """
    for restart, start in enumerate(starts):
        if first is None or restart:
            yield start
        else:
            end, _ = first.search(batch, objective, ball, f"{use}/first")
            yield where(size(end, ball.norm) > 0, end, start)


def step_noise(batch: Batch, use: str, steps: int, draws: int) -> Iterator[Float[Tensor, "batch draws latent"]]:
    """Give the noise of each step of a long search, drawn block by block."""
    for start in range(0, steps, BLOCK):
        block = batch.noise(f"{use}/steps/{start}", min(BLOCK, steps - start), draws, batch.vae.latent)
        yield from block.unbind(1)


def best_of(batch: Batch, loss: Loss, draws: int, ball: Ball, use: str, starts: Iterable[Tensor], climb: Climb) -> Ends:
    """Climb from every start and give each sample's best end, and which samples had a finite loss and gradient at all.

    The ends are compared on the same held-out noise, so that no restart wins by lucky draws.
    """
    held_out = batch.noise(f"{use}/held out", HELD_OUT if draws else 1, draws, batch.vae.latent)
    best = torch.zeros_like(batch.images)
    best_score = batch.images.new_full((len(best),), -math.inf)
    sane = torch.zeros(len(best), dtype=torch.bool, device=best.device)
    for restart, start in enumerate(starts):
        delta, finite = climb(f"{use}/{restart}", start, held_out)
        value = score(loss, ball, delta, held_out)
        better = value > best_score
        best = where(better, delta, best)
        best_score = torch.where(better, value, best_score)
        sane |= finite
    return best, sane & best_score.isfinite()
