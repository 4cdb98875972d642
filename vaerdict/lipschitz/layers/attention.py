"""Self-attention that has a Lipschitz constant: L2 attention, and dot-product attention on a ball."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn


class L2SelfAttention(nn.Module):
    """Multi-head self-attention by distances (Kim, Papamakarios and Mnih, ICML 2021; THEORY 3.1).

    With heads `h` of width `k = features / heads`: `P^h_ij` is proportional to `exp(-|(x_i - x_j) W^h|^2 / sqrt(k))`,
    its rows sum to 1, a head gives `P^h X W^h W^hT V^h / sqrt(k)`, and the heads, side by side, are multiplied by `O`.
    Queries and keys share `W^h`, and the values pass through it: without either there is no Lipschitz constant.
    No masks. The constant depends on the number of tokens, which the layer does not know: see `bound_l2_attention`.

    Args:
        features: width `D` of a token.
        heads: how many; they must divide `features`.

    Raises:
        ValueError: `heads` does not divide `features`.

    >>> L2SelfAttention(features=6, heads=2)(torch.randn(5, 4, 6)).shape
    torch.Size([5, 4, 6])
    """

    def __init__(self, features: int, heads: int) -> None:
        super().__init__()
        self.query, self.value = _projections(features, heads), _projections(features, heads)
        self.output = nn.Parameter(torch.randn(features, features) / math.sqrt(features))

    def forward(self, tokens: Float[Tensor, "*batch tokens features"]) -> Float[Tensor, "*batch tokens features"]:
        """Let every token attend to those near it."""
        query = self.query / self.query.shape[-1] ** 0.25
        points = tokens.unsqueeze(-3) @ query
        centred = points - points.mean(-2, keepdim=True)  # keeps the digits of the distances
        # The softmax over j of -|y_i - y_j|^2: what depends on i alone drops out.
        logits = 2 * centred @ centred.mT - centred.square().sum(-1).unsqueeze(-2)
        means = torch.softmax(logits, -1) @ points
        return _join(means @ (query.mT @ self.value)) @ self.output

    def extra_repr(self) -> str:
        """Show the sizes."""
        return f"features={self.output.shape[0]}, heads={self.query.shape[0]}"


class BallAttention(nn.Module):
    """Multi-head dot-product self-attention on tokens that are first projected onto a ball (THEORY 3.1).

    `x / max(1, |x| / radius)` is 1-Lipschitz, and on a ball the usual attention has a Lipschitz constant; on the whole
    space it has none. No masks, no biases. The constant depends on the number of tokens: see `bound_ball_attention`.

    Args:
        features: width `D` of a token.
        heads: how many; they must divide `features`.
        radius: of the ball, in the units of the tokens.

    Raises:
        ValueError: `heads` does not divide `features`, or `radius` is not positive and finite.

    >>> BallAttention(features=6, heads=2, radius=1.0)(torch.randn(5, 4, 6)).shape
    torch.Size([5, 4, 6])
    """

    def __init__(self, features: int, heads: int, radius: float) -> None:
        super().__init__()
        if not 0 < radius < math.inf:
            raise ValueError(f"expected `radius` > 0 and finite, got {radius}")
        self.radius = radius
        self.query, self.key, self.value = (_projections(features, heads) for _ in range(3))
        self.output = nn.Parameter(torch.randn(features, features) / math.sqrt(features))

    def forward(self, tokens: Float[Tensor, "*batch tokens features"]) -> Float[Tensor, "*batch tokens features"]:
        """Project, then attend."""
        size = torch.linalg.vector_norm(tokens, dim=-1, keepdim=True)
        inside = (tokens / (size / self.radius).clamp(min=1)).unsqueeze(-3)
        logits = (inside @ self.query) @ (inside @ self.key).mT / math.sqrt(self.query.shape[-1])
        return _join(torch.softmax(logits, -1) @ (inside @ self.value)) @ self.output

    def extra_repr(self) -> str:
        """Show the sizes."""
        return f"features={self.output.shape[0]}, heads={self.query.shape[0]}, radius={self.radius!r}"


def _projections(features: int, heads: int) -> nn.Parameter:
    if heads < 1 or features < 1 or features % heads:
        raise ValueError(f"expected `heads` to divide `features` = {features}, got {heads}")
    return nn.Parameter(torch.randn(heads, features, features // heads) / math.sqrt(features))


def _join(
    heads: Float[Tensor, "*batch heads tokens width"],
) -> Float[Tensor, "*batch tokens features"]:
    return heads.transpose(-3, -2).flatten(-2)
