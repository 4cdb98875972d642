"""What the optimisers need of an objective: a small frozen object that turns a batch into a differentiable loss."""

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from vaerdict.attacks.batch import Batch
from vaerdict.attacks.question import Question

Loss = Callable[[Tensor, Tensor], Tensor]
"""From images `[B, ...]` and noise `[B, draws, latent]` to losses `[B]`, each of its own image only."""


@runtime_checkable
class Objective(Protocol):
    """What the optimisers need of an objective."""

    @property
    def name(self) -> str:
        """The end of the method's name in the results."""
        ...

    def check(self, vae: Any, images: Tensor) -> None:
        """Refuse an objective that does not fit the images."""
        ...

    def part(self, chunk: slice) -> "Objective":
        """Give the objective of a chunk of the images."""
        ...

    def describe(self, index: int) -> dict[str, Any]:
        """Give what a checker needs to know of the objective of one image."""
        ...

    def draws(self, question: Question) -> int:
        """Give how many latent draws one value of the loss needs."""
        ...

    def loss(self, batch: Batch) -> Loss:
        """Give the loss to maximise."""
        ...
