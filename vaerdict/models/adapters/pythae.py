"""Models of pythae (Chadebec et al. 2022), known by what they have: the package itself is not needed."""

from typing import Any

from torch import Tensor, nn

from vaerdict.models.adapters.generic import Decoded, Encoded, join
from vaerdict.models.gaussian import GaussianVAE
from vaerdict.options import require, require_known

GAUSSIAN = (
    "VAE",
    "Adversarial_AE",
    "BetaTCVAE",
    "BetaVAE",
    "DisentangledBetaVAE",
    "FactorVAE",
    "INFOVAE_MMD",
    "IWAE",
    "MSSSIM_VAE",
    "VAEGAN",
    "VAMP",
)
"""What pythae calls its models whose latent is a draw from the encoder's Gaussian; flows and others change it after."""


def adapt_pythae(
    model: Any,
    *,
    input_shape: tuple[int, ...] | None = None,
    input_range: tuple[float, float] = (0.0, 1.0),
    name: str | None = None,
) -> GaussianVAE:
    """Make a VAE of a pythae model: `encoder(x)` with `embedding` and `log_covariance`, `decoder(z)["reconstruction"]`.

    Args:
        model: of pythae, or built like one.
        input_shape: of one image; by default the model's `input_dim`.
        input_range: the least and the greatest value of a pixel.
        name: how tables call the model; by default the model's own name.

    Raises:
        ValueError: the model's latent is not a draw from the encoder's Gaussian; its parts do not fit.

    >>> from types import SimpleNamespace
    >>> adapt_pythae(SimpleNamespace(model_name="VQVAE"))  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ValueError: unknown pythae model with a Gaussian posterior 'VQVAE', known: VAE, ...
    """
    kind = getattr(model, "model_name", None)
    if kind is not None:
        require_known("pythae model with a Gaussian posterior", [kind], GAUSSIAN)
    shape = input_shape or getattr(model, "input_dim", None)
    require(shape is not None, "`input_shape`, or a model with `input_dim`", None)
    assert shape is not None
    encoder, decoder = Encoded(model.encoder, _call, None), Decoded(model.decoder, _call, tuple(shape))
    return join(encoder, decoder, tuple(shape), input_range, name or kind or type(model).__name__)


def _call(part: nn.Module, values: Tensor) -> Any:
    return part(values)
