"""What all optimisers at a fixed radius share: their interface, gradients, starts, and how restarts are compared."""

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from vaerdict.attacks.batch import Batch
from vaerdict.attacks.objectives import Loss, Objective
from vaerdict.attacks.threat import Ball, size, where

HELD_OUT = 16
"""Draws on which restarts are compared, the same for all restarts of a sample."""

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
    with torch.enable_grad():
        delta = delta.detach().requires_grad_()
        value = function(delta, *rest)
        (gradient,) = torch.autograd.grad(value.sum(), delta)
    return value.detach(), gradient


def both_finite(value: Float[Tensor, " batch"], gradient: Float[Tensor, "batch ..."]) -> Bool[Tensor, " batch"]:
    """Say per sample whether the value and the whole gradient are finite.

    >>> both_finite(torch.tensor([1.0, 2.0]), torch.tensor([[0.0], [torch.inf]]))
    tensor([ True, False])
    """
    return value.isfinite() & gradient.flatten(1).isfinite().all(1)


@torch.no_grad()
def score(
    loss: Loss, ball: Ball, delta: Float[Tensor, "batch ..."], noise: Float[Tensor, "batch held_out draws latent"]
) -> Float[Tensor, " batch"]:
    """Give the mean loss over the noise."""
    return torch.stack([loss(ball.center + delta, noise[:, k]) for k in range(noise.shape[1])]).mean(0)


def random_starts(batch: Batch, ball: Ball, use: str, restarts: int) -> Iterator[Float[Tensor, "batch ..."]]:
    """Give random points of the ball's surface, one batch per restart."""
    for restart in range(restarts):
        yield ball.random_start(batch.noise(f"{use}/{restart}/start", *batch.images.shape[1:]))


def starts_after(
    first: Optimiser | None, batch: Batch, objective: Objective, ball: Ball, use: str, restarts: int, reach: float = 1.0
) -> Iterator[Float[Tensor, "batch ..."]]:
    """Give random starts at `reach` times the radius, of which the first is another optimiser's end, where given.

    A sample for which that optimiser found nothing keeps its random start.
    """
    near = ball if reach == 1 else ball.with_radius(ball.radius * reach)
    for restart, start in enumerate(random_starts(batch, near, use, restarts)):
        if first is None or restart:
            yield start
        else:
            end, _ = first.search(batch, objective, ball, f"{use}/first")
            yield where(size(end, ball.norm) > 0, end, start)


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
