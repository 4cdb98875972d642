"""Lipschitz constants from below: two inputs whose outputs lie far apart, found by search. Nothing here is a proof.

Every number reported is the secant ratio of two inputs, so it is below the true constant up to float64 rounding, for
which some is taken off (a network that cancels values far larger than its outputs needs more). A derivative would not
be: at a kink automatic differentiation may give a slope that the function has nowhere.
"""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vaerdict.lipschitz.layers import remove_parametrizations
from vaerdict.lipschitz.sizes import norm_of_each

_CLOSEST = 1e-5  # of the starts' size: nearer pairs lose too many digits
_ASCENT = 0.8  # share of the steps in which the places move; the rest turns the directions only
_STRIDE = 0.3  # of the pair's distance: how far a place moves in one step
_NOISE = 1e-13  # of the outputs' size: taken off their distance, which near pairs owe to rounding
_ROW_PLACES = 2  # where the maximum norm looks at every output


@dataclass(frozen=True)
class LipschitzEstimate:
    """A lower estimate and the two inputs that show it: `float()` gives the number.

    Attributes:
        value: `|f(first) - f(second)| / |first - second|`, in float64, less an allowance for the outputs' rounding.
        norm: 2 or infinity, of inputs and outputs alike.
        first: one input, float64, without the batch axis.
        second: the other.
    """

    value: float
    norm: float
    first: Float[Tensor, "..."]
    second: Float[Tensor, "..."]

    def __float__(self) -> float:
        return self.value

    def __str__(self) -> str:
        distance = float(_size((self.first - self.second)[None], self.norm))
        name = "L2" if self.norm == 2 else "maximum"
        return f"at least {self.value:.6g} in the {name} norm, shown by two inputs at distance {distance:.3g}"


@dataclass
class _Pairs:
    """Places `x`, unit directions `d` and half distances `r`: the pairs are `x + r d` and `x - r d`."""

    x: Tensor
    d: Tensor
    r: Tensor

    def ends(self) -> tuple[Tensor, Tensor]:
        offset = _per_sample(self.r, self.d) * self.d
        return self.x + offset, self.x - offset


def estimate_lipschitz(
    module: nn.Module, starts: Float[Tensor, "batch ..."], steps: int = 100, norm: float = 2, seed: int = 0
) -> LipschitzEstimate:
    """Estimate the Lipschitz constant of a module in evaluation mode from below.

    Some pairs stay at the starts, close together, where turning their direction is the power iteration on the Jacobian.
    The others begin wide apart, at the starts and near them, climb the secant ratio with place and direction free
    (piecewise linear networks give no gradient in the place otherwise) and close up. The search may leave the range of
    the data. The module itself is not touched: a float64 copy is evaluated, with the weights as they show.

    Args:
        module: gives the outputs `[batch, ...]` of a batch, each sample for itself.
        starts: where to begin, on the module's device.
        steps: evaluations forward and backward of three times the starts in pairs.
        norm: 2 or infinity.
        seed: of the random directions and displacements.

    Raises:
        ValueError: no start, a start that is not finite, a norm or number of steps out of range, or a module that
            gives different values for the same inputs.

    >>> layer = nn.Linear(3, 2)
    >>> found = estimate_lipschitz(layer, torch.randn(4, 3))
    >>> abs(found.value / float(torch.linalg.matrix_norm(layer.weight.detach(), 2)) - 1) < 1e-5
    True
    """
    if norm not in (2, math.inf):
        raise ValueError(f"expected `norm` 2 or infinity, got {norm}")
    if steps < 1:
        raise ValueError(f"expected `steps` >= 1, got {steps}")
    if len(starts) == 0 or not torch.isfinite(starts).all():
        raise ValueError(f"expected at least one start, all finite, got shape {tuple(starts.shape)}")
    starts = starts.detach().double()
    function = _float64_copy(module)
    _refuse_random(function, starts)
    scale = float(_size(starts, norm).max()) or 1.0  # where all starts are 0
    best = _search(function, _first_pairs(starts, scale, norm, seed), scale, steps, norm)
    if norm == math.inf:
        best = _with_best_rows(function, best, scale)
    ratio = _ratios(function, best, norm)[0]
    winner = int(ratio.argmax())
    first, second = (end[winner].clone() for end in best.ends())
    return LipschitzEstimate(float(ratio[winner]), norm, first, second)


def _float64_copy(module: nn.Module) -> Callable[[Tensor], Tensor]:
    twin = copy.deepcopy(module).eval()
    remove_parametrizations(twin)  # computed in float64, the weights would be others
    twin = twin.double().requires_grad_(False)
    return lambda inputs: twin(inputs.clone()).flatten(1)


def _refuse_random(function: Callable[[Tensor], Tensor], starts: Tensor) -> None:
    with torch.no_grad():
        if not torch.equal(*(function(starts).nan_to_num() for _ in range(2))):
            raise ValueError("expected a module without randomness, got different values for the same inputs")


def _first_pairs(starts: Tensor, scale: float, norm: float, seed: int) -> _Pairs:
    generator = torch.Generator().manual_seed(seed)
    random = torch.randn((4, *starts.shape), generator=generator, dtype=torch.float64).to(starts.device)
    displaced = starts + scale * _unit(random[3], norm)
    ones = torch.ones(len(starts), dtype=torch.float64, device=starts.device)
    return _Pairs(
        torch.cat([starts, starts, displaced]),
        _unit(random[:3].flatten(0, 1), norm),
        scale * torch.cat([_CLOSEST * ones, ones, 3.0 * ones]),
    )


def _search(function: Callable[[Tensor], Tensor], pairs: _Pairs, scale: float, steps: int, norm: float) -> _Pairs:
    best, best_ratio = pairs, torch.zeros_like(pairs.r)
    moving = pairs.r > _CLOSEST * scale
    climbing = math.ceil(_ASCENT * steps)
    for step in range(steps):
        if step == climbing:
            pairs = _Pairs(best.x, best.d, torch.full_like(best.r, _CLOSEST * scale))
        ratio, slope_x, slope_d = _ratios(function, pairs, norm)
        better = ratio > best_ratio
        best = _Pairs(*(_choose(better, getattr(pairs, key), getattr(best, key)) for key in ("x", "d", "r")))
        best_ratio = torch.where(better, ratio, best_ratio)
        stride = _STRIDE * pairs.r * moving if step < climbing else torch.zeros_like(pairs.r)
        closer = (pairs.r * _CLOSEST ** (1 / climbing)).clamp(min=_CLOSEST * scale)
        pairs = _Pairs(
            pairs.x + _per_sample(stride, pairs.x) * _unit(slope_x, 2),
            _choose(_size(slope_d, 2) > 0, _steepest(slope_d, norm), pairs.d),
            closer,
        )
    return best


def _ratios(function: Callable[[Tensor], Tensor], pairs: _Pairs, norm: float) -> tuple[Tensor, Tensor, Tensor]:
    """Give the secant ratios, 0 where not finite, and the slopes of the outputs' distance in place and direction."""
    with torch.enable_grad():
        first, second = (end.detach().requires_grad_() for end in pairs.ends())
        outputs = function(torch.cat([first, second]))
        above, below = outputs[: len(first)], outputs[len(first) :]
        rise = _size(above - below, norm)
        slopes = torch.autograd.grad(rise.sum(), (first, second)) if rise.requires_grad else (first * 0, second * 0)
    certain = rise - _NOISE * (_size(above, norm) + _size(below, norm))
    ratio = (certain / _size(first - second, norm)).detach().clamp(min=0.0)
    up, down = (slope.nan_to_num(0.0, 0.0, 0.0) for slope in slopes)
    return torch.where(torch.isfinite(ratio), ratio, 0.0), up + down, up - down


def _with_best_rows(function: Callable[[Tensor], Tensor], pairs: _Pairs, scale: float) -> _Pairs:
    """Add, at the best places, the pair that serves the output with the largest row sum: ascent keeps to one output."""
    order = _ratios(function, pairs, math.inf)[0].argsort(descending=True)[:_ROW_PLACES]
    places = pairs.x[order].detach().requires_grad_()
    with torch.enable_grad():
        outputs = function(places)
    best_sum = torch.full_like(pairs.r[order], -1.0)
    direction = pairs.d[order]
    for column in outputs.unbind(1) if outputs.requires_grad else ():
        (row,) = torch.autograd.grad(column.sum(), places, retain_graph=True)
        row_sum = row.flatten(1).abs().sum(1)
        direction = _choose(row_sum > best_sum, row.sign(), direction)
        best_sum = torch.maximum(best_sum, row_sum)
    close = torch.full_like(best_sum, _CLOSEST * scale)
    return _Pairs(torch.cat([pairs.x, places.detach()]), torch.cat([pairs.d, direction]), torch.cat([pairs.r, close]))


def _size(values: Tensor, norm: float) -> Tensor:
    return norm_of_each(values) if norm == 2 else torch.linalg.vector_norm(values.flatten(1), norm, dim=1)


def _per_sample(factor: Tensor, like: Tensor) -> Tensor:
    return factor.reshape(-1, *[1] * (like.dim() - 1))


def _unit(values: Tensor, norm: float) -> Tensor:
    size = _size(values, norm)
    return values / _per_sample(torch.where(size > 0, size, 1.0), values)


def _steepest(slope: Tensor, norm: float) -> Tensor:
    """Give the direction of size 1 in which a linear function of this slope rises most."""
    return _unit(slope, 2) if norm == 2 else slope.sign()


def _choose(where: Tensor, yes: Tensor, no: Tensor) -> Tensor:
    return torch.where(_per_sample(where, yes), yes, no)
