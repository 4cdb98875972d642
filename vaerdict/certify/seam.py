"""The seam between encoder and decoder: where the last linear layer of one meets the first of the other (THEORY 2)."""

from dataclasses import dataclass

from jaxtyping import Float64
from torch import Tensor, nn

from vaerdict.lipschitz import NoSoundBound, bound_lipschitz, bound_product, dense_chain, round_up, trace
from vaerdict.lipschitz.graph.nodes import layers_in_a_row
from vaerdict.vae import BoundableVAE

_UP = 1 + 2.0**-40


@dataclass(frozen=True)
class Seam:
    """What is known of a decoder whose first linear layer is `W`.

    Attributes:
        gram: `W^T W`, in float64.
        norm: bounds `|W|`.
        a: bounds the Lipschitz constant of what comes after `W`.
        b: bounds that of `W` after the posterior mean.
    """

    gram: Float64[Tensor, "latent latent"]
    norm: float
    a: float
    b: float


def find_seam(vae: BoundableVAE, image_shape: tuple[int, ...]) -> Seam | str:
    """Part the decoder behind its first layer, or say why that cannot be done."""
    try:
        layers = [node.layer for node in layers_in_a_row(trace(vae.decoder_map, (vae.latent,)))]
        place = next((i for i, layer in enumerate(layers) if not isinstance(layer, nn.Flatten | nn.Unflatten)), 0)
        first = layers[place]
        if not isinstance(first, nn.Linear) or first.in_features != vae.latent:
            return "the decoder does not begin with a dense layer of all latents"
        factors = bound_lipschitz(vae.decoder_map, (vae.latent,)).factors
        rest = 1.0
        for factor in factors[place + 1 :]:
            rest = round_up(rest * factor.value)
        whole = dense_chain(trace(nn.Sequential(vae.mean_map, nn.Flatten(), _without_bias(first)), image_shape))
        weight = first.weight.detach().cpu().double()
        return Seam(weight.T @ weight, factors[place].value, rest, bound_product(whole) * _UP)
    except NoSoundBound as reason:
        return str(reason)


def _without_bias(layer: nn.Linear) -> nn.Linear:
    bare = nn.Linear(layer.in_features, layer.out_features, bias=False, dtype=layer.weight.dtype)
    bare.weight = nn.Parameter(layer.weight.detach(), requires_grad=False)
    return bare.eval().to(layer.weight.device)
