"""The direction in which the encoder, to first order, moves most: power iteration on its Jacobian at the clean image.

Kuzina et al. (2021) look for it by gradient steps on rows of the Jacobian; products with it and its transpose suffice.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from vaerdict.attacks.batch import Batch
from vaerdict.attacks.levels import mean_of
from vaerdict.attacks.objectives import Objective
from vaerdict.attacks.optimisers.common import Ends, best_of, random_starts, score
from vaerdict.attacks.threat import Ball, size, where
from vaerdict.options import require

Map = Literal["encoder", "reconstruction"]


@dataclass(frozen=True, kw_only=True)
class Singular:
    """Options of the one-shot attack: plus or minus the singular direction, as far as the radius goes.

    Args:
        iterations: products with the Jacobian and with its transpose, each.
        restarts: random directions to begin with; more than one helps where the norm is not L2.
        of: the map whose Jacobian is meant: the posterior's mean, "encoder", or its mean reconstruction.
        batch_size: images searched at once.

    >>> Singular(of="reconstruction").iterations
    10
    """

    iterations: int = 10
    restarts: int = 1
    of: Map = "encoder"
    batch_size: int = 256

    def __post_init__(self) -> None:
        for name in ("iterations", "restarts", "batch_size"):
            require(getattr(self, name) >= 1, f"`{name}` >= 1", getattr(self, name))
        require(self.of in get_args(Map), f"`of` in {get_args(Map)}", repr(self.of))

    @property
    def name(self) -> str:
        """The beginning of the method's name in the results."""
        return "singular" if self.of == "encoder" else "singular-reconstruction"

    def search(self, batch: Batch, objective: Objective, ball: Ball, use: str) -> Ends:
        """Give the better sign of the direction, by the objective; and which samples' Jacobian and loss are finite."""
        loss, draws = objective.loss(batch), objective.draws(batch.question)

        def climb(here: str, start: Tensor, held_out: Tensor) -> Ends:
            direction, sane = singular_direction(self._map(batch), ball, start, self.iterations)
            one, other = ball.stretch(direction), ball.stretch(-direction)
            better = score(loss, ball, other, held_out) > score(loss, ball, one, held_out)
            return where(better, other, one), sane

        return best_of(batch, loss, draws, ball, use, random_starts(batch, ball, use, self.restarts), climb)

    def _map(self, batch: Batch) -> Callable[[Tensor], Tensor]:
        if self.of == "encoder":
            return lambda images: mean_of(batch.vae, batch.vae.encode(images))
        return lambda images: batch.vae.decode(batch.vae.encode(images).mean).flatten(1)


def singular_direction(
    function: Callable[[Tensor], Tensor], ball: Ball, start: Float[Tensor, "batch ..."], iterations: int
) -> tuple[Float[Tensor, "batch ..."], Bool[Tensor, " batch"]]:
    """Give a unit direction `v` of large `|J v|_2`, with `J` the function's Jacobian at each clean image.

    Each iteration takes the steepest direction of `|J v|_2^2`, of unit size in the ball's norm. In L2 that is power
    iteration, and `v` the top right-singular vector; `|J v|_2` never falls in any norm, since its square is convex.

    Args:
        function: from images to `[B, outputs]`, each row from its own image.
        ball: gives the clean images and the norm.
        start: directions to begin with.
        iterations: products with `J` and with its transpose, each.

    Returns:
        The directions, and for which samples the products were finite; the others' directions stay as they were.

    >>> ball = Ball(norm="2", radius=torch.ones(1), box=(-9.0, 9.0), center=torch.zeros(1, 2))
    >>> direction, _ = singular_direction(lambda x: x * torch.tensor([10.0, 1.0]), ball, torch.ones(1, 2), 10)
    >>> direction.round(decimals=3)
    tensor([[1., 0.]])
    """
    direction = ball.ascent_direction(start)
    sane = torch.ones_like(ball.radius, dtype=torch.bool)
    for _ in range(iterations):
        back = _there_and_back(function, ball.center, direction)
        finite = back.flatten(1).isfinite().all(1)
        sane &= finite
        steep = ball.ascent_direction(where(finite, back, torch.zeros_like(back)))
        direction = where(size(steep, "2") > 0, steep, direction)
    return direction, sane


def _there_and_back(function: Callable[[Tensor], Tensor], images: Tensor, direction: Tensor) -> Tensor:
    """Give `J^T J v`.

    `J v` is the gradient of `v . J^T u` in `u`: unlike torch's forward mode, that needs nothing of a model but that its
    gradients have gradients.
    """
    with torch.enable_grad():
        images = images.detach().requires_grad_()
        values = function(images)
        weights = torch.zeros_like(values, requires_grad=True)
        (pulled,) = torch.autograd.grad(values, images, weights, create_graph=True)
        (moved,) = torch.autograd.grad(pulled, weights, direction, retain_graph=True)
        (back,) = torch.autograd.grad(values, images, moved)
    return back
