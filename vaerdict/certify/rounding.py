"""What rounding adds: certificates hold for the network as it is evaluated, in its dtype (THEORY 7.1)."""

import copy
import math
from dataclasses import dataclass, field, replace
from functools import cached_property, partial

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor, nn

from vaerdict.lipschitz import NoSoundBound, bound_rounding
from vaerdict.lipschitz.chains.ellipsoids import bound_norms
from vaerdict.options import require

_RATIO = 1.1
"""Bounds are made for radii that are powers of this, once each: an image's bound does not depend on its batch."""

_COARSE = 24
"""In float64 only for every power of this power: what is bounded there is a billionth of what float32 loses."""

_LARGEST = 1e100
"""Norms above this have no bound."""


def _power(norms: Float64[Tensor, " batch"]) -> Int64[Tensor, " batch"]:
    return (norms.nan_to_num(_LARGEST).clamp(1e-6, _LARGEST).log() / math.log(_RATIO)).ceil().add(1).long()


def rounded_up(norms: Float64[Tensor, " batch"]) -> Float64[Tensor, " batch"]:
    """Give the next radius for which bounds are made: many images then share one.

    >>> float(rounded_up(torch.tensor([1.0]).double())) >= 1.0
    True
    """
    return _RATIO ** _power(norms).double()


@dataclass(frozen=True)
class Rounding:
    """Bounds the error of evaluating one module, by the norm of its input.

    Attributes:
        module: in evaluation mode.
        input_shape: of one input, without the batch axis.
        reason: why there is no bound; None where there is one.
        every: bounds are made for one in so many of these radii.
    """

    module: nn.Module
    input_shape: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device
    reason: str | None
    every: int = 1
    _known: dict[int, float] = field(default_factory=dict)

    def at(self, norms: Float64[Tensor, " batch"]) -> Float64[Tensor, " batch"]:
        """Bound `|fl(f)(x) - f(x)|` for inputs up to the norms; infinite where values may overflow.

        0 where there is no bound for the module at all (see `reason`).
        """
        if self.reason is not None:
            return torch.zeros_like(norms)
        powers = _power(norms).add(self.every - 1).div(self.every, rounding_mode="floor") * self.every
        bounds = {power: self._bound(power) for power in powers.unique().tolist()}
        found = norms.new_tensor([bounds[power] for power in powers.tolist()])
        return torch.where(norms <= _LARGEST, found, math.inf)  # also where a norm is not finite

    @cached_property
    def in_float64(self) -> "Rounding":
        """Give a copy of the module in float64 with its own bounds."""
        return replace(self, module=copy.deepcopy(self.module).double(), dtype=torch.float64, every=_COARSE, _known={})

    def _bound(self, power: int) -> float:
        if power not in self._known:
            where = self.module, _RATIO**power, self.dtype, self.device
            try:
                self._known[power] = float(bound_rounding(*where, input_shape=self.input_shape))
            except NoSoundBound:  # values so large may overflow
                self._known[power] = math.inf
        return self._known[power]


def measure_rounding(module: nn.Module, example: Float[Tensor, "1 ..."]) -> Rounding:
    """Prepare the bounds of a module for inputs like the example, and say where there are none."""
    shape = tuple(example.shape[1:])
    make = partial(Rounding, module, shape, example.dtype, example.device)
    try:
        bound_rounding(module, 1.0, example.dtype, example.device, input_shape=shape)
    except (NoSoundBound, ValueError) as error:
        return make(str(error))
    return make(None)


@dataclass(frozen=True)
class CleanError:
    """How far what a model gave for some inputs is from the real function of its weights.

    Attributes:
        off: distances from an evaluation in float64.
        own: bounds the L2 norm of the error of that.
        most: bounds the L2 norm of what is bounded, without a measurement.
    """

    off: Float64[Tensor, "batch outputs"]
    own: Float64[Tensor, " batch"]
    most: Float64[Tensor, " batch"]

    def norm(
        self, units: Float64[Tensor, "batch outputs"] | None = None, order: float = 2.0
    ) -> Float64[Tensor, " batch"]:
        """Bound the error, each output in its unit.

        Args:
            units: above 0; 1 if not given.
            order: of the norm; infinity for the largest of the outputs.
        """
        units = torch.ones_like(self.off) if units is None else units
        own, most = (one / units.amin(1) for one in (self.own, self.most))
        measured = torch.linalg.vector_norm(self.off / units, ord=order, dim=1)
        return torch.minimum(measured * (1 + 1e-12) + own, most) * (1 + 1e-15)


@dataclass(frozen=True)
class ChangeError:
    """How much more a computed change of an output may be than the exact one: the errors at both its ends.

    Attributes:
        clean: at the unmoved input.
        moved: bounds the L2 norm of the error at every moved one.
        shapes: `E` with `e e^T <= E` for the same errors `e`; None where there are none.
    """

    clean: CleanError
    moved: Float64[Tensor, " batch"]
    shapes: Float64[Tensor, "batch outputs outputs"] | None = None

    def norm(
        self, units: Float64[Tensor, "batch outputs"] | None = None, order: float = 2.0
    ) -> Float64[Tensor, " batch"]:
        """Bound the sum of the errors, with the same arguments as `CleanError.norm`."""
        units = torch.ones_like(self.clean.off) if units is None else units
        moved = self.moved / units.amin(1)
        if self.shapes is not None:
            finite = torch.isfinite(self.shapes).flatten(1).all(1)
            scaled = torch.where(finite[:, None, None], self.shapes, 0.0) / units[:, :, None] / units[:, None]
            largest = scaled.diagonal(dim1=1, dim2=2).amax(1).sqrt()
            local = largest if order == math.inf else bound_norms(scaled)
            moved = torch.minimum(moved, torch.where(finite, local, math.inf))
        return (moved + self.clean.norm(units, order)) * (1 + 2.0**-40)


def measured_error(
    rounding: Rounding,
    inputs: Float[Tensor, "batch ..."],
    outputs: Float[Tensor, "batch ..."],
    slack: float = 0.0,
) -> CleanError:
    """Bound `outputs - f(inputs)`, where `outputs` are what the model gave: by an evaluation in float64.

    0 where there is no bound for the module.

    Raises:
        ValueError: the outputs differ by more than rounding and `slack` explain: the model computes something else.
    """
    flat = outputs.double().flatten(1)
    if rounding.reason is not None:
        nothing = torch.zeros_like(flat[:, 0])
        return CleanError(torch.zeros_like(flat), nothing, nothing)
    exact, inputs = rounding.in_float64, inputs.double()
    norms = inputs.flatten(1).norm(dim=1)
    off = (flat - exact.module(inputs.clone()).flatten(1)).abs()  # a first layer may work in place
    bound, own = rounding.at(norms), exact.at(norms)
    explained = bool((off.norm(dim=1) * (1 - 1e-12) <= bound + own + slack).all())
    require(
        explained,
        "a model that computes what its maps compute, up to rounding",
        f"a distance of {float(off.norm(dim=1).max()):.3g}",
    )
    return CleanError(off, own, bound + slack)
