"""The three maps of a printed model, rebuilt from its print and its weights: both are covered by the fingerprint."""

import math
from dataclasses import dataclass
from typing import Any

from flint import arb

from vaerdict.checker.claims import decode_numbers
from vaerdict.checker.facts import Facts
from vaerdict.checker.fit import check_fit
from vaerdict.checker.layers import Layer, Shape, Unknown
from vaerdict.checker.listing import own_entries
from vaerdict.checker.notes import Notes
from vaerdict.checker.printed import Printed, read_call
from vaerdict.checker.weights import Stored, tensors_of

TOLERANCE = 1e-9
"""What is claimed must hold up to this share of it: far above rounding, far below what anybody prints."""

PARTS = {"mean": "encoder", "std": "encoder", "decoder": "decoder"}
"""The part of the model whose layers a map has."""

NO_CONSTANT = ("variance", "log_variance")
"""Spreads that end in a function without a Lipschitz constant."""

_FLAT = "Flatten(start_dim=1, end_dim=-1)"


@dataclass(frozen=True)
class Map:
    """One of the model's maps: its layers, and a proved bound of its constant.

    Attributes:
        layers: those that are the model's encoder or decoder, without what the map adds, in the order of evaluation;
            None for one that is not understood here.
        factors: the constants of these layers, as recomputed or as claimed.
        output_shape: of the last layer; None where it is not known here.
        constant: product of the layers' constants; of those that cannot be recomputed, as claimed.
        notes: what is wrong with the claims about its layers, and what had to be taken as stated.
    """

    layers: tuple[Layer | None, ...]
    factors: tuple[arb, ...]
    output_shape: Shape | None
    constant: arb
    notes: Notes

    @property
    def own(self) -> tuple[Layer, ...]:
        """The model's own layers; none where one of them is not understood here."""
        known = tuple(layer for layer in self.layers if layer is not None)
        return known if len(known) == len(self.layers) else ()


@dataclass(frozen=True)
class Builder:
    """Builds maps of a printed model.

    Attributes:
        printed: the architecture.
        facts: what it says beside its layers.
        weights: all tensors.
        told: what the run's folder lists per map. It is compared, and used for constants of unknown layers alone.
    """

    printed: Printed
    facts: Facts
    weights: dict[str, Stored]
    told: dict[str, Any]

    def build(self, role: str) -> Map | str:
        """Build the map `mean`, `std` or `decoder`; the reason in words where it is no row of layers."""
        added = self._added(role)
        row = self.printed.in_a_row(PARTS[role])
        if isinstance(added, str) or row is None:
            return added if isinstance(added, str) else "the order of its layers is not in the print"
        before, after = added
        notes = Notes()
        claimed = own_entries(self.told.get(role), row, [*before, *after], self.weights, notes)
        shape: Shape | None = self.facts.input_shape if role != "decoder" else (self.facts.latent,)
        product, own, factors = arb(1), [], []
        names = [("", text) for text in before] + row + [("", text) for text in after]
        constants = [None] * len(before) + claimed + [None] * len(after)
        for (path, text), stated in zip(names, constants, strict=True):
            layer = self._layer(path, text, shape, notes)
            constant = _constant(f"layer {path}", layer, stated, notes) if path else _added_constant(text)
            if isinstance(constant, str):
                return constant
            product *= constant
            shape = _next_shape(layer)
            if path:
                own.append(layer)
                factors.append(constant)
        self._check_end(role, shape, notes)
        return Map(tuple(own), tuple(factors), shape, product, notes)

    def _added(self, role: str) -> tuple[list[str], list[str]] | str:
        """Give what the map does before and after the model's own layers, as torch would print it."""
        facts = self.facts
        if role == "decoder":
            return [f"Unflatten(dim=1, unflattened_size={facts.latent_shape})"], []
        if facts.spread == "constant":
            return ([], [_FLAT]) if role == "mean" else "the standard deviations are constant"
        if facts.returns_pair:
            return "the encoder gives a pair"
        channels = facts.latent_shape[0]
        if role == "mean":
            return [], [f"Select(0, {channels})", _FLAT]
        if facts.spread in NO_CONSTANT:
            return f"a {facts.spread} has no constant"
        ends = ["Sigmoid()", f"Scale({facts.std!r})"] if facts.spread == "bounded" else []
        return [], [f"Select({channels}, None)", *ends, _FLAT]

    def _layer(self, path: str, text: str, shape: Shape | None, notes: Notes) -> Layer | None:
        call = read_call(text)
        if call is None or shape is None:
            return None
        try:
            held = tensors_of(self.weights, path) if path else {}
            layer = Layer(call, shape, {name: one.numbers() for name, one in held.items()})
            check_fit(layer)
        except (ArithmeticError, TypeError, ValueError) as error:
            notes.fail(f"layer {path}: {error}")
            return None
        return layer

    def _check_end(self, role: str, shape: Shape | None, notes: Notes) -> None:
        if shape is None:
            return
        latent = self.facts.latent
        if role == "decoder":
            fits, expected = shape == self.facts.input_shape, str(self.facts.input_shape)
        else:
            fits = math.prod(shape) in ((latent,) if role == "mean" else (1, latent))
            expected = f"{latent} values"
        if not fits:
            notes.fail(f"the {role} map gives the shape {shape}, expected {expected}")


def _added_constant(text: str) -> arb:
    call = read_call(text)
    assert call is not None
    return arb(Layer(call, ()).bound())


def _constant(name: str, layer: Layer | None, stated: Any, notes: Notes) -> arb | str:
    """Give a layer's constant as recomputed, and compare with the claim; as claimed where that cannot be done.

    Without a claim the reason in words.
    """
    claimed = None if stated is None else decode_numbers(stated)
    if claimed is not None and not (isinstance(claimed, float) and 0 <= claimed < math.inf):
        notes.fail(f"{name}: expected a finite constant >= 0, got {claimed}")
        return arb(0)
    try:
        if layer is None:
            raise Unknown("its print or its shape is not understood here")
        recomputed = layer.bound()
    except Unknown as reason:
        if claimed is None:
            return f"{name}: {reason}"
        notes.state(f"the constant of {name} ({reason})")
        return arb(claimed)
    except (ArithmeticError, LookupError, TypeError, ValueError) as error:
        notes.fail(f"{name}: its constant cannot be recomputed: {error}")
        return arb(0)
    return _compared(name, recomputed, claimed, notes)


def _compared(name: str, recomputed: float, claimed: float | None, notes: Notes) -> arb:
    if not math.isfinite(recomputed):
        notes.fail(f"{name}: its constant is {recomputed!r}")
    elif claimed is not None and not recomputed <= claimed * (1 + TOLERANCE):
        notes.fail(f"{name}: claimed constant {claimed!r}, recomputed {recomputed!r}")
    return arb(recomputed)


def _next_shape(layer: Layer | None) -> Shape | None:
    if layer is None:
        return None
    try:
        return layer.output_shape
    except (Unknown, ValueError, TypeError):
        return None
