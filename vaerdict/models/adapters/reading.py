"""What models return, read by name: names say whether a spread is a deviation, a variance or its logarithm."""

from collections.abc import Callable, Mapping
from typing import Any, Literal

from jaxtyping import Float
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal

from vaerdict.options import require

PairSpread = Literal["std", "variance", "log_variance"]
MEANS = ("mean", "mu", "loc", "embedding")
SPREADS: dict[PairSpread, tuple[str, ...]] = {
    "std": ("std", "stddev", "sigma", "scale"),
    "log_variance": ("log_variance", "log_var", "logvar", "log_covariance"),
    "variance": ("variance", "var"),
}
POSTERIORS = ("latent_dist", "posterior")
RECONSTRUCTIONS = ("reconstruction", "recon_x", "x_recon", "recon", "x_hat", "sample")
_TO_STD: dict[PairSpread, Callable[[Tensor], Tensor]] = {
    "std": lambda spread: spread,
    "variance": lambda spread: spread.sqrt(),
    "log_variance": lambda spread: (spread / 2).exp(),
}


def read_posterior(
    outputs: Any, spread: PairSpread | None = None
) -> tuple[Float[Tensor, "batch ..."], Float[Tensor, "batch ..."]]:
    """Read mean and standard deviation from what an encoder returned.

    Args:
        outputs: a pair `(mean, spread)`; a mapping or an object with a name of `MEANS` and one of `SPREADS`; a diagonal
            `torch.distributions.Normal`; or a mapping or an object that holds one of these as one of `POSTERIORS`.
        spread: what the second of a pair is.

    Raises:
        ValueError: it is none of these.

    >>> import torch
    >>> read_posterior({"mu": torch.zeros(1, 2), "logvar": torch.zeros(1, 2)})
    (tensor([[0., 0.]]), tensor([[1., 1.]]))
    """
    nested = None if isinstance(outputs, Tensor) else _find(outputs, POSTERIORS)
    if nested is not None:
        return read_posterior(nested, spread)
    if isinstance(outputs, Distribution):
        inner = outputs.base_dist if isinstance(outputs, Independent) else outputs
        require(isinstance(inner, Normal), "a diagonal Gaussian posterior", type(inner).__name__)
    mean, kind, value = _mean_and_spread(outputs, spread)
    both = isinstance(mean, Tensor) and isinstance(value, Tensor)
    require(both, "mean and spread as tensors", f"{type(mean).__name__} and {type(value).__name__}")
    return mean, _TO_STD[kind](value)


def _mean_and_spread(outputs: Any, spread: PairSpread | None) -> tuple[Any, PairSpread, Any]:
    if not isinstance(outputs, Tensor):
        mean = _find(outputs, MEANS)
        for kind, names in SPREADS.items():
            value = _find(outputs, names)
            if mean is not None and value is not None:
                return mean, kind, value
    pair = isinstance(outputs, tuple | list) and len(outputs) == 2
    require(pair, "an encoder's mean and spread, as a pair or by name; or `encode`, which makes such", told(outputs))
    require(spread is not None, f"`spread` of an encoder that returns a pair, one of {tuple(SPREADS)}", spread)
    assert spread is not None
    return outputs[0], spread, outputs[1]


def read_reconstruction(outputs: Any) -> Float[Tensor, "batch ..."]:
    """Read the mean reconstruction from what a decoder returned: a tensor, or one of `RECONSTRUCTIONS` by name.

    Raises:
        ValueError: it is neither.

    >>> import torch
    >>> read_reconstruction({"reconstruction": torch.zeros(1, 2)})
    tensor([[0., 0.]])
    """
    found = outputs if isinstance(outputs, Tensor) else _find(outputs, RECONSTRUCTIONS)
    message = "a decoder's reconstruction, as a tensor or by name; or `decode`, which makes such"
    require(isinstance(found, Tensor), message, told(outputs))
    return found


def told(outputs: Any) -> str:
    """Say what was returned, for messages.

    >>> told((1, "a")), told({"z": 1})
    ('tuple of int, str', "dict with 'z'")
    """
    kind = type(outputs).__name__
    if isinstance(outputs, Mapping):
        return f"{kind} with {', '.join(map(repr, outputs))}"
    if isinstance(outputs, tuple | list):
        return f"{kind} of {', '.join(type(part).__name__ for part in outputs)}"
    return kind


def _find(outputs: Any, names: tuple[str, ...]) -> Any:
    """Give the first of the names that a mapping or an object has, or None."""
    if isinstance(outputs, Mapping):
        return next((outputs[name] for name in names if name in outputs), None)
    return next((getattr(outputs, name) for name in names if hasattr(outputs, name)), None)
