"""Proved Lipschitz constants of attention, for a given number of tokens (THEORY 3.1; proofs in docs/attention.md).

Scalars are computed with 50 decimal digits and rounded up once; norms come from `bound_spectral_norm`.
"""

import math
from decimal import Context, Decimal, localcontext

import torch
from jaxtyping import Float
from scipy.special import lambertw
from torch import Tensor

from vaerdict.lipschitz.floats import UNIT, gamma, round_up
from vaerdict.lipschitz.layers.attention import BallAttention, L2SelfAttention
from vaerdict.lipschitz.norms.infinity import bound_inf_norm
from vaerdict.lipschitz.norms.spectral import bound_spectral_norm

_DIGITS = Context(prec=50)


def bound_l2_attention(layer: L2SelfAttention, tokens: int, norm: float = 2.0) -> float:
    """Bound the Lipschitz constant of L2 attention on sequences of `tokens` tokens, each sequence one long vector.

    `norm=2`: `Lip(m) / sqrt(k) * |[c_1 W^1, ..., c_H W^H]| * |O|` with `c_h = |W^hT V^h|` and `Lip(m)` from
    `bound_mean_shift`. `norm=inf`: `(4 w + 1/sqrt(k)) max_h |W^h| |W^hT| |V^hT| * |O^T|`, matrix norms of largest
    absolute row sums (Kim et al., ICML 2021).

    Args:
        layer: the layer, its weights as stored.
        tokens: length `N` of the sequence, as in an input of shape `(N, D)`; the bound grows with it.
        norm: 2 or infinity, at the input and at the output.

    Raises:
        ValueError: `tokens` or `norm` is none of these, or a weight is NaN, infinite or of extreme size.

    >>> bound_l2_attention(L2SelfAttention(features=4, heads=2), tokens=16) > 0
    True
    """
    if norm not in (2, math.inf):
        raise ValueError(f"expected `norm` 2 or inf, got {norm}")
    _refuse_extreme(query=layer.query, value=layer.value, output=layer.output)
    heads = list(zip(_matrices(layer.query), _matrices(layer.value), strict=True))
    width, (output,) = layer.query.shape[-1], _matrices(layer.output)
    if norm == math.inf:
        head = max(_product(bound_inf_norm(q), bound_inf_norm(q.T), bound_inf_norm(v.T)) for q, v in heads)
        return _product(_maximum_norm_factor(tokens, width), head, bound_inf_norm(output.T))
    queries = torch.cat([_bound_product(query.T, value) * query for query, value in heads], 1)
    scaled = bound_spectral_norm(queries, relative_error=4.0 * UNIT)
    return _product(bound_mean_shift(tokens), round_up(1.0 / math.sqrt(width), 4), scaled, bound_spectral_norm(output))


def bound_ball_attention(layer: BallAttention, tokens: int) -> float:
    """Bound the L2 Lipschitz constant of dot-product attention on a ball, on sequences of `tokens` tokens.

    A head has `|V| (sqrt(c) (1 + B) + B)` with `B = |W^Q W^KT| radius^2 / sqrt(k)` and `c = N / (1 + (N-1) exp(-2 B))`;
    heads combine to the root of the sum of squares, times `|O|`.

    Args:
        layer: the layer, its weights as stored.
        tokens: length `N` of the sequence, as in an input of shape `(N, D)`; the bound grows with it.

    Raises:
        ValueError: `tokens` < 1, the radius is not positive, a weight is NaN, infinite or of extreme size, or the bound
            is infinite.

    >>> bound_ball_attention(BallAttention(features=4, heads=2, radius=1.0), tokens=16) > 0
    True
    """
    if not layer.radius > 0:
        raise ValueError(f"expected `radius` > 0, got {layer.radius}")
    _refuse_extreme(query=layer.query, key=layer.key, value=layer.value, output=layer.output)
    reach = _product(layer.radius, layer.radius, round_up(1.0 / math.sqrt(layer.query.shape[-1]), 4))
    heads = []
    for query, key, value in zip(*(_matrices(w) for w in (layer.query, layer.key, layer.value)), strict=True):
        logit = _product(_bound_product(query, key.T), reach)
        heads.append(_product(bound_spectral_norm(value), _ball_factor(logit, tokens)))
    squares = sum(_product(head, head) for head in heads)
    together = round_up(math.sqrt(squares), len(heads) + 2)
    return _product(together, bound_spectral_norm(_matrices(layer.output)[0])) if squares else 0.0


def bound_mean_shift(tokens: int) -> float:
    """Bound the L2 Lipschitz constant of `m`, `m_i(y) = sum_j softmax_j(-|y_i - y_j|^2) y_j`, in any dimension.

    `2 w + N^(1/4) (1 + 2 w^(2/3))^(3/4)` with `w = W_0((N-1)/e)`: attention's column sums are at most `sqrt(N)`.

    Raises:
        ValueError: `tokens` < 1.

    >>> 13.3 < bound_mean_shift(64) < 13.4
    True
    """
    with localcontext(_DIGITS):
        w = _largest_spread(tokens)
        root = Decimal(tokens).sqrt().sqrt()
        crowd = (1 + 2 * (w * w) ** (Decimal(1) / 3)) ** (Decimal(3) / 4)
        return _up(2 * w + root * crowd)


def bound_mean_shift_published(tokens: int) -> float:
    """Bound the same constant as published, `sqrt(N) (4 w + 1)` (Kim et al., ICML 2021), for comparison.

    Raises:
        ValueError: `tokens` < 1.

    >>> 81.8 < bound_mean_shift_published(64) < 81.9
    True
    """
    with localcontext(_DIGITS):
        return _up(Decimal(tokens).sqrt() * (4 * _largest_spread(tokens) + 1))


def _largest_spread(tokens: int) -> Decimal:
    """Bound `w = W_0((N-1)/e)`, the largest `sum_k P_ik |y_k - y_i|^2`, proved by `w exp(w + 1) >= N - 1`."""
    if tokens < 1:
        raise ValueError(f"expected `tokens` >= 1, got {tokens}")
    w = float(lambertw((tokens - 1) / math.e).real)
    while Decimal(w) * (Decimal(w) + 1).exp() * (1 - Decimal(10) ** -40) < tokens - 1:
        w = round_up(w)
    return Decimal(w)


def _maximum_norm_factor(tokens: int, width: int) -> float:
    with localcontext(_DIGITS):
        return _up(4 * _largest_spread(tokens) + 1 / Decimal(width).sqrt())


def _ball_factor(logit: float, tokens: int) -> float:
    if tokens < 1:
        raise ValueError(f"expected `tokens` >= 1, got {tokens}")
    with localcontext(_DIGITS):
        largest = Decimal(logit)
        columns = tokens / (1 + (tokens - 1) * (-2 * largest).exp())
        return _up(columns.sqrt() * (1 + largest) + largest)


def _up(value: Decimal) -> float:
    return round_up(float(value))


def _product(*factors: float) -> float:
    """Multiply upwards; zeros are exact."""
    if 0.0 in factors:
        return 0.0
    product = 1.0
    for factor in factors:
        product = round_up(product * factor)
    if not math.isfinite(product):
        raise ValueError(f"expected a finite bound, got {product}")
    return product


def _matrices(weight: Float[Tensor, "*heads rows columns"]) -> list[Tensor]:
    return list(weight.detach().cpu().double().reshape(-1, *weight.shape[-2:]))


def _refuse_extreme(**weights: Tensor) -> None:
    """Refuse sizes at which products of two weights overflow, or underflow by more than the rounding allowed for."""
    for name, weight in weights.items():
        for matrix in _matrices(weight):
            largest = float(matrix.abs().max())
            if not (largest == 0 or 1e-60 <= largest <= 1e60):
                raise ValueError(f"expected `{name}` finite, its largest entry in 1e-60 to 1e60, got {largest:g}")


def _bound_product(left: Float[Tensor, "rows inner"], right: Float[Tensor, "inner columns"]) -> float:
    """Bound the spectral norm of a product of two matrices, its own rounding included (Higham 2002, 3.5)."""
    sizes = float(left.norm()) * float(right.norm())
    rounding = 2.0 * gamma(left.shape[1] + 1) * sizes
    return round_up(bound_spectral_norm(left @ right) + rounding, 2) if sizes else 0.0
