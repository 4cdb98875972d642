"""Lipschitz constants per output coordinate and per input coordinate, for layers in a row."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vaerdict.lipschitz.chains.affine import Affine
from vaerdict.lipschitz.chains.chain import Chain, dense_chain
from vaerdict.lipschitz.chains.multipliers import bound_slope_restricted
from vaerdict.lipschitz.floats import UNIT
from vaerdict.lipschitz.graph.trace import trace
from vaerdict.lipschitz.sizes import frobenius


def bound_coordinates(
    module: nn.Module, input_shape: tuple[int, ...] | None = None, steps: int = 50
) -> Float[Tensor, " outputs"]:
    """Bound the Lipschitz constant of every output coordinate from above.

    Args:
        module: what `dense_chain` can write out; its outputs count flattened.
        input_shape: shape of one input without the batch axis, where the layers do not show it.
        steps: of gradient descent on the multipliers, for each output.

    Raises:
        NoSoundBound: the module is not layers in a row of known kinds.

    >>> net = nn.Linear(2, 2, bias=False)
    >>> net.weight.data = torch.diag(torch.tensor([1.0, 3.0]))
    >>> bound_coordinates(net).round(decimals=6)
    tensor([1., 3.], dtype=torch.float64)
    """
    chain = dense_chain(trace(module, input_shape))
    bounds = [bound_slope_restricted(_one_output(chain, row), steps=steps) for row in range(len(chain.maps[-1].bias))]
    return torch.tensor(bounds, dtype=torch.float64)


def _one_output(chain: Chain, row: int) -> Chain:
    last = chain.maps[-1]
    only = Affine(last.weight[row : row + 1], last.bias[row : row + 1], last.weight_error, last.bias_error)
    return Chain(chain.input_shape, (*chain.maps[:-1], only), chain.activations)


def bound_blocks(
    module: nn.Module,
    shares: Float[Tensor, " inputs"],
    input_shape: tuple[int, ...] | None = None,
    steps: int = 200,
) -> Float[Tensor, " inputs"]:
    """Give constants `a` with `|g(z) - g(z')|^2 <= sum a_i^2 (z_i - z'_i)^2` (THEORY 2), in given proportions.

    The constant of `g` after `z_i = y_i / share_i`, times the shares: any proportions give valid constants.

    Args:
        module: what `dense_chain` can write out.
        shares: of the inputs, flattened, above 0.
        input_shape: shape of one input without the batch axis, where the layers do not show it.
        steps: of gradient descent on the multipliers.

    Raises:
        NoSoundBound: the module is not layers in a row of known kinds.
        ValueError: there is not one positive share per input.

    >>> net = nn.Linear(2, 2, bias=False)
    >>> net.weight.data = torch.diag(torch.tensor([1.0, 3.0]))
    >>> bound_blocks(net, torch.tensor([1.0, 3.0])).round(decimals=6)
    tensor([1., 3.], dtype=torch.float64)
    """
    chain = dense_chain(trace(module, input_shape))
    first, share = chain.maps[0], shares.detach().cpu().double()
    if share.ndim != 1 or len(share) != first.weight.shape[1] or not ((share > 0) & torch.isfinite(share)).all():
        raise ValueError(f"expected {first.weight.shape[1]} finite `shares` > 0, got {shares.tolist()}")
    weight = first.weight / share
    error = 1.001 * (first.weight_error / float(share.min()) + 2 * UNIT * frobenius(weight)) + 2.0**-1000
    maps = (Affine(weight, first.bias, error, first.bias_error), *chain.maps[1:])
    constant = bound_slope_restricted(Chain(chain.input_shape, maps, chain.activations), steps=steps)
    return constant * share * (1.0 + 4 * UNIT)
