"""L-BFGS-B of SciPy, image by image, as the first VAE attacks were published (Tabacof et al. 2016)."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from scipy.optimize import minimize
from torch import Tensor

from vaerdict.attacks.batch import Batch
from vaerdict.attacks.objectives import Loss, Objective
from vaerdict.attacks.optimisers.common import (
    Ends,
    Optimiser,
    best_of,
    both_finite,
    random_starts,
    starts_after,
    value_and_gradient,
)
from vaerdict.attacks.optimisers.constrained import bounds, penalised, rescaled
from vaerdict.attacks.threat import COUNTS, Ball
from vaerdict.options import require

WORSE = 10.0
"""What a point without a finite loss is worth to the line search: this much below the start, relatively."""


@dataclass(frozen=True, kw_only=True)
class LBFGS:
    """Options of L-BFGS-B; box and L-infinity ball are its bounds, other balls a rescaling inside the loss.

    The host drives it and takes one image at a time, so it is slow: a witness beside the other optimisers.

    Args:
        evaluations: about so many gradients per restart, each of `samples` draws: the last line search is finished.
        restarts: starts, of which the best end is kept per sample.
        memory: corrections kept of the Hessian.
        factr: stops where the loss changes by less than this many units of rounding in the images' type.
        pgtol: stops where the projected gradient's largest entry is below this.
        samples: noise draws over which a random loss is averaged, the same in the whole climb: a line search needs a
            loss that holds still.
        penalty: `C` in the loss less `C |delta|_2^2`; for the published penalised form, attack at a radius that holds
            the whole box.
        start: where random starts lie, as a share of the radius. A loss whose gradient is zero at the clean image
            (`MaximumDamage` of mean reconstructions) never leaves 0, and gives way slowly near it.
        first: optimiser whose end is the first restart's start; random by default, like all others.
        batch_size: images handled at once.

    >>> LBFGS(start=1e-8).name
    'lbfgs'
    """

    evaluations: int = 200
    restarts: int = 2
    memory: int = 25
    factr: float = 10.0
    pgtol: float = 1e-5
    samples: int = 8
    penalty: float = 0.0
    start: float = 1.0
    first: Optimiser | None = None
    batch_size: int = 256

    def __post_init__(self) -> None:
        for name in ("evaluations", "restarts", "memory", "samples", "batch_size"):
            require(getattr(self, name) >= 1, f"`{name}` >= 1", getattr(self, name))
        for name in ("factr", "pgtol", "penalty"):
            value = getattr(self, name)
            require(math.isfinite(value) and value >= 0, f"a finite `{name}` >= 0", value)
        require(0 <= self.start <= 1, "`start` in [0, 1]", self.start)

    @property
    def name(self) -> str:
        """The beginning of the method's name in the results."""
        return "lbfgs"

    def search(self, batch: Batch, objective: Objective, ball: Ball, use: str) -> Ends:
        """Give the best of several climbs per sample, and which samples had a finite loss and gradient at all."""
        require(ball.norm not in COUNTS, "a `norm` other than a count for L-BFGS-B", repr(ball.norm))
        draws = objective.draws(batch.question)

        def climb(here: str, start: Tensor, held_out: Tensor) -> Ends:
            noise = batch.noise(f"{here}/steps", self.samples if draws else 1, draws, batch.vae.latent)
            ends = torch.zeros_like(start)
            sane = torch.zeros(len(start), dtype=torch.bool, device=start.device)
            for i in range(len(start)):
                only = torch.arange(len(start), device=start.device) == i
                one, part, ids = ball.select(only), objective.part(slice(i, i + 1)), batch.sample_ids[i : i + 1]
                # Encoded alone: what the batch knows of it was rounded by the batch, and a line search magnifies that.
                alone = Batch.of(batch.vae, batch.images[i : i + 1], batch.question, batch.seed, ids)
                loss = penalised(part.loss(alone), one, self.penalty)
                ends[i : i + 1], sane[i] = _climb(loss, one, start[only], noise[only], self)
            return ends, sane

        loss = penalised(objective.loss(batch), ball, self.penalty)
        starts = starts_after(
            self.first, batch, objective, ball, use, random_starts(batch, ball, use, self.restarts, self.start)
        )
        return best_of(batch, loss, draws, ball, use, starts, climb)


def _climb(
    loss: Loss,
    ball: Ball,
    start: Float[Tensor, "1 ..."],
    noise: Float[Tensor, "1 samples draws latent"],
    options: LBFGS,
) -> tuple[Float[Tensor, "1 ..."], bool]:
    """Run SciPy's minimiser on minus the loss of one image, and give the best point that it looked at."""
    valley = _Valley(loss, ball, start, noise)
    low, high = (side.flatten().double().cpu().numpy() for side in bounds(ball))
    minimize(
        valley.descend,
        np.clip(start.flatten().double().cpu().numpy(), low, high),
        jac=True,
        method="L-BFGS-B",
        bounds=np.stack([low, high], axis=1),
        options={
            "maxcor": options.memory,
            "ftol": options.factr * torch.finfo(start.dtype).eps,
            "gtol": options.pgtol,
            "maxfun": options.evaluations,
            "maxiter": options.evaluations,
        },
    )
    return ball.project(rescaled(ball, valley.best)), valley.sane


class _Valley:
    """Minus the mean loss of one image, as SciPy wants it; remembers the best point."""

    def __init__(self, loss: Loss, ball: Ball, start: Tensor, noise: Tensor) -> None:
        self.loss, self.ball, self.noise = loss, ball, noise
        self.best, self.least, self.first = start, math.inf, 0.0
        self.sane = False

    def descend(self, point: np.ndarray) -> tuple[float, np.ndarray]:
        """Give the value and gradient at a point; one that is not finite is worth little, so that a step shrinks."""
        # A copy: SciPy keeps the array, and the best point is remembered.
        delta = torch.tensor(point, dtype=self.best.dtype, device=self.best.device).reshape(self.best.shape)
        value, gradient = value_and_gradient(self._mean, delta)
        if not bool(both_finite(value, gradient)):
            return self.first + WORSE * (1 + abs(self.first)), np.zeros_like(point)
        height = -float(value)
        self.first, self.sane = (self.first if self.sane else height), True
        if height < self.least:
            self.best, self.least = delta, height
        return height, -gradient.flatten().double().cpu().numpy()

    def _mean(self, delta: Tensor) -> Tensor:
        images = self.ball.center + rescaled(self.ball, delta)
        return torch.stack([self.loss(images, self.noise[:, k]) for k in range(self.noise.shape[1])]).mean(0)
