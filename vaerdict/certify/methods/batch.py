"""What a certificate may look at, what it gives, and when it applies."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import repeat
from typing import Any, Literal

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from vaerdict.certify.model import ModelBounds
from vaerdict.certify.movement import Movement, measure_movement
from vaerdict.certify.rounding import rounded_up
from vaerdict.lipschitz import LipschitzBound
from vaerdict.options import CertifyOptions
from vaerdict.results import canonical_json
from vaerdict.vae import Posterior

Strength = Literal["proved", "numerical", "statistical", "empirical"]

_LEAST = 1e-30  # a constant of 0 is replaced by this larger one, so that nothing is divided by 0
_UNIT32 = 2.0**-24
_TAIL = 8.0  # of 1e-14: `|e| <= sqrt(d) + 8` but for that, which `CDF_SLACK` holds


@dataclass(frozen=True, kw_only=True)
class Batch:
    """A model with what is known of it, some images with their posteriors, and the question.

    `confidence` is that of each statistical statement; those of one image share the one in the options.
    """

    model: ModelBounds
    images: Float[Tensor, "batch ..."]
    posterior: Posterior
    r: float
    p: float
    confidence: float
    seed: int
    sample_ids: Sequence[int]

    @property
    def options(self) -> CertifyOptions:
        """Give the options of the certificates."""
        return self.model.options

    @property
    def anchored(self) -> bool:
        """Whether a sample is compared with the clean mean's reconstruction."""
        return self.options.reconstruction == "anchored"

    @property
    def std(self) -> Float64[Tensor, "batch latent"]:
        """Give the posterior standard deviations in float64."""
        return self.posterior.std.double()

    @property
    def a(self) -> float:
        """Give the decoder's Lipschitz constant; infinite where there is none."""
        return number(self.model.sensitivity.decoder)

    @property
    def b(self) -> float:
        """Give the mean's Lipschitz constant; infinite where there is none."""
        return number(self.model.sensitivity.mean)

    @cached_property
    def movement(self) -> Movement:
        """Bound how far the posteriors can move."""
        seam = self.model.seam
        farther = 0.0 if isinstance(seam, str) else self.r / seam.a / max(seam.b, _LEAST)
        return measure_movement(
            self.model, self.images, self.posterior, self.r / self.a, self.options.norm, farther=farther
        )

    @cached_property
    def proved_movement(self) -> Movement:
        """Give the movement by what is proved here alone."""
        return self.movement.trusted()

    @cached_property
    def decoder_rounding(self) -> Float64[Tensor, " batch"]:
        """Bound the error of a reconstruction that matters to certificates by the decoder's Lipschitz constant.

        They count moved latents only where these are within `r/a` of unmoved ones.
        """
        return self.decoder_error(torch.full_like(self.std[:, 0], self.r / self.a))

    def decoder_error(self, farther: Float64[Tensor, " batch"]) -> Float64[Tensor, " batch"]:
        """Bound the error of reconstructions of latents that are at most so much farther out than unmoved samples.

        The rounding of the latents themselves is included: of `mean + std * noise`, in the dtype of the images.
        """
        noise = self.std.amax(1) * (math.sqrt(self.std.shape[1]) + _TAIL)
        norms = rounded_up(self.posterior.mean.double().norm(dim=1) + farther + noise)
        unit = _UNIT32 if self.images.dtype == torch.float32 else _UNIT32**2
        return self.model.decoder_rounding.at(norms) + 4 * unit * self.a * norms

    @property
    def t(self) -> Float64[Tensor, " batch"]:
        """Give the latent distance that the decoder is sure to turn into less than `r`, as it is evaluated."""
        return ((self.r - 2 * self.decoder_rounding) / self.a).clamp(min=0.0) * (1 - 2.0**-50)


@dataclass(frozen=True, kw_only=True)
class Margins:
    """Margins of a batch in input units, with what a checker needs and what they cost (evaluations per image)."""

    values: Float64[Tensor, " batch"]
    constants: list[str]
    confidence: float | None = None
    n_forward: int = 1
    n_backward: int = 0
    strengths: list[Strength] | None = None
    """Per image, where it is not the method's own."""
    reasons: list[str] | None = None
    """Per image, why nothing is certified, should its margin be 0."""


@dataclass(frozen=True, kw_only=True)
class Method:
    """One certificate or estimate.

    Attributes:
        kind: what its numbers are.
        strength: how sure they are, at best.
        reason: says why it does not apply to a model (None: it does).
        margins: computes them.
        statistics: which draws its confidence comes from; methods that share them share one statement.
    """

    kind: Literal["certificate", "estimate"]
    strength: Strength
    reason: Callable[[ModelBounds], str | None]
    margins: Callable[[Batch], Margins]
    statistics: str | None = None


def number(bound: LipschitzBound | float | str) -> float:
    """Give a constant as a positive number; infinite where it is a reason."""
    return math.inf if isinstance(bound, str) else max(float(bound), _LEAST)


def per_image(**columns: Tensor | list[Any] | float | None) -> list[str]:
    """Give the constants of each image as canonical JSON; a number is the same for all. What is infinite becomes null.

    >>> per_image(b=2.0, a=torch.tensor([[0.5, math.inf], [1.0, 0.5]]))
    ['{"a":[0.5,null],"b":2.0}', '{"a":[1.0,0.5],"b":2.0}']
    """
    texts = {name: _texts(columns[name]) for name in sorted(columns)}
    form = "{" + ",".join(f'"{name}":%s' for name in texts) + "}"
    count = next(len(column) for column in texts.values() if isinstance(column, list))
    lists = [column if isinstance(column, list) else repeat(column, count) for column in texts.values()]
    return [form % image for image in zip(*lists, strict=True)]


def _texts(column: Tensor | list[Any] | float | None) -> list[str] | str:
    """Write each entry of a column; a number that occurs many times, as most do, is written once."""
    if isinstance(column, list):
        known = {entry: canonical_json(entry) for entry in set(column)}
        return [known[entry] for entry in column]
    if not isinstance(column, Tensor):
        return canonical_json(_finite(column))
    numbers, index = column.unique(return_inverse=True)
    words = canonical_json([_finite(value) for value in numbers.tolist()])[1:-1].split(",")
    if column.ndim == 1:
        return [words[i] for i in index.tolist()]
    return ["[" + ",".join([words[i] for i in row]) + "]" for row in index.tolist()]


def _finite(value: float | None) -> float | None:
    return None if isinstance(value, float) and math.isinf(value) else value


def proved_where_rounded(batch: Batch) -> Strength:
    """Give the strength of a certificate by proved constants: `numerical` where rounding is not bounded."""
    roundings = [batch.model.mean_rounding, batch.model.decoder_rounding]
    if batch.model.vae.std_map is not None:
        roundings.append(batch.model.std_rounding)
    return "proved" if all(one.reason is None for one in roundings) else "numerical"
