"""The baseline that every search must beat: the best of many random perturbations, without a gradient."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from vaerdict.attacks.batch import Batch
from vaerdict.attacks.objectives import Objective
from vaerdict.attacks.optimisers.common import Ends, score
from vaerdict.attacks.threat import COUNTS, Ball, scaled, where
from vaerdict.options import require

Kind = Literal["uniform", "gaussian", "signs"]
BLOCK_VALUES = 2**16
"""Values drawn at once per image: the model decides, so that draws are the same in any batch."""


@dataclass(frozen=True, kw_only=True)
class Noise:
    """Options of the random baseline.

    Args:
        draws: perturbations tried per image.
        kind: "uniform" on the sphere ("1", "2"), in the cube ("inf") or over the pixels (counts); "gaussian", normal
            numbers times the radius, brought into the ball; "signs", every value up or down by the same, as far as the
            radius goes, for counts to the end of its range ("salt and pepper").
        samples: noise draws over which a random loss is averaged, the same for all perturbations of an image.
        batch_size: images searched at once.

    >>> Noise(draws=200, kind="signs").name
    'noise-signs'
    """

    draws: int = 1000
    kind: Kind = "uniform"
    samples: int = 1
    batch_size: int = 256

    def __post_init__(self) -> None:
        for name in ("draws", "samples", "batch_size"):
            require(getattr(self, name) >= 1, f"`{name}` >= 1", getattr(self, name))
        require(self.kind in get_args(Kind), f"`kind` in {get_args(Kind)}", repr(self.kind))

    @property
    def name(self) -> str:
        """The beginning of the method's name in the results."""
        return f"noise-{self.kind}"

    def search(self, batch: Batch, objective: Objective, ball: Ball, use: str) -> Ends:
        """Give the perturbation with the largest loss per sample, and which samples had a finite loss at all."""
        loss, draws = objective.loss(batch), objective.draws(batch.question)
        held_out = batch.noise(f"{use}/held out", self.samples if draws else 1, draws, batch.vae.latent)
        best = torch.zeros_like(batch.images)
        best_score = torch.full_like(ball.radius, -math.inf)
        for noise in blocks(batch, f"{use}/draws", self.draws, tuple(batch.images.shape[1:])):
            delta = KINDS[self.kind](ball, noise)
            value = score(loss, ball, delta, held_out)
            better = value.isfinite() & (value > best_score)
            best, best_score = where(better, delta, best), torch.where(better, value, best_score)
        return best, best_score.isfinite()


def blocks(batch: Batch, use: str, count: int, shape: tuple[int, ...]) -> Iterator[Float[Tensor, "batch ..."]]:
    """Give `count` times normal numbers of this shape per sample, drawn many at a time in bounded memory."""
    width = max(1, BLOCK_VALUES // math.prod(shape))
    for start in range(0, count, width):
        yield from batch.noise(f"{use}/{start}", min(width, count - start), *shape).unbind(1)


def gaussian(ball: Ball, noise: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch ..."]:
    """Give the noise times the radius, brought into ball and box.

    >>> ball = Ball(norm="inf", radius=torch.full((1,), 0.5), box=(-9.0, 9.0), center=torch.zeros(1, 2))
    >>> gaussian(ball, torch.tensor([[0.2, -3.0]]))
    tensor([[ 0.1000, -0.5000]])
    """
    return ball.project(scaled(noise, ball.radius))


def signs(ball: Ball, noise: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch ..."]:
    """Give the signs of a uniform start, as far as the radius goes; for counts, its places to the ends of their range.

    >>> ball = Ball(norm="inf", radius=torch.full((1,), 0.5), box=(-9.0, 9.0), center=torch.zeros(1, 2))
    >>> signs(ball, torch.tensor([[0.2, -3.0]]))
    tensor([[ 0.5000, -0.5000]])
    """
    start = ball.random_start(noise)
    if ball.norm in COUNTS:
        return ball.project(start.sign() * ball.room.towards(start))
    return ball.stretch(start.sign())


KINDS: dict[Kind, Callable[[Ball, Tensor], Tensor]] = {
    "uniform": Ball.random_start,
    "gaussian": gaussian,
    "signs": signs,
}
