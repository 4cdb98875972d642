"""The threat model: which perturbations are allowed."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from vaerdict.attacks.question import Norm


def size(delta: Float[Tensor, "batch ..."], norm: Norm) -> Float[Tensor, " batch"]:
    """Give the norm of each perturbation, in pixel units.

    >>> size(torch.tensor([[3.0, 4.0]]), "2"), size(torch.tensor([[3.0, 4.0]]), "inf")
    (tensor([5.]), tensor([4.]))
    """
    return torch.linalg.vector_norm(delta.flatten(1), ord=float(norm), dim=1)


def scaled(delta: Float[Tensor, "batch ..."], factor: Float[Tensor, " batch"]) -> Float[Tensor, "batch ..."]:
    """Multiply each perturbation by its own factor.

    >>> scaled(torch.ones(2, 1), torch.tensor([2.0, 3.0])).flatten()
    tensor([2., 3.])
    """
    return delta * factor.reshape(-1, *[1] * (delta.dim() - 1))


def where(
    mask: Bool[Tensor, " batch"], one: Float[Tensor, "batch ..."], other: Float[Tensor, "batch ..."]
) -> Float[Tensor, "batch ..."]:
    """Take whole samples from `one` where the mask says so, else from `other`.

    >>> where(torch.tensor([True, False]), torch.ones(2, 1), torch.zeros(2, 1)).flatten()
    tensor([1., 0.])
    """
    return torch.where(mask.reshape(-1, *[1] * (one.dim() - 1)), one, other)


@dataclass(frozen=True, kw_only=True)
class Ball:
    """Perturbations `delta` with `|delta| <= radius` and every pixel of `center + delta` in `box`.

    Args:
        norm: "2" or "inf".
        radius: one radius per image, in pixel units.
        box: least and greatest pixel value; `center` lies within.
        center: the clean images.

    >>> ball = Ball(norm="2", radius=torch.ones(1), box=(-9.0, 9.0), center=torch.zeros(1, 2))
    >>> ball.project(torch.tensor([[3.0, 4.0]]))
    tensor([[0.6000, 0.8000]])
    """

    norm: Norm
    radius: Float[Tensor, " batch"]
    box: tuple[float, float]
    center: Float[Tensor, "batch ..."]

    @classmethod
    def widest(cls, norm: Norm, box: tuple[float, float], center: Tensor) -> "Ball":
        """Give the smallest ball that holds every image in the box: its radius reaches each image's farthest corner."""
        corner = torch.maximum(center - box[0], box[1] - center)
        return cls(norm=norm, radius=size(corner, norm), box=box, center=center)

    def with_radius(self, radius: Float[Tensor, " batch"]) -> "Ball":
        """Give the ball of another radius around the same images."""
        return replace(self, radius=radius)

    def select(self, keep: Bool[Tensor, " batch"]) -> "Ball":
        """Give the ball around the images marked in `keep`."""
        return replace(self, radius=self.radius[keep], center=self.center[keep])

    def project(self, delta: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch ..."]:
        """Bring `delta` into the ball, then into the box; the second step shortens only, so both hold at the end."""
        if self.norm == "inf":
            limit = scaled(torch.ones_like(delta), self.radius)
            inside = torch.minimum(torch.maximum(delta, -limit), limit)
        else:
            inside = scaled(delta, (self.radius / _nonzero(size(delta, self.norm))).clamp_max(1))
        low, high = self.box
        return torch.minimum(torch.maximum(inside, low - self.center), high - self.center)

    def stretch(self, delta: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch ..."]:
        """Rescale `delta` to the ball's surface, then bring it into the box; zero stays zero."""
        return self.project(scaled(delta, self.radius / _nonzero(size(delta, self.norm))))

    def apply(self, delta: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch ..."]:
        """Give the images `center + delta`, in the box and, despite rounding, in the ball.

        The sum moves each pixel by at most half a unit in the last place, so `delta` is first brought into a ball that
        is smaller by as much.
        """
        half_ulp = torch.finfo(delta.dtype).eps / 2 * max(map(abs, self.box))
        pixels = self.center[0].numel()
        slack = half_ulp * (pixels**0.5 if self.norm == "2" else 1.0)
        smaller = self.with_radius((self.radius * (1 - 1e-6) - slack).clamp_min(0))
        return (self.center + smaller.project(delta)).clamp(*self.box)

    def ascent_direction(self, gradient: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch ..."]:
        """Give the steepest direction of unit norm for each gradient: normalised (L2) or its sign; zero stays zero."""
        if self.norm == "inf":
            return gradient.sign()
        # Dividing by the largest entry first: the square of a tiny gradient would vanish.
        gradient = scaled(gradient, 1 / _nonzero(size(gradient, "inf")))
        return scaled(gradient, 1 / _nonzero(size(gradient, "2")))

    def random_start(self, noise: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch ..."]:
        """Turn standard normal noise into starts: uniform on the sphere (L2) or in the cube, folded into the box.

        A pixel that would leave the box goes to the side with more room: cut off, an image in a corner could start at
        zero.
        """
        if self.norm == "2":
            start = scaled(noise, self.radius / _nonzero(size(noise, "2")))
        else:
            start = scaled(torch.erf(noise / 2**0.5), self.radius)
        low, high = self.box
        moved = self.center + start
        roomy = torch.where(high - self.center >= self.center - low, start.abs(), -start.abs())
        return self.project(torch.where((moved < low) | (moved > high), roomy, start))


def _nonzero(lengths: Tensor) -> Tensor:
    return torch.where(lengths > 0, lengths, 1)
