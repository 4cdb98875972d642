"""The maximum norm: a cube, whose projection is exact, sign steps, uniform starts."""

import torch
from jaxtyping import Float
from torch import Tensor

from vaerdict.attacks.threat.samples import Room, scaled


class Linf:
    """`|delta|_inf`, the largest absolute value.

    >>> Linf().size(torch.tensor([[3.0, -4.0]]))
    tensor([4.])
    """

    counts = False

    def size(self, delta: Float[Tensor, "batch ..."]) -> Float[Tensor, " batch"]:
        """Give the largest absolute value."""
        return delta.flatten(1).abs().amax(1)

    def project(
        self, delta: Float[Tensor, "batch ..."], radius: Float[Tensor, " batch"], room: Room
    ) -> Float[Tensor, "batch ..."]:
        """Give the nearest point of ball and room together."""
        limit = scaled(torch.ones_like(delta), radius)
        return room.clamp(torch.minimum(torch.maximum(delta, -limit), limit))

    def direction(
        self,
        gradient: Float[Tensor, "batch ..."],
        radius: Float[Tensor, " batch"],
        room: Room,
        spread: Float[Tensor, " batch"] | None,
    ) -> Float[Tensor, "batch ..."]:
        """Give the gradient's signs."""
        return gradient.sign()

    def start(self, noise: Float[Tensor, "batch ..."], radius: Float[Tensor, " batch"], room: Room) -> Tensor:
        """Turn standard normal noise into points that are uniform in the cube."""
        return scaled(torch.erf(noise / 2**0.5), radius)

    def slack(self, delta: Float[Tensor, "batch ..."], half_ulp: float) -> float:
        """Bound what rounding `center + delta` adds to the norm."""
        return half_ulp
