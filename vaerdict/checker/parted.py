"""A model parted behind its decoder's first layer `W`, from the weights alone: what is before, `W`, and the rest."""

from dataclasses import dataclass

import numpy as np
from flint import arb
from jaxtyping import Float64

from vaerdict.checker.chains import bound_chain
from vaerdict.checker.layers import Layer, Unknown
from vaerdict.checker.maps import Map
from vaerdict.checker.notes import Notes
from vaerdict.checker.products import Near, round_up
from vaerdict.checker.spectral import bound_eigenvalues


@dataclass(frozen=True, kw_only=True)
class Parted:
    """What is known of a model whose decoder begins with the dense layer `W`.

    Attributes:
        weight: `W`.
        rest: bounds the Lipschitz constant of what comes after it.
        slope: bounds that of `W` after the posterior mean; the reason in words where a layer is not known here.
        rounding: how much of `slope` may be rounding.
        notes: of both maps.
    """

    weight: Float64[np.ndarray, "rows latent"]
    rest: arb
    slope: arb | str
    rounding: arb
    notes: Notes


def part(mean: Map | str, decoder: Map | str, latent: int) -> Parted | str:
    """Part a model; the reason in words where a map is not known here.

    Raises:
        ValueError: the decoder begins with another layer.

    >>> part("", "its code is not known", 2)
    'its code is not known'
    """
    if isinstance(decoder, str):
        return decoder
    place = next((i for i, one in enumerate(decoder.layers) if not _reshapes(one)), None)
    first = None if place is None else decoder.layers[place]
    if place is not None and first is None:
        return "the decoder's first layer is not understood here"
    if place is None or first is None or first.call.kind != "Linear" or first.shape[-1] != latent:
        raise ValueError("expected a decoder that begins with a dense layer of all latents")
    notes, rest = Notes(), arb(1)
    notes.add(decoder.notes)
    for factor in decoder.factors[place + 1 :]:
        rest *= factor
    slope: arb | str
    slope, rounding = mean if isinstance(mean, str) else "a layer of the encoder is not understood here", arb(0)
    if not isinstance(mean, str) and mean.own:
        notes.add(mean.notes)
        try:
            slope, rounding = bound_chain(mean.own, Near(first.matrix))
        except Unknown as reason:
            slope = str(reason)
    return Parted(weight=first.matrix, rest=rest, slope=slope, rounding=rounding, notes=notes)


def _reshapes(layer: Layer | None) -> bool:
    return layer is not None and layer.call.kind in ("Flatten", "Unflatten")


def bound_variances(weight: Float64[np.ndarray, "rows latent"], std: list[float], copies: int) -> list[float]:
    """Bound the eigenvalues of the covariance of `W z`, in rising order, one per latent.

    The coordinates of `z` are independent, with `copies` times the squares of the standard deviations for variances: so
    the eigenvalues are those of `D W^T W D`, or of `W D D W^T` and zeros, whichever is smaller.

    >>> [round(one, 9) for one in bound_variances(np.array([[3.0, 0.0]]), [1.0, 1.0], copies=2)]
    [0.0, 18.0]
    """
    root = [round_up(float((copies * arb(one) ** 2).sqrt().mid())) for one in std]
    scaled = Near(weight).scaled(np.array(root))
    turned = Near(scaled.values.T, scaled.error)
    found = bound_eigenvalues(scaled @ turned if len(weight) < len(std) else turned @ scaled).tolist()
    return [0.0] * (len(std) - len(found)) + found
