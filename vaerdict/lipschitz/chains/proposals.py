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
from dataclasses import dataclass
from functools import partial, reduce
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

_STARTS = (1.0, 0.3, 0.0)  # shares of the gap between the closed form's and none
_NEAREST = math.log(1e-5)  # to the edge of `diag(s) > r V r`


class _Largest(torch.autograd.Function):
    """The largest eigenvalues, differentiated through one of the eigenvectors each."""

    @staticmethod
    def forward(context: Any, matrix: Tensor) -> Tensor:
        values, vectors = _eigenvectors(matrix)
        context.save_for_backward(vectors[..., -1])
        return values[..., -1]

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> Tensor:
        (vector,) = context.saved_tensors
        return gradients[0][..., None, None] * vector[..., :, None] * vector[..., None, :]


def _eigenvectors(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Give NaN for problems that are not finite: the others shall not fail with them."""
    finite = torch.isfinite(matrix).all(-1).all(-1)[..., None]
    safe = torch.where(finite[..., None], matrix, 0.0)
    try:
        values, vectors = torch.linalg.eigh(safe)
    except torch.linalg.LinAlgError:  # seen with many eigenvalues equal; another LAPACK may succeed
        values, vectors = (torch.from_numpy(one).to(matrix) for one in np.linalg.eigh(safe.cpu().numpy()))
    return torch.where(finite, values, torch.nan), vectors


@dataclass(frozen=True)
class Proposal:
    """Multipliers, and what they promise in exact arithmetic; `...` are problems solved at once.

    Attributes:
        multipliers: `s` of each activation, 0 where its `r` is 0.
        shares: logarithms of `s`, but for one number per activation.
        gaps: logarithms of `s / least s - 1`, one per activation.
        squared: the squares of the Lipschitz constants, infinite where no multipliers are found.
    """

    multipliers: list[Float[Tensor, "... _"]]
    shares: list[Float[Tensor, "... _"]]
    gaps: list[Float[Tensor, "... 1"]]
    squared: Float[Tensor, "..."]

    def or_better(self, other: "Proposal") -> "Proposal":
        """Take of each problem what promises the smaller constant."""
        smaller = (other.squared < self.squared)[..., None]

        def chosen(ours: list[Tensor], theirs: list[Tensor]) -> list[Tensor]:
            return [torch.where(smaller, their, our).detach() for our, their in zip(ours, theirs, strict=True)]

        return Proposal(
            chosen(self.multipliers, other.multipliers),
            chosen(self.shares, other.shares),
            chosen(self.gaps, other.gaps),
            torch.minimum(self.squared, other.squared).detach(),
        )


@torch.inference_mode(mode=False)
@torch.enable_grad()
def propose_multipliers(
    weights: Sequence[Float[Tensor, "... _ _"]],
    middles: Sequence[Float[Tensor, "... _"]],
    radii: Sequence[Float[Tensor, "... _"]],
    steps: int,
    rate: float = 0.05,
) -> Proposal:
    """Give `s` for every activation, and the Lipschitz constants that they promise.

    Args:
        weights: of the affine maps, one more than activations, not all zero.
        middles: `c` of each activation; leading axes are problems of their own.
        radii: `r` of each activation.
        steps: of gradient descent (Adam) on the logarithm of the constants; 0 gives the closed form.
        rate: of the first step; it falls to almost 0.

    >>> weights, half = [torch.eye(2).double()] * 2, [torch.full((2,), 0.5).double()]
    >>> round(float(propose_multipliers(weights, half, half, 0).squared), 4)
    1.0
    """
    weights, middles, radii = ([one.clone() for one in some] for some in (weights, middles, radii))  # of any mode
    first = weights[0] @ weights[0].mT
    last = torch.linalg.qr(weights[-1], mode="r").R  # as good as the matrix itself, and no larger than its rows allow
    inner = [*weights[1:-1], last] if len(weights) > 1 else []
    carry = partial(_recursion, first, inner, middles, radii)
    equal = [torch.zeros_like(r) for r in radii]
    best = reduce(Proposal.or_better, [carry(equal, _gaps(middles, radii, factor)) for factor in _STARTS])
    shares, gaps = ([one.clone().requires_grad_() for one in some] for some in (best.shares, best.gaps))
    if not radii:
        return best
    optimiser = torch.optim.Adam([*shares, *gaps], lr=rate)
    for step in range(steps):
        tried = carry(shares, gaps)
        if not tried.squared.requires_grad:
            break
        best = best.or_better(tried)
        optimiser.param_groups[0]["lr"] = rate * (1.0 - step / steps) + 1e-4
        optimiser.zero_grad()
        tried.squared.clamp(min=1e-300).log().sum().backward()
        for one in (*shares, *gaps):
            if one.grad is not None:
                one.grad.nan_to_num_(0.0, 0.0, 0.0)  # of a problem without multipliers
        optimiser.step()
        for gap in gaps:
            gap.data.clamp_(min=_NEAREST)
    return best.or_better(carry(shares, gaps))


def _gaps(middles: Sequence[Tensor], radii: Sequence[Tensor], factor: float) -> list[Tensor]:
    """Give logarithms of `s / |r V r| - 1`; for equal neurons `|c| / r` would be best, that is factor 1."""
    largest = [
        (c.abs().amax(-1, True), r.amax(-1, True).clamp(min=1e-300)) for c, r in zip(middles, radii, strict=True)
    ]
    return [(factor * c / r).log().clamp(_NEAREST, -2 * _NEAREST) for c, r in largest]


def _recursion(
    ellipsoid: Tensor,
    weights: Sequence[Tensor],
    middles: Sequence[Tensor],
    radii: Sequence[Tensor],
    shares: Sequence[Tensor],
    gaps: Sequence[Tensor],
) -> Proposal:
    """Carry ellipsoids through the chain; `s` is `exp(share)`, scaled so that it fits with a gap to spare."""
    found = []
    for weight, c, r, share, gap in zip(weights, middles, radii, shares, gaps, strict=True):
        active = torch.nonzero((r > 0).reshape(-1, r.shape[-1]).any(0)).flatten()  # in any of the problems
        ellipsoid = ellipsoid.expand(*r.shape, r.shape[-1])
        outputs = _sandwich(c, ellipsoid)
        s = torch.zeros_like(r)
        if len(active):
            rows, wide, narrow = ellipsoid[..., active, :], share[..., active].exp(), r[..., active]
            reach = rows[..., active]
            tightest = _Largest.apply(_sandwich(narrow / wide.sqrt(), reach)).clamp(min=1e-300)
            some = wide * (tightest[..., None] * (1.0 + gap.exp()))
            s = s.index_copy(-1, active, torch.where(narrow > 0, some, 0.0))
            scaled = narrow / some.sqrt()
            identity = torch.eye(len(active), dtype=s.dtype, device=s.device)
            root, failed = torch.linalg.cholesky_ex(identity - _sandwich(scaled, reach))
            root = torch.where((failed == 0)[..., None, None], root, torch.nan)
            gain = torch.linalg.solve_triangular(root, scaled[..., None] * rows * c[..., None, :], upper=False)
            outputs = outputs + torch.diag_embed(s) + gain.mT @ gain
        ellipsoid = weight @ outputs @ weight.mT
        found.append(s)
    return Proposal(found, list(shares), list(gaps), _Largest.apply(ellipsoid).nan_to_num(torch.inf, torch.inf))


def _sandwich(diagonal: Tensor, matrix: Tensor) -> Tensor:
    return diagonal[..., :, None] * matrix * diagonal[..., None, :]
