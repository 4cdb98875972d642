"""What rounding adds: certificates hold for the network as it is evaluated, in its dtype (THEORY 7.1)."""

import copy
import math
from dataclasses import dataclass, field, replace
from functools import cached_property, partial

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor, nn

from vaerdict.lipschitz import NoSoundBound, bound_rounding
from vaerdict.options import require

_RATIO = 1.1
"""Bounds are made for radii that are powers of this, once each: an image's bound does not depend on its batch."""


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
    """

    module: nn.Module
    input_shape: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device
    reason: str | None
    _known: dict[int, float] = field(default_factory=dict)

    def at(self, norms: Float64[Tensor, " batch"]) -> Float64[Tensor, " batch"]:
        """Bound `|fl(f)(x) - f(x)|` for inputs up to the norms; infinite where values may overflow.

        0 where there is no bound for the module at all (see `reason`).
        """
        if self.reason is not None:
            return torch.zeros_like(norms)
        powers = _power(norms)
        bounds = {power: self._bound(power) for power in powers.unique().tolist()}
        found = norms.new_tensor([bounds[power] for power in powers.tolist()])
        return torch.where(norms <= _LARGEST, found, math.inf)  # also where a norm is not finite

    @cached_property
    def in_float64(self) -> "Rounding":
        """Give a copy of the module in float64 with its own bounds."""
        return replace(self, module=copy.deepcopy(self.module).double(), dtype=torch.float64, _known={})

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


def measured_error(
    rounding: Rounding,
    inputs: Float[Tensor, "batch ..."],
    outputs: Float[Tensor, "batch ..."],
    slack: float = 0.0,
) -> Float64[Tensor, " batch"]:
    """Bound `|outputs - f(inputs)|`, where `outputs` are what the model gave: by an evaluation in float64.

    0 where there is no bound for the module.

    Raises:
        ValueError: the outputs differ by more than rounding and `slack` explain: the model computes something else.
    """
    if rounding.reason is not None:
        return torch.zeros(len(inputs), dtype=torch.float64, device=inputs.device)
    exact, norms = rounding.in_float64, inputs.double().flatten(1).norm(dim=1)
    off = (outputs.double() - exact.module(inputs.double())).flatten(1).norm(dim=1)
    bound, own = rounding.at(norms), exact.at(norms)
    explained = bool((off * (1 - 1e-12) <= bound + own + slack).all())
    require(
        explained,
        "a model that computes what its maps compute, up to rounding",
        f"a distance of {float(off.max()):.3g}",
    )
    return torch.minimum(off * (1 + 1e-12) + own, bound + slack)
