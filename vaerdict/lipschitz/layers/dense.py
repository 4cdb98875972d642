"""Dense layers whose spectral norm is given."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils import parametrize


class SemiOrthogonal(nn.Module):
    """A parametrisation whose matrix has all singular values equal to `norm`, whatever the free weights are.

    Cayley transform for rectangular matrices (Trockman and Kolter, ICLR 2021): with the free weights `[U; V]`,
    `U` square, and `A = U - U^T + V^T V`, the columns of `[(I + A)^-1 (I - A); -2 V (I + A)^-1]` are orthonormal.
    """

    def __init__(self, norm: float) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, free: Float[Tensor, "rows columns"]) -> Float[Tensor, "rows columns"]:
        """Turn free weights into the constrained matrix."""
        if free.shape[0] < free.shape[1]:
            return self.forward(free.T).T.contiguous()  # as a loaded weight is: the same products, bit for bit
        columns = free.shape[1]
        square, rest = free[:columns], free[columns:]
        skewed = square - square.T + rest.T @ rest
        identity = torch.eye(columns, dtype=free.dtype, device=free.device)
        inverse = torch.linalg.inv(identity + skewed)
        return self.norm * torch.cat([inverse @ (identity - skewed), -2 * rest @ inverse])


class Bjorck(nn.Module):
    """A parametrisation whose matrix has all singular values at most `norm`, and nearly always equal to it.

    Björck and Bowie (1971), for layers Anil et al. (ICML 2019): `W <- 3/2 W - 1/2 W W^T W` takes a singular value `s`
    to `s (3 - s^2) / 2`. Divided by `|W^T W|_F^(1/2)` first, all are in [0, 1]: there they grow towards 1 and cannot
    pass it, so the norm holds after any number of steps, for any free weights. Orthogonal to 1e-5 after the 25 steps
    made here where the smallest singular value is at least 1e-3 after the division; smaller ones stay below.
    """

    steps = 25

    def __init__(self, norm: float) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, free: Float[Tensor, "rows columns"]) -> Float[Tensor, "rows columns"]:
        """Turn free weights into the constrained matrix."""
        if free.shape[0] < free.shape[1]:
            return self.forward(free.T).T.contiguous()
        tiny = torch.finfo(free.dtype).tiny
        matrix = free / free.detach().abs().max().clamp_min(tiny)  # of the scale nothing depends on: no overflow
        matrix = matrix / (matrix.T @ matrix).norm().clamp_min(tiny).sqrt()
        for _ in range(self.steps):
            matrix = 1.5 * matrix - 0.5 * matrix @ (matrix.T @ matrix)
        return self.norm * matrix


def lipschitz_linear(inputs: int, outputs: int, norm: float = 1.0, method: str = "cayley") -> nn.Linear:
    """Make a dense layer whose spectral norm is `norm` at every step of training, up to float32 rounding.

    What a certificate uses is `bound_lipschitz` of the layer, which measures the weights as they are.

    Args:
        inputs: features of the input.
        outputs: features of the output.
        norm: the spectral norm.
        method: `cayley` (`SemiOrthogonal`) or `bjorck` (`Bjorck`).

    Raises:
        ValueError: `norm` is not positive, or `method` is another one.

    >>> layer = lipschitz_linear(5, 3, norm=2.0)
    >>> bool(torch.allclose(layer.weight @ layer.weight.T, 4 * torch.eye(3), atol=1e-5))
    True
    """
    if not norm > 0:
        raise ValueError(f"expected `norm` > 0, got {norm}")
    if method not in ("cayley", "bjorck"):
        raise ValueError(f"expected `method` 'cayley' or 'bjorck', got {method!r}")
    layer = nn.Linear(inputs, outputs)
    if method == "cayley":
        nn.init.xavier_uniform_(layer.weight)
        parametrize.register_parametrization(layer, "weight", SemiOrthogonal(norm))
    else:
        nn.init.orthogonal_(layer.weight)
        parametrize.register_parametrization(layer, "weight", Bjorck(norm))
    return layer
