"""Any function as an objective, as long as it keeps images apart."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from vaerdict.attacks.batch import Batch
from vaerdict.attacks.objectives.independent import check_independent
from vaerdict.attacks.objectives.protocol import Loss
from vaerdict.attacks.question import Question
from vaerdict.options import require


@dataclass(frozen=True)
class Custom:
    """Maximise any function of the attacked images.

    What belongs to one image each, such as a target, does not fit in here, since images come in chunks: write a class
    with the methods of `Objective`, as `ReconstructionTarget` is.

    Args:
        function: from a model (`encode`, `decode`, `input_shape`, `input_range`, `latent`), images `[B, *input_shape]`
            and noise `[B, draws, latent]` to losses `[B]` that can be differentiated, each of its own image only.
        name: the end of the method's name in the results: letters, digits and `_ . + -`.
        draws_needed: independent standard normal draws of the latent's size that one value needs.

    >>> bright = Custom(lambda vae, images, noise: images.flatten(1).sum(1), "bright")
    >>> bright.describe(0)["objective"]
    'bright'
    """

    function: Callable[[Any, Tensor, Tensor], Tensor]
    name: str
    draws_needed: int = 0

    def __post_init__(self) -> None:
        fits = re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.+-]*", self.name) is not None
        require(fits, "a `name` of letters, digits and _ . + -", repr(self.name))
        require(self.draws_needed >= 0, "`draws_needed` >= 0", self.draws_needed)

    def check(self, vae: Any, images: Tensor) -> None:
        """Refuse a function whose losses are not one per image, or in which an image's loss depends on another."""
        check_independent(f"losses of {self.name!r}", self.function, vae, images[:1], self.draws_needed)

    def part(self, chunk: slice) -> "Custom":
        """Give the same objective: it holds nothing per image."""
        return self

    def describe(self, index: int) -> dict[str, Any]:
        """Give the objective's name and the function's."""
        return {"objective": self.name, "function": name_of(self.function)}

    def draws(self, question: Question) -> int:
        """Give as many draws as the function was said to need."""
        return self.draws_needed

    def loss(self, batch: Batch) -> Loss:
        """Give the function on the batch's model."""
        return lambda images, noise: self.function(batch.vae, images, noise)


def name_of(function: Any) -> str:
    """Give the dotted name of a function, or of an object's class.

    >>> name_of(name_of)
    'vaerdict.attacks.objectives.custom.name_of'
    """
    named = function if hasattr(function, "__qualname__") else type(function)
    return f"{named.__module__}.{named.__qualname__}"
