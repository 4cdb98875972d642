"""Ready-made purifications: blur, fewer grey levels, smaller total variation. All can be attacked by gradients."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from vaerdict.models.defences.counts import require_count
from vaerdict.options import require

REACH = 3
"""Standard deviations after which the blur's weights end."""


class GaussianBlur(nn.Module):
    """Replace each pixel by a Gaussian average around it; the border's pixels are repeated outwards.

    Args:
        std: of the weights, in pixels' widths.

    >>> GaussianBlur(std=1.0)(torch.ones(1, 1, 8, 8)).round(decimals=4).unique()
    tensor([1.])
    """

    def __init__(self, *, std: float) -> None:
        super().__init__()
        require(0 < std < math.inf, "a finite `std` > 0", std)
        self.std, self.name = std, "blur"
        self.reach = math.ceil(REACH * std)

    def forward(self, images: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch ..."]:
        """Blur the columns, then the rows.

        Raises:
            ValueError: the images are not `[B, C, H, W]`.
        """
        _require_planes(images)
        places = torch.arange(-self.reach, self.reach + 1, dtype=images.dtype, device=images.device)
        weights = torch.softmax(-(places / self.std).square() / 2, dim=0)
        channels = images.shape[1]
        padded = functional.pad(images, (self.reach,) * 4, mode="replicate")
        down = functional.conv2d(padded, weights[:, None].expand(channels, 1, -1, 1), groups=channels)
        return functional.conv2d(down, weights.expand(channels, 1, 1, -1), groups=channels)

    def extra_repr(self) -> str:
        """Show the options: they are part of the fingerprint."""
        return f"std={self.std!r}"


class Quantise(nn.Module):
    """Round pixels to a few levels; the gradient passes straight through, as if nothing were rounded.

    Rounding itself has the gradient zero, which would hide the model from attacks without protecting it (backward pass
    differentiable approximation, Athalye et al. 2018).

    Args:
        levels: how many values a pixel may take, ends included.
        input_range: the least and the greatest.

    >>> Quantise(levels=3)(torch.tensor([0.2, 0.3, 0.9]))
    tensor([0.0000, 0.5000, 1.0000])
    """

    def __init__(self, *, levels: int, input_range: tuple[float, float] = (0.0, 1.0)) -> None:
        super().__init__()
        require_count("levels", levels, 2)
        require(input_range[0] < input_range[1], "an increasing `input_range`", input_range)
        self.levels, self.input_range, self.name = levels, input_range, f"quantise-{levels}"

    def forward(self, images: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Round to the nearest level."""
        low, high = self.input_range
        step = (high - low) / (self.levels - 1)
        rounded = (low + ((images - low) / step).round() * step).clamp(low, high)
        # The sum's second part is exactly zero, with the gradient of the images.
        return rounded.detach() + (images - images.detach())

    def extra_repr(self) -> str:
        """Show the options: they are part of the fingerprint."""
        return f"levels={self.levels}, input_range={self.input_range}"


class TotalVariation(nn.Module):
    """Descend from the image towards less total variation nearby: `1/2 |y - x|^2 + weight TV(y)` (Rudin et al. 1992).

    `TV` sums the lengths `sqrt(dx^2 + dy^2 + smoothing^2)` of the differences to the right and downwards. The step,
    `1 / (1 + 8 weight / smoothing)`, is so short that every one of them lowers the sum and no pixel leaves the range
    of the image.

    Args:
        weight: of the total variation, in pixel units.
        smoothing: length of a difference below which the variation is nearly quadratic, in pixel units.
        steps: of gradient descent.

    >>> TotalVariation(weight=0.1)(torch.ones(1, 1, 4, 4)).unique()
    tensor([1.])
    """

    def __init__(self, *, weight: float, smoothing: float = 0.05, steps: int = 20) -> None:
        super().__init__()
        for name, value in (("weight", weight), ("smoothing", smoothing)):
            require(0 < value < math.inf, f"a finite `{name}` > 0", value)
        require_count("steps", steps)
        self.weight, self.smoothing, self.steps, self.name = weight, smoothing, steps, "tv"

    def forward(self, images: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch ..."]:
        """Take all steps.

        Raises:
            ValueError: the images are not `[B, C, H, W]`.
        """
        _require_planes(images)
        step = 1 / (1 + 8 * self.weight / self.smoothing)
        smooth = images
        for _ in range(self.steps):
            smooth = smooth - step * (smooth - images + self.weight * self.slope(smooth))
        return smooth

    def slope(self, images: Float[Tensor, "batch channel height width"]) -> Float[Tensor, "batch channel h w"]:
        """Give the total variation's gradient."""
        right = functional.pad(images.diff(dim=3), (0, 1))
        down = functional.pad(images.diff(dim=2), (0, 0, 0, 1))
        length = (right.square() + down.square() + self.smoothing**2).sqrt()
        right, down = right / length, down / length
        # A difference pulls at its two ends in opposite directions.
        return functional.pad(right, (1, 0)).diff(dim=3).neg() + functional.pad(down, (0, 0, 1, 0)).diff(dim=2).neg()

    def extra_repr(self) -> str:
        """Show the options: they are part of the fingerprint."""
        return f"weight={self.weight!r}, smoothing={self.smoothing!r}, steps={self.steps}"


def _require_planes(images: Tensor) -> None:
    require(images.dim() == 4, "images of shape [B, C, H, W]", tuple(images.shape))
