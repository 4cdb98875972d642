"""Objectives on reconstructions: as far from the clean one as possible, or as near to a target."""

from dataclasses import dataclass
from typing import Any, ClassVar, get_args

from torch import Tensor

from vaerdict.attacks.batch import Batch
from vaerdict.attacks.objectives import reconstruct
from vaerdict.attacks.objectives.base import Targeted, Uniform
from vaerdict.attacks.objectives.measures import Measure, check_measure, distance
from vaerdict.attacks.objectives.protocol import Loss
from vaerdict.attacks.question import Question
from vaerdict.options import require


@dataclass(frozen=True)
class MaximumDamage(Uniform):
    """Maximise the distance between reconstructions (THEORY 8; Camuto et al., AISTATS 2021).

    For `reconstruction="mean"` the gradient at the clean image is exactly zero, so the search must start elsewhere.
    Whatever the measure, the judge decides by the L2 distance.

    Args:
        measure: "l2", the squared distance `|Delta|^2` (the distance itself has no gradient at zero); "linf", the
            largest change of a pixel; "ms-ssim", one minus the structural similarity at several scales; "lpips", the
            perceptual distance of the package of that name.

    >>> MaximumDamage().name, MaximumDamage("linf").name
    ('damage', 'damage-linf')
    """

    departs: ClassVar[bool] = True
    measure: Measure = "l2"

    def __post_init__(self) -> None:
        known = get_args(Measure)
        require(self.measure in known, f"`measure` in {known}", repr(self.measure))

    @property
    def name(self) -> str:
        """The end of the method's name in the results."""
        return "damage" if self.measure == "l2" else f"damage-{self.measure}"

    def check(self, vae: Any, images: Tensor) -> None:
        """Refuse images that the measure is not made for."""
        check_measure(self.measure, tuple(vae.input_shape))

    def draws(self, question: Question) -> int:
        """Give as many draws as the reconstruction change needs."""
        return question.draws

    def loss(self, batch: Batch) -> Loss:
        """Give the distance, for "l2" `|Delta|^2` in squared pixel units."""
        if self.measure == "l2":
            return lambda images, noise: batch.squared_change(batch.vae.encode(images), noise.unsqueeze(1)).squeeze(1)
        between = distance(self.measure, batch.anchor, batch.vae.input_range)
        return lambda images, noise: between(
            reconstruct.attacked(batch, images, noise), reconstruct.clean(batch, noise)
        )


@dataclass(frozen=True, eq=False)
class ReconstructionTarget(Targeted):
    """Bring the reconstruction to a target image: minimise `|g(z') - x_target|^2` (Gondim-Ribeiro et al. 2018).

    The reconstruction is the question's: of a draw, or of the posterior mean.

    Args:
        target_images: one target per attacked image, of the same shape.

    >>> import torch
    >>> ReconstructionTarget(torch.zeros(1, 1, 8, 8)).name
    'target'
    """

    @property
    def name(self) -> str:
        """The end of the method's name in the results."""
        return "target"

    def draws(self, question: Question) -> int:
        """Give one draw where the question's reconstruction is random; the target needs none."""
        return min(1, question.draws)

    def loss(self, batch: Batch) -> Loss:
        """Give minus the squared distance to the target, in squared pixel units."""
        target = self.target_images.to(batch.images)
        return lambda images, noise: -(reconstruct.attacked(batch, images, noise) - target).square().flatten(1).sum(1)
