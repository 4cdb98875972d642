"""Ellipsoids that hold every change of a layer's values, batched, with all rounding added.

A shape `V` holds the changes `v` that an input's change of norm 1 causes: `v v^T <= V` in the order of matrices, so
that `|a . v|^2 <= a^T V a` for every `a`. An activation gives `c v + r w` with `|w| <= |v|` in every neuron. For any
`t >= 0` with `K = I - t V t` positive definite, and `t > 0` where `r > 0`, these are held by

    G = diag(r / t)^2 + c (V + V t K^-1 t V) c.

Proof: write `v = V^(1/2) x`, `|x| <= 1`. As `|t w| <= |t v|`, `|x|^2 - |t v|^2 + |t w|^2 <= 1`, a quadratic form in
`(x, t w)` with matrix `diag(I - V^(1/2) t^2 V^(1/2), I)`; a linear function of them squared is at most that of the
inverse, which is `G` by Woodbury's identity.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from vaerdict.lipschitz.floats import UNIT, gamma
from vaerdict.lipschitz.sizes import norm_of_each

_SLACK = 1.001  # for the rounding of the error bounds themselves
_GAPS = (0.5, 2.0, 8.0)  # how far the multipliers stay from the edge, for many and for few unstable neurons
_EXCESSES = (1e-13, 1e-11, 1e-9, 1e-6)

_Shapes = Float[Tensor, "batch n n"]
_Rows = Float[Tensor, "batch n"]


def bound_activation(
    shapes: _Shapes, low: _Rows, high: _Rows, shares: _Rows | None = None, gaps: Float[Tensor, "batch 1"] | None = None
) -> _Shapes:
    """Hold the changes after activations whose neurons have their slopes in `[low, high]`.

    Args:
        shapes: of the changes before.
        low: least slopes.
        high: greatest slopes.
        shares: what `propose_multipliers` gives; used where it leads to a proof, else the shape of least trace is.
        gaps: the same.

    >>> shape = torch.eye(2).double()[None]
    >>> bound_activation(shape, *[torch.tensor([[3.0, 0.0]]).double()] * 2).diagonal(dim1=1, dim2=2).round(decimals=6)
    tensor([[9., 0.]], dtype=torch.float64)
    """
    c = 0.5 * low + 0.5 * high
    width = torch.maximum(high - c, c - low)
    r = torch.where(low == high, 0.0, torch.nextafter(width, torch.full_like(width, torch.inf)))
    if shares is None or gaps is None:
        return _least_trace(shapes, c, r)
    proposed = _enclose(shapes, c, r, _scaled(shapes, r * (-0.5 * shares).exp(), gaps.exp()))
    proved = torch.isfinite(proposed).flatten(1).all(1)[:, None, None]
    return proposed if proved.all() else torch.where(proved, proposed, _least_trace(shapes, c, r))


def _least_trace(shapes: _Shapes, c: _Rows, r: _Rows) -> _Shapes:
    """Try closed forms: multipliers that are best for equal neurons, and some around them."""
    steepest = (c.abs() + r).amax(1) * _SLACK
    trace = shapes.diagonal(dim1=1, dim2=2).sum(1) * _SLACK
    best = torch.diag_embed((steepest**2 * trace * _SLACK)[:, None].expand_as(c))  # |v|^2 <= trace V
    equal = torch.where(r > 0, (r / (r + c.abs())).sqrt(), 0.0)
    relative = (c.abs().amax(1, True) / r.amax(1, True).clamp(min=1e-300)).clamp(1e-3, 1e12)
    for gap in _GAPS:
        candidate = _enclose(shapes, c, r, _scaled(shapes, equal, gap * relative))
        smaller = candidate.diagonal(dim1=1, dim2=2).sum(1) < best.diagonal(dim1=1, dim2=2).sum(1)  # NaN is not
        best = torch.where(smaller[:, None, None], candidate, best)
    return best


def bound_last_activation(shapes: _Shapes, low: _Rows, high: _Rows) -> _Shapes:
    """Hold multiples of the changes whose norms are at least those after the activations: by the steepest slopes.

    >>> slopes = torch.tensor([[3.0, 0.5]]).double()
    >>> bound_norms(bound_last_activation(torch.eye(2).double()[None], -slopes, slopes)).round(decimals=6)
    tensor([3.], dtype=torch.float64)
    """
    steepest = torch.maximum(low.abs(), high.abs())
    held = steepest[:, :, None] * shapes * steepest[:, None]
    return held + torch.diag_embed((8 * UNIT * _size(held) + 1e-290)[:, None].expand_as(low))


def _scaled(shapes: _Shapes, share: _Rows, gap: Float[Tensor, "batch 1"]) -> _Rows:
    """Give multiples `t` of `share` with `|t V t|` near `1 / (1 + gap)`; only how tight the result is depends on it."""
    vector = share.clone()
    for _ in range(30):
        image = share * torch.einsum("bij,bj->bi", shapes, share * vector)
        vector = image / image.norm(dim=1, keepdim=True).clamp(min=1e-300)
    reach = 1.05 * (share * torch.einsum("bij,bj->bi", shapes, share * vector)).norm(dim=1, keepdim=True)
    return share * (reach * (1.0 + gap)).clamp(min=1e-200).rsqrt()


def _enclose(shapes: _Shapes, c: _Rows, r: _Rows, t: _Rows) -> _Shapes:
    """Compute `G` and add its error, NaN where `K` is not proved to be positive definite.

    With `B = t V c`, any `X` near `K^-1 B` and `Q = B - K X`: `B^T K^-1 B = B^T X + X^T Q + Q^T K^-1 Q`.
    """
    size = shapes.shape[-1]
    right = t[:, :, None] * shapes * c[:, None]
    scaled = t[:, :, None] * shapes * t[:, None]
    matrix = torch.eye(size, dtype=t.dtype, device=t.device) - scaled
    least = _bound_least_eigenvalue(matrix, 8 * UNIT * _size(scaled))
    solution = torch.cholesky_solve(right, torch.linalg.cholesky_ex(matrix)[0])
    norms = _size(right), _size(solution), 1.0 * size**0.5 + _size(scaled)
    off = _SLACK * (_size(right - matrix @ solution) + gamma(size + 8) * (norms[0] + norms[2] * norms[1]))
    inner = c[:, :, None] * shapes * c[:, None]
    product = right.mT @ solution
    spread = torch.where(r > 0, r / torch.where(r > 0, t, 1.0), 0.0) ** 2
    error = norms[1] * off + off**2 / least + gamma(size + 8) * norms[0] * norms[1]
    error = _SLACK * error + 16 * UNIT * (_size(inner) + _size(product) + norm_of_each(spread)) + 1e-290
    held = _symmetric(inner + product) + torch.diag_embed(spread + error[:, None])
    return torch.where((least > 0)[:, None, None], held, torch.nan)


def _bound_least_eigenvalue(matrix: _Shapes, error: Float[Tensor, " batch"]) -> Float[Tensor, " batch"]:
    """Bound from below the least eigenvalue of `I - M`, for `M >= 0` known up to `error`; 0 where there is no proof.

    A Cholesky factorisation that runs to completion leaves no eigenvalue below `-gamma trace` (Higham 2002, 10.3).
    """
    size = matrix.shape[-1]
    identity = torch.eye(size, dtype=matrix.dtype, device=matrix.device)
    lost = 4.0 * gamma(4 * size + 4) * size + error
    best = torch.zeros_like(lost)
    for shift in (0.4, 0.1, 1e-2, 1e-4):
        failed = torch.linalg.cholesky_ex(matrix - shift * identity)[1] != 0
        best = torch.maximum(best, torch.where(failed, 0.0, shift - lost))
        if not failed.any():
            break
    return best


def bound_linear(
    shapes: _Shapes, weight: Float[Tensor, "m n"], weight_error: float, size: float
) -> Float[Tensor, "batch m m"]:
    """Hold the changes after a matrix: `W V W^T`.

    Args:
        shapes: of the changes before.
        weight: the matrix, in float64.
        weight_error: how far the meant one may be, in the Frobenius norm.
        size: a bound on the Frobenius norm of both.

    >>> shape = torch.eye(2).double()[None]
    >>> bound_linear(shape, 2 * torch.eye(2).double(), 0.0, 3.0).diagonal(dim1=1, dim2=2).round(decimals=6)
    tensor([[4., 4.]], dtype=torch.float64)
    """
    before = _size(shapes)
    rounding = gamma(2 * shapes.shape[-1] + 4)
    error = _SLACK**2 * before * (2 * rounding * size**2 + 2 * weight_error * size + weight_error**2) + 1e-290
    return _symmetric(weight @ shapes @ weight.T) + torch.diag_embed(error[:, None].expand(-1, len(weight)))


def bound_norms(shapes: _Shapes) -> Float[Tensor, " batch"]:
    """Bound the norms of the changes that shapes hold: the roots of verified largest eigenvalues (THEORY 7.2).

    >>> float(bound_norms(4 * torch.eye(2).double()[None]).round(decimals=6))
    2.0
    """
    size = shapes.shape[-1]
    identity = torch.eye(size, dtype=shapes.dtype, device=shapes.device)
    trace = shapes.diagonal(dim1=1, dim2=2).sum(1) * _SLACK
    scale = trace.clamp(min=1e-280)[:, None, None]
    scaled = shapes / scale  # eigenvalues in [0, 1]
    proposal = torch.linalg.eigvalsh(scaled)[:, -1]
    best = torch.ones_like(proposal)
    for excess in reversed(_EXCESSES):
        tau = proposal + excess
        proved = torch.linalg.cholesky_ex(tau[:, None, None] * identity - scaled)[1] == 0
        bound = tau + 4.0 * gamma(4 * size + 4) * (size * tau + 1.0) + 8.0 * UNIT * size
        best = torch.where(proved, torch.minimum(best, bound), best)
    return (best * scale[:, 0, 0]).sqrt() * (1.0 + 16 * UNIT)


def _symmetric(matrices: _Shapes) -> _Shapes:
    return 0.5 * (matrices + matrices.mT)


def _size(matrices: _Shapes) -> Float[Tensor, " batch"]:
    """Bound the Frobenius norms."""
    return _SLACK * norm_of_each(matrices)
