"""Structural similarity of images at several scales (Wang, Simoncelli and Bovik 2003), per image and for small ones."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
WINDOW, WINDOW_STD = 11, 1.5
K1, K2 = 0.01, 0.03
LEAST = 1e-6
"""Least factor among several scales: the power of a negative one does not exist, that of zero has no finite slope."""


def scale_count(height: int, width: int) -> int:
    """Give the number of scales, at most five: as many as leave the window its full size, and one for small images.

    >>> scale_count(8, 8), scale_count(28, 28), scale_count(64, 64), scale_count(256, 256)
    (1, 2, 3, 5)
    """
    return max(1, sum(min(height, width) // 2**k >= WINDOW for k in range(len(WEIGHTS))))


def window(side: int) -> list[float]:
    """Give the Gaussian window's weights: 11 wide, or as wide as odd numbers allow in a smaller image, same shape.

    >>> len(window(28)), len(window(8)), round(sum(window(8)), 12)
    (11, 7, 1.0)
    """
    size = min(WINDOW, side - 1 + side % 2)
    places = torch.arange(size, dtype=torch.float64) - (size - 1) / 2
    weights = (-(places / (WINDOW_STD * size / WINDOW)).square() / 2).exp()
    return (weights / weights.sum()).tolist()


@dataclass(frozen=True)
class MultiScale:
    """The similarity, at most 1, of two batches of images `[B, C, H, W]`.

    Windows that would leave the image are left out; between scales, 2 by 2 pixels are averaged. Where there are fewer
    than five scales, the weights of the finest are scaled to sum to 1; a single one is plain structural similarity and
    may be negative. Channels are compared one by one, and averaged.

    Args:
        kernel: the window's weights along one side.
        weights: the exponent of each scale.
        span: the pixels' range, greatest less least.

    >>> image = torch.rand(2, 1, 16, 16)
    >>> bool((MultiScale.of(image, (0.0, 1.0))(image, image) > 0.999).all())
    True
    """

    kernel: Float[Tensor, " size"]
    weights: tuple[float, ...]
    span: float

    @classmethod
    def of(cls, like: Float[Tensor, "batch channel height width"], pixel_range: tuple[float, float]) -> "MultiScale":
        """Give the similarity for images such as `like`, on their device and in their type."""
        height, width = like.shape[2:]
        weights = WEIGHTS[: scale_count(height, width)]
        return cls(
            kernel=torch.tensor(window(min(height, width)), dtype=like.dtype, device=like.device),
            weights=tuple(weight / sum(weights) for weight in weights),
            span=pixel_range[1] - pixel_range[0],
        )

    def __call__(
        self, one: Float[Tensor, "batch channel height width"], other: Float[Tensor, "batch channel height width"]
    ) -> Float[Tensor, " batch"]:
        """Compare structure and contrast at every scale, luminance at the coarsest."""
        similarity = one.new_ones(one.shape[:2])
        last = len(self.weights) - 1
        for scale, weight in enumerate(self.weights):
            if scale:
                one, other = functional.avg_pool2d(one, 2), functional.avg_pool2d(other, 2)
            luminance, structure = self._terms(one, other)
            factor = (luminance * structure if scale == last else structure).mean((2, 3))
            similarity = similarity * (factor.clamp_min(LEAST) ** weight if last else factor)
        return similarity.mean(1)

    def _terms(self, one: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
        """Give luminance, and contrast times structure, at every place of the window."""
        mean, other_mean = self._average(one), self._average(other)
        variance = self._average(one.square()) - mean.square()
        other_variance = self._average(other.square()) - other_mean.square()
        covariance = self._average(one * other) - mean * other_mean
        c1, c2 = (K1 * self.span) ** 2, (K2 * self.span) ** 2
        luminance = (2 * mean * other_mean + c1) / (mean.square() + other_mean.square() + c1)
        return luminance, (2 * covariance + c2) / (variance + other_variance + c2)

    def _average(self, images: Tensor) -> Tensor:
        """Take the window's weighted mean, row by row and column by column."""
        channels = images.shape[1]
        across = self.kernel.expand(channels, 1, 1, -1)
        down = self.kernel[:, None].expand(channels, 1, -1, 1)
        return functional.conv2d(functional.conv2d(images, across, groups=channels), down, groups=channels)
