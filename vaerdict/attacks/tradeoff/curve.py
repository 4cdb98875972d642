"""The trade-off of one pair of image and target: how far the input moves for how much of the output, and its area."""

import math
from dataclasses import dataclass
from itertools import pairwise


@dataclass(frozen=True, kw_only=True)
class Tradeoff:
    """What one pair of image and target gave, weight by weight; all lengths are L2, in pixel units.

    A weight whose search never saw a finite loss has NaN in its place.

    Args:
        sample_id: of the image.
        weights: `C`, in the order in which they were asked for.
        distortion: `|delta|` at each weight.
        to_target: from the attacked reconstruction to the target, `|R_a - x_t|`, at each weight.
        to_image: from the attacked reconstruction to the clean image, `|R_a - x|`, at each weight.
        span: `|x - x_t|`.
        clean: from the clean reconstruction to the target, `|R_x - x_t|`.
        least: from the target's reconstruction to the target, `|R_t - x_t|`.

    >>> one = Tradeoff(sample_id=0, weights=(0.0, 1.0), distortion=(1.0, 0.0), to_target=(1.0, 3.0),
    ...                to_image=(2.0, 0.0), span=2.0, clean=3.0, least=1.0)
    >>> one.curve, one.auddc, one.turning_weight
    (((0.0, 1.0), (0.5, 0.0)), 0.25, 0.0)
    """

    sample_id: int
    weights: tuple[float, ...]
    distortion: tuple[float, ...]
    to_target: tuple[float, ...]
    to_image: tuple[float, ...]
    span: float
    clean: float
    least: float

    @property
    def reason(self) -> str:
        """Why there is no curve, and so no area; empty where there is one."""
        if not all(map(math.isfinite, (self.span, self.clean, self.least))):
            return "a clean reconstruction is not finite"
        if self.span == 0:
            return "image and target are the same"
        if self.clean <= self.least:
            return "the clean reconstruction is as near to the target as the target's own"
        return "" if self._points() else "no weight gave a finite result within the distance to the target"

    @property
    def broken(self) -> int:
        """Weights at which the result was not finite; the curve is without them."""
        return sum(not math.isfinite(x + y) for x, y in zip(self.distortion, self.to_target, strict=True))

    @property
    def curve(self) -> tuple[tuple[float, float], ...]:
        """Relative distortions of input and output, `(X, Y)`, by rising `X` up to 1; empty where there is a `reason`.

        `X = |delta| / |x - x_t|`; `Y` is 1 where the reconstruction is as far from the target as the clean one, and 0
        where it is as near as the target's own.
        """
        return () if self.reason else self._points()

    @property
    def auddc(self) -> float:
        """The area under the curve, by trapezoids, with its least `Y` at `X = 1`; higher is more robust.

        As defined by Gondim-Ribeiro et al. (2018); nothing is added on the left of the smallest `X`. NaN without a
        curve, for the `reason` given.
        """
        points = self.curve
        if not points:
            return math.nan
        points = (*points, (1.0, min(y for _, y in points)))
        return sum((right - left) * (one + two) / 2 for (left, one), (right, two) in pairwise(points))

    @property
    def turning_weight(self) -> float | None:
        """The largest weight whose reconstruction is nearer to the target than to the image (Tabacof et al. 2016)."""
        nearer = zip(self.weights, self.to_target, self.to_image, strict=True)
        return max((weight for weight, target, image in nearer if target < image), default=None)

    def _points(self) -> tuple[tuple[float, float], ...]:
        pairs = zip(self.distortion, self.to_target, strict=True)
        points = [(moved / self.span, (left - self.least) / (self.clean - self.least)) for moved, left in pairs]
        return tuple(sorted((x, y) for x, y in points if math.isfinite(y) and 0 <= x <= 1))
