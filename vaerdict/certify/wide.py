"""Events of moved posteriors from draws that were wider than the posterior (THEORY 4.5).

Few draws say little of what is rare under them: without a miss, `n` draws bound its probability by about `7 / n`, which
a half-space reaches when the mean moves by 3.8 deviations, for a hundred thousand. Draws that are wider where the mean
can move meet such half-spaces more often. All is in units of the unmoved standard deviations, `K` the covariance drawn
from, `diag(q^2)` that after the move, `m` the mean's move; Hoelder's inequality bounds the miss, for every `s > 1`:

    Q(miss) <= (P(miss) exp(D_s))^((s - 1) / s),
    D_s = (s/2) m^T S^-1 m + (s ln det K - ln det S) / (2 (s - 1)) - sum ln q_i,    S = s K - (s - 1) diag(q^2) > 0.

For `q^2` anywhere in `[l, h]`: `S >= A = s K - (s - 1) diag(h)`, and with `g` the diagonal of the inverse of
`H = s K - (s - 1) diag(l)`, `det S >= det A prod (1 + (s - 1) (h_i - q_i^2) g_i)`: add the diagonal's entries one by
one, each multiplies the determinant by 1 plus itself times a diagonal entry of an inverse that is at least `H^-1`.
What is left is a sum of convex functions of `q_i^2`, each largest at an end.

All this stays true with a smaller `A` and a larger `H`: a part in 10^12 of their traces makes them so, which is more
than what factorising them rounds. Orders at which `A` is nearly singular are left out.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float64
from torch import Tensor

ORDERS = (1.02, 1.05, 1.1, 1.15, 1.2, 1.3, 1.4, 1.55, 1.75, 2.0, 2.4, 3.0, 4.0, 6.0, 10.0, 20.0)
"""Of the Renyi divergence."""

_SLACK = 1e-7  # of sums of logarithms and, relatively, of radii: more than the rounding with the condition below
_RIDGE = 1e-12
_WORST = 1e6  # bound of condition numbers
_MOST = 1e200  # no shape that matters is larger, and nothing overflows

_NUMBERS = 2**16  # in the matrices of one order that are looked at together; it bounds the memory

_Rows = Float64[Tensor, " batch"]
_Ratios = Float64[Tensor, "batch latent"]
_Matrices = Float64[Tensor, "batch latent latent"]
_OfOrders = Float64[Tensor, "orders batch latent latent"]
_Orders = Float64[Tensor, "orders 1"]


@dataclass(frozen=True)
class Reached:
    """Largest radii at which a bound was above the level, with what shows it.

    Attributes:
        radii: 0 where there is none.
        orders: `s`.
        divergences: bounds of `D_s` within the radii.
    """

    radii: Float64[Tensor, " batch"]
    orders: Float64[Tensor, " batch"]
    divergences: Float64[Tensor, " batch"]

    def or_farther(self, other: "Reached") -> "Reached":
        """Take of each image what reaches farther."""
        farther = other.radii > self.radii
        pairs = ((self.radii, other.radii), (self.orders, other.orders), (self.divergences, other.divergences))
        return Reached(*(torch.where(farther, theirs, ours) for ours, theirs in pairs))


def widening_roots(shapes: Float64[Tensor, "batch latent latent"], scale: float) -> _Matrices:
    """Give roots of covariances that are `scale` times as wide as the unit in the direction of the largest moves.

    In the other directions they are less wide, as the moves are there; without a finite shape they are the unit. The
    numbers are those of float32, in float64, so that draws in float32 have just these covariances.

    >>> widening_roots(torch.diag(torch.tensor([4.0, 0.0])).double()[None], 2.0)
    tensor([[[2., 0.],
             [0., 1.]]], dtype=torch.float64)
    """
    known = (shapes.abs() < _MOST).flatten(1).all(1)
    values, vectors = torch.linalg.eigh(torch.where(known[:, None, None], shapes, 0.0))
    shares = (values / values[:, -1:].clamp(min=1e-300)).clamp(0.0, 1.0)
    widths = (1 + (scale**2 - 1) * shares).sqrt()
    unit = torch.eye(shapes.shape[-1]).to(shapes)
    return (unit + (vectors * (widths - 1)[:, None]) @ vectors.mT).float().double()


def renyi_reach(
    clean: Float64[Tensor, " batch"],
    p: float,
    roots: Float64[Tensor, "batch latent latent"],
    radii: Float64[Tensor, " batch"],
    shapes: Float64[Tensor, "batch latent latent"],
    ends: tuple[Float64[Tensor, "batch latent"], Float64[Tensor, "batch latent"]],
    rounding: Float64[Tensor, " batch"],
) -> Reached:
    """Give radii within which an event keeps a probability above `p` when the posterior moves.

    Args:
        clean: lower bounds of the event's probability under the wider Gaussians.
        p: the level.
        roots: of the covariances drawn from, `K = root root^T`.
        radii: within which the rest holds.
        shapes: `V` with `m m^T <= V rho^2` for the move `m` within every radius `rho`.
        ends: least and greatest ratios of moved to unmoved standard deviations.
        rounding: bounds what rounding adds to `|m|`.

    >>> one = torch.ones(1).double()
    >>> unit = torch.eye(2).double()[None]
    >>> reached = renyi_reach(0.9999 * one, 0.5, 2 * unit, 9 * one, unit, (unit[:, 0] * 0 + 1,) * 2, 0 * one)
    >>> round(float(reached.radii), 2)
    7.0
    """
    rows = (clean, roots, radii, shapes, *ends, rounding)
    at_once = max(1, _NUMBERS // shapes[0].numel()) if len(shapes) else 1
    parts = [_reach(p, *some) for some in zip(*(row.split(at_once) for row in rows), strict=True)]
    return Reached(*(torch.cat(column) for column in zip(*parts, strict=True)))


def _reach(
    p: float, clean: _Rows, roots: _Matrices, radii: _Rows, shapes: _Matrices, *ends_and_rounding: Tensor
) -> tuple[_Rows, _Rows, _Rows]:
    """Give radii, orders and divergences of some images: of the order that reaches farthest."""
    wide, (low, high, rounding) = roots @ roots.mT, ends_and_rounding
    low, high = low.square(), high.square()
    possible = (low > 0).all(1) & torch.isfinite(high).all(1) & torch.isfinite(rounding) & (radii >= 0)
    possible = possible & (shapes.abs() < _MOST).flatten(1).all(1)
    low, high = (torch.where(possible[:, None], end, 1.0) for end in (low, high))
    shapes = torch.where(possible[:, None, None], shapes, 0.0)
    s = wide.new_tensor(ORDERS)[:, None]
    root, proper = _factor(s, wide, high, -_RIDGE)
    outer, _ = _factor(s, wide, low, _RIDGE)  # where it fails, so did the smaller one
    still = _still(s, wide, root, outer, low, high)
    left = s / (s - 1) * math.log1p(-p) - torch.log1p(-clean) - still - _SLACK  # for the mean's part
    off = rounding * _norm_of_inverse(root)
    most = (2 * left.clamp(min=0.0) / s).sqrt() - off
    moved = torch.linalg.solve_triangular(root, shapes, upper=False)
    slope = _largest(torch.linalg.solve_triangular(root, moved.mT, upper=False))
    reach = torch.minimum(radii, most.clamp(min=0.0) / slope.clamp(min=1e-300)) * (1 - _SLACK)
    reach = torch.where(possible & proper & (left > 0), reach, 0.0)
    divergence = still + s / 2 * (reach * slope + off).square()
    farthest, order = reach.max(0)
    found = farthest > 0
    least = divergence.gather(0, order[None])[0]
    return farthest, torch.where(found, s[order, 0], 0.0), torch.where(found, least, 0.0)


def _factor(s: _Orders, wide: _Matrices, end: _Ratios, share: float) -> tuple[_OfOrders, Bool[Tensor, "orders batch"]]:
    """Give the root of `s K - (s - 1) diag(end)` with some of its trace added, and whether there is a safe one."""
    trace, s = s * wide.diagonal(dim1=-2, dim2=-1).sum(1), s[:, :, None]
    root, failed = torch.linalg.cholesky_ex(
        s[..., None] * wide - torch.diag_embed((s - 1) * end - share * trace[..., None])
    )
    unit = torch.eye(root.shape[-1]).to(root)
    root = torch.where((failed == 0)[..., None, None], root, unit)
    return root, (failed == 0) & (trace * _inverse(root).square().sum((-2, -1)) < _WORST)


def _still(
    s: _Orders, wide: _Matrices, root: _OfOrders, outer: _OfOrders, low: _Ratios, high: _Ratios
) -> Float64[Tensor, "orders batch"]:
    """Bound what the covariances add to the divergence; the roots are those of `A` and of `H`."""
    determinants = s * torch.linalg.slogdet(wide)[1] - 2 * root.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    squares, more = _inverse(outer).square().sum(-2), (s - 1)[..., None]  # squares: the diagonal of the inverse of `H`
    at_low = -torch.log1p(more * (high - low) * squares) / (2 * more) - low.log() / 2
    return determinants / (2 * (s - 1)) + torch.maximum(at_low, -high.log() / 2).sum(-1) + _SLACK


def _inverse(root: _OfOrders) -> _OfOrders:
    return torch.linalg.solve_triangular(root, torch.eye(root.shape[-1]).to(root), upper=False)


def _norm_of_inverse(root: _OfOrders) -> Float64[Tensor, "orders batch"]:
    """Bound the norm of a root's inverse, without eigenvalues: these are for what counts more."""
    inverse = _inverse(root)
    return torch.linalg.matrix_norm(inverse @ inverse.mT).sqrt() * (1 + _SLACK)


def _largest(matrices: _OfOrders) -> Float64[Tensor, "orders batch"]:
    """Give the roots of largest eigenvalues."""
    return torch.linalg.eigvalsh(matrices)[..., -1].clamp(min=0.0).sqrt()
