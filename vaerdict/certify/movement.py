"""All that is known of how some images' posteriors move: means, coordinates, standard deviations (THEORY 2)."""

import math
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor, nn

from vaerdict.certify.jacobian import largest_singular_values, mean_jacobians
from vaerdict.certify.model import ModelBounds
from vaerdict.certify.propagation import BoundedMap
from vaerdict.certify.propagation.reach import largest_gap
from vaerdict.certify.reach import Change, Source, box_source, slope_source
from vaerdict.certify.rounding import ChangeError, Rounding, measured_error
from vaerdict.lipschitz import NoSoundBound, bound_local_changes
from vaerdict.lipschitz.chains.ellipsoids import bound_norms
from vaerdict.lipschitz.chains.roundoff import bound_local_rounding
from vaerdict.options import Norm
from vaerdict.vae import Posterior

SHARES = (0.15, 0.25, 0.36, 0.48, 0.6, 0.72, 0.86, 1.0)
"""Radii of the balls of local bounds, as shares of the largest at which a certificate can hold."""

MOST_SHIFT = 8.0
"""In standard deviations at the Jacobian's slope: balls on which movement is bounded end here. Few draws show more."""

RATIO = 1.25
"""Boxes are made for radii that are powers of this, so that an image's boxes do not depend on its batch."""

_GAIN = 0.95  # no local bound where the Jacobian shows that it cannot fall below this share of the global one
_MOST_LATENTS = 64  # one backward pass each
_UP = 1 + 2.0**-40
_LEAST = 1e-12  # radius, in input units


@dataclass(frozen=True)
class Ellipsoids:
    """What holds the posterior means' moves `m`, in unmoved standard deviations.

    Attributes:
        radii: of balls of inputs, increasing, in input units.
        shapes: `V` with `m m^T <= V rho^2` within `rho`, for every `rho` up to each radius, but for rounding.
    """

    radii: Float64[Tensor, "batch balls"]
    shapes: Float64[Tensor, "batch balls latent latent"]


@dataclass(frozen=True, kw_only=True)
class Movement:
    """How far the posteriors of a batch can move when inputs move by up to `rho`, rounding included.

    Attributes:
        limit: largest radius of which anything is claimed, in input units.
        to_l2: `k` with `|delta|_2 <= k |delta|` in the norm asked for.
        std: the unmoved standard deviations, as evaluated.
        mean: bounds `|mu(x + delta) - mu(x)|`.
        whitened: bounds the same, each coordinate divided by its unmoved standard deviation.
        coordinates: bounds `|mu_i(x + delta) - mu_i(x)|`.
        std_change: bounds `|sigma_i(x + delta) - sigma_i(x)|`.
        log_std_change: bounds `|ln sigma_i(x + delta) - ln sigma_i(x)|`.
        ellipsoids: what holds the whitened change; None with too many latents.
    """

    limit: Float64[Tensor, " batch"]
    to_l2: float
    std: Float64[Tensor, "batch latent"]
    mean: Change
    whitened: Change
    coordinates: Change
    std_change: Change
    log_std_change: Change
    ellipsoids: Ellipsoids | None

    def trusted(self) -> "Movement":
        """Leave out what is not proved here."""
        changes = ("mean", "whitened", "coordinates", "std_change", "log_std_change")
        return replace(self, **{name: getattr(self, name).trusted() for name in changes})

    def std_range(
        self, rho: Float64[Tensor, " batch"]
    ) -> tuple[Float64[Tensor, "batch latent"], Float64[Tensor, "batch latent"]]:
        """Bound the standard deviations of inputs moved by up to `rho`, from below (at least 0) and from above."""
        change, factor = self.std_change.at(rho), self.log_std_change.at(rho).exp()
        low = torch.maximum(self.std - change, self.std / factor / _UP).clamp(min=0.0)
        return low, torch.minimum(self.std + change, self.std * factor * _UP)


def measure_movement(
    model: ModelBounds,
    images: Float[Tensor, "batch ..."],
    posterior: Posterior,
    reach: float,
    norm: Norm,
    farther: float = 0.0,
) -> Movement:
    """Bound the movement of some posteriors in every way there is.

    Args:
        model: what is known of the model.
        images: in pixel units.
        posterior: of the images, as evaluated.
        reach: largest latent distance at which a certificate that knows only the decoder's constant can hold.
        norm: of the input change.
        farther: largest L2 radius at which any other certificate can hold.
    """
    return _Measurement(model, images, posterior, reach, norm, farther).movement()


@dataclass(frozen=True)
class _Measurement:
    model: ModelBounds
    images: Float[Tensor, "batch ..."]
    posterior: Posterior
    reach: float
    norm: Norm
    farther: float

    def movement(self) -> Movement:
        means = self._mean_sources()
        std_change, log_std_change = self._std_changes()
        off = self._rounding(self.model.vae.mean_map, self.model.mean_rounding, self.posterior.mean, self.gains)
        return Movement(
            limit=self.limit,
            to_l2=self.to_l2,
            std=self.std,
            mean=Change(sources=means[0], rounding=off.norm()),
            whitened=Change(sources=means[1], rounding=off.norm(self.std)),
            coordinates=Change(sources=means[2], rounding=off.norm(order=math.inf)),
            std_change=std_change,
            log_std_change=log_std_change,
            ellipsoids=self._ellipsoids(),
        )

    @cached_property
    def std(self) -> Float64[Tensor, "batch latent"]:
        return self.posterior.std.double()

    @cached_property
    def wide(self) -> Float64[Tensor, "batch ..."]:
        return self.images.double()

    @cached_property
    def to_l2(self) -> float:
        """Give `k` with `|delta|_2 <= k |delta|` in the norm asked for."""
        return math.sqrt(self.images[0].numel()) * _UP if self.norm == "inf" else 1.0

    @cached_property
    def b(self) -> float:
        bound = self.model.sensitivity.mean
        return math.inf if isinstance(bound, str) else max(float(bound), 1e-30)

    @cached_property
    def slopes(self) -> tuple[Float64[Tensor, " batch"], Float64[Tensor, " batch"]]:
        """Give slopes that no bound used here is below, per L2 unit: of the mean and of the whitened mean."""
        only_global = not (self.model.options.local or self.model.options.propagation)
        if only_global or self.std.shape[1] > _MOST_LATENTS:
            return torch.full_like(self.std[:, 0], self.b), self.b / self.std.amin(1)
        jacobians = mean_jacobians(self.model.vae, self.images)
        whitened = jacobians / self.std.to(jacobians).unsqueeze(2)
        return largest_singular_values(jacobians), largest_singular_values(whitened)

    @cached_property
    def limit(self) -> Float64[Tensor, " batch"]:
        """Give the radius beyond which nothing holds, or nothing matters: no two images are farther apart."""
        low, high = self.model.vae.input_range
        widest = (high - low) * math.sqrt(self.images[0].numel())
        plain, whitened = self.slopes
        farthest = torch.maximum(self.reach / plain, MOST_SHIFT / whitened).nan_to_num(widest).clamp(min=self.farther)
        rounded = (farthest.clamp(min=_LEAST, max=widest).log2() * 16).ceil().div(16).exp2()  # the same in any batch
        return rounded * 1.001 / self.to_l2

    @cached_property
    def radii(self) -> Float64[Tensor, "batch balls"]:
        return self.limit[:, None] * self.limit.new_tensor(SHARES)

    def _everywhere(self, slopes: Tensor) -> Source:
        return slope_source("global", self.limit[:, None], slopes.unsqueeze(1) * self.to_l2)

    def _mean_sources(self) -> tuple[list[Source], list[Source], list[Source]]:
        anywhere = torch.full_like(self.limit, self.b)
        sources = (
            [self._everywhere(anywhere)],
            [self._everywhere(anywhere / self.std.amin(1))],
            [self._everywhere(anywhere[:, None].expand_as(self.std))],
        )
        if (held := self.mean_held) is not None:
            scaled = held / self.std[:, None, :, None] / self.std[:, None, None, :]
            for own, slopes in zip(sources, (_norms(held), _norms(scaled), _roots(held)), strict=True):
                own.append(slope_source("local", self.radii, slopes * self.to_l2 * _UP))
        if (box := self._box(self.model.bounded_mean)) is not None:
            radii, low, high = box
            gaps = largest_gap(low, high, *([self.posterior.mean.double()[:, None]] * 2))
            for own, most in zip(
                sources, (gaps.norm(dim=2), (gaps / self.std[:, None]).norm(dim=2), gaps), strict=True
            ):
                own.append(box_source("box", radii, most * _UP))
        return sources

    @cached_property
    def mean_held(self) -> Float64[Tensor, "batch balls latent latent"] | None:
        """Give ellipsoids of the means' changes where they may be smaller than what holds everywhere."""
        return self._held(self.model.vae.mean_map, self.gains)

    @cached_property
    def gains(self) -> Bool[Tensor, " batch"]:
        """Say for which images bounds on balls may be worth their time: a thousand closed forms take as long."""
        plain, whitened = self.slopes
        return (plain < _GAIN * self.b) | (whitened < _GAIN * self.b / self.std.amin(1))

    def _ellipsoids(self) -> Ellipsoids | None:
        """Give the local ellipsoids where they are finite, else the ball that holds everywhere."""
        if self.std.shape[1] > _MOST_LATENTS:
            return None
        anywhere = torch.diag_embed((self.b * self.to_l2 / self.std).square())[:, None] * _UP
        if (held := self.mean_held) is None:
            return Ellipsoids(self.limit[:, None], anywhere)
        shapes = held / self.std[:, None, :, None] / self.std[:, None, None, :] * (self.to_l2**2 * _UP)
        finite = torch.isfinite(shapes).flatten(2).all(2)
        return Ellipsoids(self.radii, torch.where(finite[:, :, None, None], shapes, anywhere))

    def _std_changes(self) -> tuple[Change, Change]:
        """Give bounds on the changes of standard deviations and of their logarithms."""
        nothing = torch.zeros_like(self.limit)
        unknown = [self._everywhere(torch.full_like(self.std, math.inf))]
        if self.model.vae.std_map is None:
            return Change(sources=[self._everywhere(torch.zeros_like(self.std))], rounding=nothing), Change(
                sources=unknown, rounding=nothing
            )
        logarithm, module = self.model.half_log_std is not None, self.model.half_log_std or self.model.vae.std_map
        constant = self.model.sensitivity.std
        additive = [self._everywhere(torch.full_like(self.std, math.inf if isinstance(constant, str) else constant))]
        if self.model.sensitivity.shared_std is not None:
            additive = [self._everywhere(torch.full_like(self.std, self.model.sensitivity.shared_std))]
        factors = list(unknown)
        everyone = torch.ones_like(self.limit, dtype=torch.bool)
        if (held := self._held(module, everyone)) is not None:
            share = 0.5 if logarithm else 1.0
            slopes = (share * _roots(held) * self.to_l2 * _UP).expand(-1, -1, self.std.shape[1])
            source = slope_source("local", self.radii, slopes)
            (factors if logarithm else additive).append(source)
        if (box := self._box(self.model.bounded_std)) is not None:
            radii, low, high = box
            std = self.std[:, None, : low.shape[2]]
            ratios = torch.maximum(high / std, std / low.clamp(min=1e-300)).log()
            most = (ratios if logarithm else largest_gap(low, high, std, std)) * _UP
            (factors if logarithm else additive).append(
                box_source("box", radii, most.expand(-1, -1, self.std.shape[1]))
            )
        outputs = 2 * self.std.log() if logarithm else self.std[:, : 1 if self.model.sensitivity.shared_std else None]
        slack = 2.0**-20 * math.sqrt(self.std.shape[1]) if logarithm else 0.0  # of the exponential and its inverse
        off = self._rounding(module, self.model.std_rounding, outputs, everyone, slack)
        if logarithm:  # the exponential and the logarithm here are themselves rounded
            return Change(sources=additive, rounding=nothing), Change(
                sources=factors, rounding=0.5 * off.norm(order=math.inf) + 2.0**-20
            )
        return Change(sources=additive, rounding=off.norm()), Change(sources=factors, rounding=nothing)

    def _rounding(
        self,
        module: nn.Module,
        rounding: Rounding,
        outputs: Tensor,
        chosen: Bool[Tensor, " batch"],
        slack: float = 0.0,
    ) -> ChangeError:
        """Bound the rounding of a change from the unmoved image, whose own error is measured."""
        norms = self.wide.flatten(1).norm(dim=1)
        moved = rounding.at((norms + self.limit * self.to_l2) * _UP)
        clean = measured_error(rounding, self.wide, outputs, slack)
        return ChangeError(clean, moved, self._errors(module, rounding, chosen))

    def _errors(
        self, module: nn.Module, rounding: Rounding, chosen: Bool[Tensor, " batch"]
    ) -> Float64[Tensor, "batch n n"] | None:
        """Bound the rounding at the chosen moved images by ellipsoids; None where that has no bound."""
        local = self.model.options.local and rounding.reason is None and self.model.is_local(module)
        if not (local and bool(chosen.any())):
            return None
        radii = (self.limit * self.to_l2 * _UP)[chosen]
        try:
            return _for_everyone(bound_local_rounding(module, self.images[chosen], radii, rounding.dtype), chosen)
        except NoSoundBound:  # the other bound stands
            return None

    def _held(self, module: nn.Module, chosen: Bool[Tensor, " batch"]) -> Float64[Tensor, "batch balls n n"] | None:
        """Bound the changes on balls for the chosen images; infinite for the others, None where there is no bound."""
        if not self.model.options.local or not bool(chosen.any()) or not self.model.is_local(module):
            return None
        units = self.std[chosen] if module is self.model.vae.mean_map else None
        held = bound_local_changes(module, self.images[chosen], (self.radii * self.to_l2)[chosen], units)
        return _for_everyone(held, chosen)

    def _box(self, bounded: BoundedMap | str | None) -> tuple[Tensor, Tensor, Tensor] | None:
        """Give radii with the ends of the boxes there, `[batch, balls, outputs]`; None where there are none."""
        if not isinstance(bounded, BoundedMap):
            return None
        least, largest = float(self.radii.min()), float(self.limit.max())
        powers = range(math.floor(math.log(least, RATIO)), math.ceil(math.log(largest, RATIO)) + 1)
        radii = [RATIO**power for power in powers]
        try:
            ends = [bounded.box(self.images, radius, self.norm) for radius in radii]
        except NoSoundBound as reason:
            self.model.refused.setdefault("box", str(reason))
            return None
        low, high = (torch.stack(side, 1).to(self.std) for side in zip(*ends, strict=True))
        return self.limit.new_tensor(radii).expand(len(self.limit), -1).contiguous(), low, high


def _for_everyone(found: Float64[Tensor, "chosen ..."], chosen: Bool[Tensor, " batch"]) -> Float64[Tensor, "batch ..."]:
    """Give what was found for the chosen images; infinite for the others."""
    everyone = found.new_full((len(chosen), *found.shape[1:]), math.inf)
    everyone[chosen] = found
    return everyone


def _norms(held: Float64[Tensor, "batch balls n n"]) -> Float64[Tensor, "batch balls"]:
    """Bound the largest eigenvalues' roots; infinite where a shape is."""
    finite = torch.isfinite(held).flatten(2).all(2)
    safe = torch.where(finite[:, :, None, None], held, 0.0)
    return torch.where(finite, bound_norms(safe.flatten(0, 1)).unflatten(0, finite.shape), math.inf)


def _roots(held: Float64[Tensor, "batch balls n n"]) -> Float64[Tensor, "batch balls n"]:
    return held.diagonal(dim1=2, dim2=3).nan_to_num(math.inf, math.inf).sqrt()
