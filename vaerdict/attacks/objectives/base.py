"""What most objectives share: those that hold nothing per image, and those with one target image each."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor

from vaerdict.attacks.objectives.protocol import Objective
from vaerdict.attacks.question import Question
from vaerdict.options import require
from vaerdict.results import array_sha256
from vaerdict.vae import check_images


class Uniform(ABC):
    """An objective that is the same for every image; as it stands, one of posteriors, which needs no draws."""

    departs: ClassVar[bool] = False
    """Whether the farther from the clean image the better, so that the best perturbation is as large as allowed."""

    @property
    @abstractmethod
    def name(self) -> str:
        """The end of the method's name in the results."""

    def check(self, vae: Any, images: Tensor) -> None:  # noqa: B027  # most fit any images
        """Accept any images."""

    def part(self, chunk: slice) -> Objective:
        """Give the same objective: it holds nothing per image."""
        return self  # type: ignore[return-value]  # those that inherit have a loss

    def describe(self, index: int) -> dict[str, Any]:
        """Give the objective's name."""
        return {"objective": self.name}

    def draws(self, question: Question) -> int:
        """Give zero: posteriors are compared, not draws from them."""
        return 0


@dataclass(frozen=True, eq=False)
class Targeted(Uniform):
    """An objective with one target per attacked image, of the same shape."""

    target_images: Float[Tensor, "batch ..."]

    def check(self, vae: Any, images: Tensor) -> None:
        """Refuse targets that the model was not made for, or that are not one per image."""
        check_targets(vae, images, self.target_images)

    def part(self, chunk: slice) -> Objective:
        """Give the objective with the targets of a chunk of the images."""
        return replace(self, target_images=self.target_images[chunk])  # type: ignore[return-value]

    def describe(self, index: int) -> dict[str, Any]:
        """Give the objective's name and the target's SHA-256."""
        return {"objective": self.name, "target_sha256": target_sha256(self.target_images, index)}


def check_targets(vae: Any, images: Tensor, targets: Tensor) -> None:
    """Refuse targets that the model was not made for, or that are not one per image.

    Raises:
        ValueError: the shape is not that of the images; a pixel is not finite or lies outside the model's range.
    """
    shape = tuple(targets.shape)
    require(shape == tuple(images.shape), f"`target_images` of shape {tuple(images.shape)}", shape)
    check_images(vae, targets.detach())


def target_sha256(targets: Tensor, index: int) -> str:
    """Give the SHA-256 of one target image."""
    return array_sha256(targets[index].detach().cpu().numpy())
