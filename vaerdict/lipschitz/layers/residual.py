"""Residual blocks: a convex mix that stays 1-Lipschitz, and one that can be inverted."""

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, fx, nn

_Features = Float[Tensor, "batch ..."] | fx.Proxy  # a stand-in while `torch.fx` traces


def _added(skip: Any, moved: Any) -> Any:
    """Add, but never by repeating values."""
    if isinstance(moved, Tensor) and skip.shape != moved.shape:
        raise ValueError(f"expected a block that keeps the shape {tuple(skip.shape)}, got {tuple(moved.shape)}")
    return skip + moved


class ConvexResidual(nn.Module):
    """Mix the input with a block's output, `(1 - a) x + a f(x)`: 1-Lipschitz in every norm in which `f` is.

    `a = sigmoid(free)` is learned and starts at 1/2. Generally the constant is `(1 - a) + a Lip(f)`.

    Args:
        block: `f`, which keeps the shape.

    Raises:
        ValueError: when called with a block that changes the shape.

    >>> ConvexResidual(nn.Tanh())(torch.zeros(1, 2))
    tensor([[0., 0.]], grad_fn=<AddBackward0>)
    """

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block
        self.free = nn.Parameter(torch.zeros(()))

    def forward(self, features: _Features) -> _Features:
        """Mix input and output."""
        kept: Any = 1 - torch.sigmoid(self.free)
        share = 1 - kept  # without rounding error, so that the two sum to 1
        return _added(kept * features, share * self.block(features))


class InvertibleResidual(nn.Module):
    """Add a contraction to the input, `x + (share / L) f(x)`, which can be undone (Behrmann et al., ICML 2019).

    The constant is `1 + share Lip(f) / L <= 1 + share`, that of the inverse `1 / (1 - share)`. Both need a proved
    `L >= Lip(f)`, and a block for which it stays true: constrained layers, or frozen weights.

    Args:
        block: `f`, which keeps the shape.
        share: of the contraction, between 0 and 1.
        block_bound: `L`, as `bound_lipschitz(block)` gives it, in L2.

    Raises:
        ValueError: `share` or `block_bound` is out of range; when called, the block changes the shape.

    >>> layer = InvertibleResidual(nn.Tanh(), share=0.5, block_bound=1.0).double()
    >>> x = torch.randn(3, 2, dtype=torch.float64)
    >>> bool((layer.inverse(layer(x)) - x).norm(dim=1).max() <= 1e-5)
    True
    """

    factor: Tensor

    def __init__(self, block: nn.Module, share: float, block_bound: float) -> None:
        super().__init__()
        if not 0 < share < 1:
            raise ValueError(f"expected 0 < `share` < 1, got {share}")
        if not 0 < block_bound < math.inf:
            raise ValueError(f"expected 0 < `block_bound` < inf, got {block_bound}")
        self.block = block
        self.share = float(share)
        factor = torch.tensor(self.share / float(block_bound))
        self.register_buffer("factor", torch.nextafter(factor, torch.zeros(())))  # rounded down: `factor L <= share`

    def forward(self, features: _Features) -> _Features:
        """Add the contraction."""
        return _added(features, self.factor * self.block(features))

    @torch.no_grad()
    def inverse(
        self, outputs: Float[Tensor, "batch ..."], tolerance: float = 1e-5, max_steps: int = 1000
    ) -> Float[Tensor, "batch ..."]:
        """Find the inputs by the fixed-point iteration `x <- y - (share / L) f(x)` (Banach).

        A step of length `e` is followed by a distance of at most `e share / (1 - share)` to the fixed point, so the
        iteration ends with the proof that it is near enough (in exact arithmetic).

        Args:
            outputs: `y`.
            tolerance: the largest L2 distance of any item of the batch from the input that is meant.
            max_steps: of the iteration.

        Raises:
            ValueError: `tolerance` was not reached: the rounding of the dtype is above it, `max_steps` are too few, or
                the block's constant exceeds `block_bound`.
        """
        inputs = outputs
        for _ in range(max_steps):
            before, inputs = inputs, outputs - self.factor * self.block(inputs)
            step = float((inputs - before).flatten(1).double().norm(dim=1).max())
            if step * self.share / (1 - self.share) <= tolerance:
                return inputs
        raise ValueError(
            f"expected to invert to `tolerance` {tolerance:g} in {max_steps} steps, got a last step of {step:g}: "
            "use float64, a larger `tolerance`, or a proved `block_bound`"
        )

    def extra_repr(self) -> str:
        """Show the share."""
        return f"share={self.share!r}"
