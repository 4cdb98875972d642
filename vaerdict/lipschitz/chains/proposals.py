"""Multipliers for a chain, found by gradient descent. Nothing here is trusted: `multipliers` proves what it uses.

An activation maps a change `v` of its inputs to `c v + r w` with `|w| <= |v|` in every neuron, where `c` is the middle
and `r` half the width of its slope interval. Multipliers `1 / s >= 0` turn this into ellipsoids: where the changes `v`
lie in the ellipsoid of shape `V` (`v^T V^-1 v <= 1`), and `diag(s) > r V r`, those of the outputs lie in that of shape

    G = diag(s) + c (V + V r (diag(s) - r V r)^-1 r V) c,

and the next layer makes `V = W G W^T` of it. Eliminating `w` and `v` from the quadratic form of LipSDP-Neuron (Fazlyab
et al., NeurIPS 2019) gives this recursion; its first step is the closed form of ECLipsE-Fast (Xu and Sivaranjani,
NeurIPS 2024), extended to any slopes.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

_RATE = 0.05
_STARTS = (1.0, 0.3, 0.0)  # shares of the gap between the closed form's and none
_NEAREST = math.log(1e-5)  # to the edge of `diag(s) > r V r`


class _Largest(torch.autograd.Function):
    """The largest eigenvalue, differentiated through one of its eigenvectors."""

    @staticmethod
    def forward(context: Any, matrix: Tensor) -> Tensor:
        values, vectors = _eigenvectors(matrix)
        context.save_for_backward(vectors[:, -1])
        return values[-1]

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> Tensor:
        (vector,) = context.saved_tensors
        return gradients[0] * torch.outer(vector, vector)


def _eigenvectors(matrix: Tensor) -> tuple[Tensor, Tensor]:
    try:
        return torch.linalg.eigh(matrix)
    except torch.linalg.LinAlgError:  # seen with many eigenvalues equal; another LAPACK may succeed
        values, vectors = np.linalg.eigh(matrix.numpy())
        return torch.from_numpy(values), torch.from_numpy(vectors)


@torch.enable_grad()
def propose_multipliers(
    weights: Sequence[Float[Tensor, "_ _"]],
    middles: Sequence[Float[Tensor, " _"]],
    radii: Sequence[Float[Tensor, " _"]],
    steps: int,
) -> tuple[list[Float[Tensor, " _"]], float]:
    """Give `s` for every activation, and the Lipschitz constant that they promise in exact arithmetic.

    Args:
        weights: of the affine maps, one more than activations, not all zero.
        middles: `c` of each activation.
        radii: `r` of each activation; `s` is 0 where it is 0.
        steps: of gradient descent (Adam) on the logarithm of the constant; 0 gives the closed form.

    >>> weights, half = [torch.eye(2).double()] * 2, [torch.full((2,), 0.5).double()]
    >>> round(propose_multipliers(weights, half, half, 0)[1], 4)
    1.0
    """
    first = weights[0] @ weights[0].T
    last = torch.linalg.qr(weights[-1], mode="r").R  # as good as the matrix itself, and no larger than its rows allow
    inner = [*weights[1:-1], last] if len(weights) > 1 else []
    shares = [torch.zeros_like(r, requires_grad=True) for r in radii]
    starts = [_gaps(middles, radii, factor) for factor in _STARTS]
    with torch.no_grad():
        gaps = min(
            starts, key=lambda some: float(_Largest.apply(_recursion(first, inner, middles, radii, shares, some)[1]))
        )
    gaps = [gap.requires_grad_() for gap in gaps]
    optimiser = torch.optim.Adam([*shares, *gaps], lr=_RATE) if radii else None
    best: tuple[list[Tensor], float] = ([], math.inf)
    for step in range(steps + 1):
        found, ellipsoid = _recursion(first, inner, middles, radii, shares, gaps)
        squared = _Largest.apply(ellipsoid)
        if float(squared.detach()) < best[1]:
            best = ([s.detach() for s in found], float(squared.detach()))
        if optimiser is None or step == steps or not squared.requires_grad:
            break
        optimiser.param_groups[0]["lr"] = _RATE * (1.0 - step / steps) + 1e-4
        optimiser.zero_grad()
        squared.log().backward()
        optimiser.step()
        for gap in gaps:
            gap.data.clamp_(min=_NEAREST)
    return best[0], math.sqrt(max(best[1], 0.0))


def _gaps(middles: Sequence[Tensor], radii: Sequence[Tensor], factor: float) -> list[Tensor]:
    """Give logarithms of `s / |r V r| - 1`; for equal neurons `|c| / r` would be best, that is factor 1."""
    ratios = [float(c.abs().max() / r.max().clamp(min=1e-300)) for c, r in zip(middles, radii, strict=True)]
    return [
        torch.tensor(min(max(math.log(factor * ratio), _NEAREST), -2 * _NEAREST), dtype=torch.float64)
        if factor * ratio > 0
        else torch.tensor(_NEAREST, dtype=torch.float64)
        for ratio in ratios
    ]


def _recursion(
    ellipsoid: Tensor,
    weights: Sequence[Tensor],
    middles: Sequence[Tensor],
    radii: Sequence[Tensor],
    shares: Sequence[Tensor],
    gaps: Sequence[Tensor],
) -> tuple[list[Tensor], Tensor]:
    """Carry an ellipsoid through the chain; `s` is `exp(share)`, scaled so that it fits with a gap to spare."""
    found = []
    for weight, c, r, share, gap in zip(weights, middles, radii, shares, gaps, strict=True):
        active = torch.nonzero(r).flatten()
        outputs = _sandwich(c, ellipsoid)
        s = torch.zeros_like(r)
        if len(active):
            rows, wide = ellipsoid[active], share[active].exp()
            reach = rows[:, active]
            tightest = _Largest.apply(_sandwich(r[active] / wide.sqrt(), reach))
            s = s.index_put((active,), wide * tightest * (1.0 + gap.exp()))
            scaled = r[active] / s[active].sqrt()
            root = torch.linalg.cholesky(torch.eye(len(active), dtype=s.dtype) - _sandwich(scaled, reach))
            gain = torch.linalg.solve_triangular(root, scaled[:, None] * rows * c, upper=False)
            outputs = outputs + torch.diag(s) + gain.T @ gain
        ellipsoid = weight @ outputs @ weight.T
        found.append(s)
    return found, ellipsoid


def _sandwich(diagonal: Tensor, matrix: Tensor) -> Tensor:
    return diagonal[:, None] * matrix * diagonal
