"""Attention computes what it says, and nothing found by search or by hand exceeds its bounds."""

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mpmath import mp
from scipy.special import lambertw
from torch import Tensor, nn

from vaerdict.lipschitz import bound_spectral_norm
from vaerdict.lipschitz.layers.attention import BallAttention, L2SelfAttention
from vaerdict.lipschitz.layers.residual import InvertibleResidual
from vaerdict.lipschitz.norms import attention as attention_bounds
from vaerdict.lipschitz.norms.attention import (
    bound_ball_attention,
    bound_l2_attention,
    bound_mean_shift,
    bound_mean_shift_published,
)

_SCALES = st.sampled_from([1e-20, 1e-3, 0.3, 1.0, 3.0, 1e4])


def spread(tokens: int) -> mp.mpf:
    """The number `w` of the proofs, at 40 digits."""
    with mp.workdps(40):
        return mp.lambertw((tokens - 1) / mp.e).real


def mean_shift(features: int) -> L2SelfAttention:
    """A layer with one head whose weights cancel, so that it computes `m` itself."""
    layer = L2SelfAttention(features, 1).double()
    layer.query.data[0] = features**0.25 * torch.eye(features, dtype=torch.float64)
    layer.value.data[0] = layer.output.data = torch.eye(features, dtype=torch.float64)
    return layer


def jacobian(layer: nn.Module, tokens: Tensor) -> Tensor:
    """The Jacobian at one sequence as a matrix."""
    full = torch.autograd.functional.jacobian(layer, tokens)
    return full.reshape(tokens.numel(), tokens.numel())


def derivative(layer: nn.Module, tokens: Tensor, direction: Tensor) -> Tensor:
    """The directional derivative, which can be differentiated again."""
    return torch.autograd.functional.jvp(layer, tokens, direction, create_graph=True)[1]


def crowds(tokens: int, features: int) -> Tensor:
    """One token between two crowds, at the distance where their spread about it is largest."""
    points = torch.zeros(tokens, features, dtype=torch.float64)
    points[1:, 0] = math.sqrt(float(spread(tokens)) + 1)
    points[1 : 1 + (tokens - 1) // 2, 0] *= -1
    return points


def star(tokens: int) -> Tensor:
    """Tokens far from each other, all at the same distance from a crowd in their centre; the last axis stays free."""
    centre = round(math.sqrt(tokens))
    points = torch.zeros(tokens, tokens - centre + 1, dtype=torch.float64)
    points[centre:, :-1] = math.sqrt(math.log(tokens) / 2) * torch.eye(tokens - centre, dtype=torch.float64)
    return points


def clouds(tokens: int, features: int, seed: int) -> list[Tensor]:
    """Point clouds of many sizes and shapes, hostile ones included."""
    generator = torch.Generator().manual_seed(seed)
    cloud = torch.randn(tokens, features, dtype=torch.float64, generator=generator)
    near = torch.where(torch.rand(tokens, 1, generator=generator) < 0.5, 0.01, 1.0)
    line = cloud[:, :1] * cloud[:1]
    return [size * shape for size in (0.1, 0.5, 1.0, 2.0) for shape in (cloud, near * cloud, line)]


def ascend(layer: nn.Module, tokens: Tensor, steps: int) -> float:
    """Climb the Jacobian's norm from a batch of starts: power iteration in `v`, Adam in the tokens."""
    tokens = tokens.clone().requires_grad_()
    v = torch.randn_like(tokens)
    optimiser = torch.optim.Adam([tokens], lr=0.03)
    best = 0.0
    for _ in range(steps):
        v = (v / v.flatten(1).norm(dim=1)[:, None, None]).detach().requires_grad_()
        moved = derivative(layer, tokens, v)
        norm = moved.flatten(1).norm(dim=1)
        best = max(best, float(norm.detach().max()))
        tokens.grad, v = torch.autograd.grad(-norm.log().sum(), (tokens, v))
        optimiser.step()
    return best


def test_l2_attention_is_its_definition() -> None:
    layer = L2SelfAttention(6, 2).double()
    x = torch.randn(5, 6, dtype=torch.float64) + 3
    heads = []
    for w, v in zip(layer.query, layer.value, strict=True):
        p = torch.softmax(-(torch.cdist(x @ w, x @ w) ** 2) / math.sqrt(3), -1)
        heads.append(p @ x @ w @ w.T / math.sqrt(3) @ v)
    assert torch.allclose(layer(x), torch.cat(heads, 1) @ layer.output)
    assert torch.allclose(layer(torch.stack([0 * x, x]))[1], layer(x))


def test_ball_attention_is_torch_attention_on_projected_tokens() -> None:
    layer = BallAttention(6, 2, radius=1.5).double()
    x = torch.randn(5, 6, dtype=torch.float64) * torch.linspace(0, 2, 5, dtype=torch.float64)[:, None]
    inside = torch.stack([token if token.norm() <= 1.5 else 1.5 * token / token.norm() for token in x])
    head = nn.functional.scaled_dot_product_attention(inside @ layer.query, inside @ layer.key, inside @ layer.value)
    assert torch.allclose(layer(x), torch.cat(list(head), 1) @ layer.output)


@settings(max_examples=15, deadline=None)
@given(tokens=st.integers(1, 14), features=st.integers(1, 14), seed=st.integers(0, 2**31))
def test_lemmas_of_the_proof(tokens: int, features: int, seed: int) -> None:
    """Columns: `a^2 + 2 b^2 <= N`; rows: a spread of at most `w`."""
    for y in [*clouds(tokens, features, seed), crowds(tokens, features), star(tokens)]:
        gaps = y.unsqueeze(1) - y  # i, k
        weights = torch.softmax(-gaps.square().sum(-1), -1)
        second_moments = torch.einsum("ik,ikd,ike->kde", weights, gaps, gaps)
        columns, largest = weights.sum(0), torch.linalg.matrix_norm(second_moments, 2)
        assert (columns**2 + 2 * largest**2 <= tokens * (1 + 1e-12)).all()
        assert ((weights * gaps.square().sum(-1)).sum(1) <= float(spread(tokens)) + 1e-12).all()


@pytest.mark.parametrize("tokens", [3, 17, 257])
def test_the_spread_is_attained_and_the_fourth_root_is_nearly(tokens: int) -> None:
    """Neither `2 w` nor `N^(1/4)` can be given up: the bound's order is right."""
    layer = mean_shift(1)
    direction = torch.eye(tokens, 1, dtype=torch.float64)
    moved = derivative(layer, crowds(tokens, 1), direction)
    w = float(spread(tokens))
    assert float(moved[0].detach()) == pytest.approx(2 * w + 1 / (w + 1))
    points = star(tokens)
    direction = torch.zeros_like(points)
    direction[: round(math.sqrt(tokens)), -1] = round(math.sqrt(tokens)) ** -0.5
    moved = derivative(mean_shift(points.shape[1]), points, direction)
    assert tokens**0.25 / 3.3 <= float(moved.detach().norm()) <= bound_mean_shift(tokens)


@pytest.mark.parametrize("tokens", [1, 2, 3, 16, 1024, 10**6, 10**15])
def test_scalars_are_rounded_up_and_by_little(tokens: int) -> None:
    with mp.workdps(40):
        w = spread(tokens)
        ours = 2 * w + mp.root(tokens, 4) * (1 + 2 * w ** mp.mpf(2 / mp.mpf(3))) ** mp.mpf(0.75)
        published = mp.sqrt(tokens) * (4 * w + 1)
        for bound, truth in (
            (bound_mean_shift(tokens), ours),
            (bound_mean_shift_published(tokens), published),
        ):
            assert truth < mp.mpf(bound) < truth * (1 + mp.mpf(10) ** -14)


def test_is_below_the_published_bound_and_grows_with_the_tokens() -> None:
    bounds = [bound_mean_shift(tokens) for tokens in range(1, 200)]
    assert bounds == sorted(bounds)
    assert all(ours < bound_mean_shift_published(n) for n, ours in enumerate(bounds[1:], 2))


@settings(max_examples=15, deadline=None)
@given(
    tokens=st.integers(1, 8),
    heads=st.integers(1, 3),
    width=st.integers(1, 3),
    seed=st.integers(0, 2**31),
    scale=_SCALES,
    kind=st.sampled_from(["plain", "rank one", "orthogonal", "uneven heads", "one head zero"]),
)
def test_l2_attention_stays_below_its_bounds(
    tokens: int, heads: int, width: int, seed: int, scale: float, kind: str
) -> None:
    generator = torch.Generator().manual_seed(seed)
    layer = L2SelfAttention(heads * width, heads).double()
    for weight in (layer.query.data, layer.value.data):
        weight.normal_(generator=generator)
        if kind == "rank one":
            weight.copy_(weight[:, :, :1] * weight[:, :1, :])
        if kind == "orthogonal":
            weight.copy_(torch.linalg.qr(weight).Q)
        if kind == "uneven heads":
            weight.mul_(10.0 ** -torch.arange(heads, dtype=torch.float64)[:, None, None])
        if kind == "one head zero":
            weight[0] = 0
    layer.query.data.mul_(scale)
    bound, highest = bound_l2_attention(layer, tokens), bound_l2_attention(layer, tokens, math.inf)
    for cloud in clouds(tokens, heads * width, seed):
        full = jacobian(layer, cloud / scale)
        assert float(torch.linalg.matrix_norm(full, 2)) <= bound * (1 + 1e-12)
        assert float(full.abs().sum(1).max()) <= highest * (1 + 1e-12)
    norms = [
        bound_spectral_norm(q) ** 2 * bound_spectral_norm(v) for q, v in zip(layer.query, layer.value, strict=True)
    ]
    separate = math.hypot(*norms) * bound_spectral_norm(layer.output) / math.sqrt(width)
    assert bound <= bound_mean_shift(tokens) * separate * (1 + 1e-7)


def test_one_token_needs_the_fourth_power_of_the_query() -> None:
    """With one token the layer is linear and the bound exact: `|W^Q|^2` under the root, as often quoted, would fail."""
    layer = mean_shift(3)
    layer.query.data.mul_(10)
    assert bound_l2_attention(layer, 1) == pytest.approx(100, rel=1e-9)
    truth = float(torch.linalg.matrix_norm(jacobian(layer, torch.randn(1, 3, dtype=torch.float64)), 2))
    assert truth == pytest.approx(100)
    assert truth <= bound_l2_attention(layer, 1)


@pytest.mark.parametrize("tokens", [4, 16])
def test_search_does_not_beat_the_l2_bound(tokens: int) -> None:
    starts = (
        torch.randn(20, tokens, 2, dtype=torch.float64)
        * torch.logspace(-1, 0.7, 20, dtype=torch.float64)[:, None, None]
    )
    starts[:5] = crowds(tokens, 2) + 0.1 * torch.randn(5, tokens, 2, dtype=torch.float64)
    layer = mean_shift(2)
    best = ascend(layer, starts, 150)
    assert 2 * float(spread(tokens)) < best <= bound_l2_attention(layer, tokens)


@pytest.mark.parametrize("tokens", [4, 16])
def test_search_does_not_beat_the_ball_bound(tokens: int) -> None:
    layer = BallAttention(4, 2, radius=1.2).double()
    starts = torch.randn(20, tokens, 4, dtype=torch.float64)
    best = ascend(layer, starts, 150)
    assert 0.1 * bound_ball_attention(layer, tokens) < best <= bound_ball_attention(layer, tokens)


@settings(max_examples=15, deadline=None)
@given(
    tokens=st.integers(1, 8),
    heads=st.integers(1, 3),
    seed=st.integers(0, 2**31),
    scale=_SCALES,
    radius=st.sampled_from([1e-3, 0.5, 1.0, 4.0]),
)
def test_ball_attention_stays_below_its_bound(tokens: int, heads: int, seed: int, scale: float, radius: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    layer = BallAttention(2 * heads, heads, radius).double()
    layer.query.data.normal_(generator=generator).mul_(scale)
    layer.value.data.normal_(generator=generator)
    layer.value.data[0].mul_(scale)
    bound = bound_ball_attention(layer, tokens)
    for cloud in clouds(tokens, 2 * heads, seed):
        norm = float(torch.linalg.matrix_norm(jacobian(layer, radius * cloud), 2))
        assert norm <= bound * (1 + 1e-12)


def test_ball_bound_is_exact_where_attention_is_a_mean() -> None:
    layer = BallAttention(3, 1, radius=2.0).double()
    layer.key.data.zero_()
    truth = float(torch.linalg.matrix_norm(layer.value.data[0], 2) * torch.linalg.matrix_norm(layer.output.data, 2))
    assert truth * (1 - 1e-14) <= bound_ball_attention(layer, 7) <= truth * (1 + 1e-9)
    layer.key.data.fill_(1e50)  # logits so large that any token may draw all attention
    assert math.sqrt(7) * 1e50 < bound_ball_attention(layer, 7) < math.inf


def test_ball_bound_is_its_formula() -> None:
    """Logits up to 3: half the radius needs queries and keys of twice the size."""
    layer = BallAttention(4, 1, radius=0.5).double()
    layer.query.data[0] = layer.key.data[0] = math.sqrt(3 * 2) * 2 * torch.eye(4, dtype=torch.float64)
    layer.value.data[0] = layer.output.data = 5 * torch.eye(4, dtype=torch.float64)
    columns = 16 / (1 + 15 * math.exp(-6))
    assert bound_ball_attention(layer, 16) == pytest.approx(25 * (4 * math.sqrt(columns) + 3), rel=1e-9)


def test_maximum_norm_bound_is_its_formula() -> None:
    layer = mean_shift(4)
    layer.value.data.mul_(3)
    for tokens in (1, 16):
        wanted = 3 * (4 * float(spread(tokens)) + 0.5) * 2  # |W| |W^T| = sqrt(4)
        assert bound_l2_attention(layer, tokens, math.inf) == pytest.approx(wanted, rel=1e-12)
    assert float(jacobian(layer, torch.randn(1, 4, dtype=torch.float64)).abs().sum(1).max()) == pytest.approx(3)


@pytest.mark.parametrize("name", ["value", "output"])
def test_maximum_norm_bound_is_exact_for_one_token_and_a_sum(name: str) -> None:
    """A sum of four values moves by four: the transposed weight has that row sum, the weight itself has 1."""
    layer = mean_shift(4)
    getattr(layer, name).data.zero_()[..., 0] = 1
    assert float(jacobian(layer, torch.randn(1, 4, dtype=torch.float64)).abs().sum(1).max()) == pytest.approx(4)
    assert 4 <= bound_l2_attention(layer, 1, math.inf) == pytest.approx(4)


def test_does_not_rely_on_the_library_for_lambert_w(monkeypatch: pytest.MonkeyPatch) -> None:
    def low(value: float) -> complex:
        return complex(lambertw(value)) * (1 - 1e-14)

    monkeypatch.setattr(attention_bounds, "lambertw", low)
    for tokens in (2, 16, 1000):
        with mp.workdps(40):
            assert bound_mean_shift_published(tokens) > mp.sqrt(tokens) * (4 * spread(tokens) + 1)


def test_zero_weights_have_constant_zero() -> None:
    for layer, bound in ((L2SelfAttention(4, 2), bound_l2_attention), (BallAttention(4, 2, 1.0), bound_ball_attention)):
        layer.value.data.zero_()
        assert bound(layer, 5) == 0.0


@pytest.mark.parametrize("bad", [math.nan, math.inf, 1e-70, 1e70])
def test_refuses_weights_that_are_not_finite_or_extreme(bad: float) -> None:
    layers: list[tuple[nn.Module, Callable[..., float]]] = [
        (L2SelfAttention(4, 2).double(), bound_l2_attention),
        (BallAttention(4, 2, 1.0).double(), bound_ball_attention),
    ]
    for layer, bound in layers:
        for name, weight in layer.named_parameters():
            kept = weight.data.clone()
            weight.data.fill_(bad)
            with pytest.raises(ValueError, match=f"expected `{name}` finite"):
                bound(layer, 5)
            weight.data.copy_(kept)


def test_refuses_what_it_does_not_know() -> None:
    with pytest.raises(ValueError, match=r"expected `heads` to divide `features` = 6, got 4"):
        L2SelfAttention(6, 4)
    with pytest.raises(ValueError, match=r"expected `radius` > 0"):
        BallAttention(6, 3, 0.0)
    with pytest.raises(ValueError, match=r"expected `norm` 2 or inf, got 1"):
        bound_l2_attention(L2SelfAttention(6, 3), 4, norm=1)
    with pytest.raises(ValueError, match=r"expected `tokens` >= 1, got 0"):
        bound_l2_attention(L2SelfAttention(6, 3), 0)
    with pytest.raises(ValueError, match=r"expected `tokens` >= 1, got 0"):
        bound_ball_attention(BallAttention(6, 3, 1.0), 0)
    layer = BallAttention(6, 3, 1.0)
    layer.radius = -1.0
    with pytest.raises(ValueError, match=r"expected `radius` > 0, got -1"):
        bound_ball_attention(layer, 4)
    layer.radius = 1e200
    with pytest.raises(ValueError, match="expected a finite bound"):
        bound_ball_attention(layer, 4)


def test_a_residual_block_of_attention_can_be_inverted() -> None:
    attention = L2SelfAttention(6, 2).double()
    block = InvertibleResidual(attention, share=0.9, block_bound=bound_l2_attention(attention, 10)).double()
    x = 2 * torch.randn(3, 10, 6, dtype=torch.float64)
    assert float((block.inverse(block(x)) - x).flatten(1).norm(dim=1).max()) <= 1e-5
