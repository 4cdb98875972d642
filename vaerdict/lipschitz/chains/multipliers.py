"""Lipschitz constants of chains below the product of their layers' norms, each proved by one spectral norm.

The quadratic form of LipSDP-Neuron (Fazlyab et al., NeurIPS 2019) in other coordinates: an activation maps a change `v`
to `c v + r w` with `|w| <= |v|` in every neuron. So every `v` is a linear function of the input's change and the `w`s.
For any scalings `t > 0` of the neurons, let `B` be the matrix of

    (change of the input, all t w)  ->  (all t v, change of the output / l).

As `|t w| <= |t v|`, a norm `sigma = |B|` gives `|output|^2 / l^2 <= sigma^2 |input|^2 + (sigma^2 - 1) sum |t v|^2`.
With `sigma <= 1` the constant is `sigma l`; above 1, `|v|` is bounded by the product of the norms up to its layer.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vaerdict.lipschitz.chains.affine import Affine, times_power
from vaerdict.lipschitz.chains.chain import Chain
from vaerdict.lipschitz.chains.proposals import propose_multipliers
from vaerdict.lipschitz.floats import UNIT, gamma, round_up
from vaerdict.lipschitz.norms.spectral import bound_spectral_norm
from vaerdict.lipschitz.sizes import frobenius

_SLACK = 1.001  # for the rounding of the error bounds themselves
_MARGINS = (1e-8, 1e-6, 1e-4)  # by which what is proposed is raised until sigma <= 1
_Ends = tuple[Tensor, Tensor]


def bound_slope_restricted(chain: Chain, slopes: Sequence[_Ends] | None = None, steps: int = 200) -> float:
    """Bound the L2 Lipschitz constant of a chain from above.

    The smaller of the product of the norms and the proved value of LipSDP-Neuron multipliers; these are a proposal, and
    only how tight the bound is depends on them (THEORY 3).

    Args:
        chain: what `dense_chain` gives.
        slopes: for each activation the ends of its neurons' slope intervals, where these are known to be narrower than
            globally; the bound then holds between points where they hold.
        steps: of gradient descent on the multipliers; 0 takes the closed form of ECLipsE-Fast.

    Raises:
        ValueError: `steps` is negative, or a norm cannot be proved.

    >>> from torch import nn
    >>> from vaerdict.lipschitz.chains.chain import dense_chain
    >>> from vaerdict.lipschitz.graph.trace import trace
    >>> net = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2))
    >>> for layer, diagonal in [(net[0], [1.0, 0.1]), (net[2], [0.1, 1.0])]:
    ...     layer.weight.data = torch.diag(torch.tensor(diagonal))
    >>> round(bound_slope_restricted(dense_chain(trace(net))), 3)  # the product of the norms is 1
    0.1
    """
    if steps < 0:
        raise ValueError(f"expected `steps` >= 0, got {steps}")
    problem = _Problem.of(chain, chain.global_slopes() if slopes is None else slopes)
    product = problem.product()
    if product == 0.0 or not math.isfinite(product):
        return product
    try:
        proposal = propose_multipliers(problem.weights, problem.middles, problem.radii, steps)
        proved = problem.bound(proposal.multipliers, math.sqrt(max(float(proposal.squared), 0.0)))
    except (ValueError, OverflowError, torch.linalg.LinAlgError):  # no multipliers, or no proof: the product stands
        proved = math.inf
    return min(product, proved)


def bound_product(chain: Chain) -> float:
    """Bound the L2 Lipschitz constant of a chain by the product of its matrices' norms and the steepest slopes.

    >>> from torch import nn
    >>> from vaerdict.lipschitz.chains.chain import dense_chain
    >>> from vaerdict.lipschitz.graph.trace import trace
    >>> layers = [nn.Linear(2, 2), nn.Linear(2, 2), nn.Sigmoid()]
    >>> for layer, diagonal in zip(layers, ([8.0, 0.0], [0.0, 8.0]), strict=False):
    ...     layer.weight.data = torch.diag(torch.tensor(diagonal))
    >>> bound_product(dense_chain(trace(nn.Sequential(*layers)))) < 1e-9  # as one matrix, the dense layers are zero
    True
    """
    return _Problem.of(chain, chain.global_slopes()).product()


@dataclass(frozen=True)
class _Problem:
    """A chain's matrices, divided by powers of two that bring their norms near 1, with `c` and `r` between them."""

    maps: tuple[Affine, ...]
    middles: tuple[Tensor, ...]
    radii: tuple[Tensor, ...]
    norms: tuple[float, ...]
    power: int

    @classmethod
    def of(cls, chain: Chain, slopes: Sequence[_Ends]) -> "_Problem":
        maps, inner = list(chain.maps), list(slopes)
        if len(inner) == len(maps):  # after the last layer the steepest slopes are the worst
            maps[-1] = _steepest(maps[-1], *inner.pop())
        norms = [one.bound_norm() for one in maps]
        powers = [math.frexp(norm)[1] if 0.0 < norm < math.inf else 0 for norm in norms]
        middles = tuple(0.5 * low + 0.5 * high for low, high in inner)
        radii = tuple(_half_width(low, high, c) for (low, high), c in zip(inner, middles, strict=True))
        return cls(
            tuple(_divided(one, power) for one, power in zip(maps, powers, strict=True)),
            middles,
            radii,
            tuple(math.ldexp(norm, -power) for norm, power in zip(norms, powers, strict=True)),
            sum(powers),
        )

    @property
    def weights(self) -> list[Tensor]:
        return [one.weight for one in self.maps]

    def prefixes(self) -> list[float]:
        """Bound `|v|` of every layer for an input's change of norm 1, by the product of the norms so far."""
        steepest = [1.0, *(float((c.abs() + r).max()) for c, r in zip(self.middles, self.radii, strict=True))]
        products, product = [], 1.0
        for norm, slope in zip(self.norms, steepest, strict=True):
            product = round_up(round_up(product * norm) * round_up(slope)) if slope != 1.0 else round_up(product * norm)
            products.append(product)
        return products

    def product(self) -> float:
        return _scaled_up(self.prefixes()[-1], self.power) if all(self.norms) else 0.0

    def bound(self, multipliers: Sequence[Tensor], promised: float) -> float:
        """Prove what the proposed multipliers promise, or little more."""
        scales = [
            torch.where(s > 0, r, 1.0) / torch.where(s > 0, s, 1.0).sqrt()
            for r, s in zip(self.radii, multipliers, strict=True)
        ]
        best = math.inf
        for margin in _MARGINS:
            length = promised * (1.0 + margin)
            matrix, error = self._assemble(scales, length)
            sigma = round_up(bound_spectral_norm(matrix) + error)
            best = min(best, self._conclude(sigma, length, scales))
            if sigma <= 1.0:
                break
        return _scaled_up(best, self.power)

    def _conclude(self, sigma: float, length: float, scales: Sequence[Tensor]) -> float:
        excess = max(round_up(sigma * sigma) - 1.0, 0.0)
        pairs = zip(scales, self.prefixes(), strict=False)
        changes = sum(float(t.max()) ** 2 * prefix**2 for t, prefix in pairs) if excess else 0.0
        return round_up(math.sqrt(sigma * sigma + _SLACK * excess * changes) * length, 8)

    def _assemble(self, scales: Sequence[Tensor], length: float) -> tuple[Tensor, float]:
        """Write `B` out, and bound the Frobenius norm of the difference to the meant one.

        A row of `fl(W H)` is off by at most `gamma |row of W| |H|`, where norms are Frobenius norms; what `H` and `W`
        are off by themselves is carried along row by row.
        """
        rows: list[Tensor] = []
        errors: list[Tensor] = []
        block, wrong = self.maps[0].weight, torch.full_like(self.maps[0].bias, self.maps[0].weight_error)
        for t, c, r, after in zip(scales, self.middles, self.radii, self.maps[1:], strict=True):
            active = r > 0
            rows.append(t[active, None] * block[active])
            errors.append(t[active] * (wrong[active] + 2 * UNIT * block[active].norm(dim=1)))
            spread = torch.diag(r / t)[:, active]
            before = torch.cat([c[:, None] * block, spread], 1)
            size = frobenius(before)
            off = frobenius(c * wrong) + 4 * UNIT * size
            lengths = after.weight.norm(dim=1)
            block = after.weight @ before
            wrong = _SLACK * (
                lengths * (off + gamma(after.weight.shape[1] + 2) * size) + after.weight_error * (size + off)
            )
        rows.append(block / length)
        errors.append((wrong + 2 * UNIT * block.norm(dim=1)) / length)
        width = block.shape[1]
        matrix = torch.cat([torch.nn.functional.pad(one, (0, width - one.shape[1])) for one in rows])
        return matrix, _SLACK * frobenius(torch.cat(errors)) + matrix.numel() * 2.0**-1000


def _half_width(low: Tensor, high: Tensor, middle: Tensor) -> Tensor:
    width = torch.maximum(high - middle, middle - low)
    return torch.where(low == high, 0.0, torch.nextafter(width, torch.full_like(width, math.inf)))


def _steepest(one: Affine, low: Tensor, high: Tensor) -> Affine:
    steepest = torch.maximum(low.abs(), high.abs())
    weight = steepest[:, None] * one.weight
    most = float(steepest.max())
    error = _SLACK * (most * one.weight_error + 2 * UNIT * frobenius(weight)) + 2.0**-1000
    exact = bool(((steepest == 1.0) | (steepest == 0.0)).all()) and one.weight_error == 0.0
    return Affine(weight, one.bias, 0.0 if exact else error, one.bias_error)


def _divided(one: Affine, power: int) -> Affine:
    """Divide by a power of two, which is exact but for what underflows."""
    lost = one.weight.numel() * 2.0**-1020 if power > 0 else 0.0
    error = round_up(math.ldexp(one.weight_error, -power)) if one.weight_error else 0.0
    return Affine(times_power(one.weight, -power), one.bias, error + lost, one.bias_error)


def _scaled_up(value: float, power: int) -> float:
    try:
        scaled = math.ldexp(value, power)
    except OverflowError:
        return math.inf
    return scaled if scaled > 1e-300 else round_up(scaled)  # a subnormal result was rounded to nearest
