"""A stored model: its fingerprint, and the constants of its three maps recomputed layer by layer."""

import json
import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from flint import arb

from vaerdict.checker.claims import decode_numbers
from vaerdict.checker.layers import Layer, Shape, Unknown
from vaerdict.checker.notes import Notes
from vaerdict.checker.printed import Call, Printed, read_call, read_printed
from vaerdict.checker.weights import Stored, fingerprint, read_weights

TOLERANCE = 1e-9
"""What is claimed must hold up to this share of it: far above rounding, far below what anybody prints."""

CONSTANT = {"layers": None, "reason": "the standard deviations are constant"}
"""What is exported in place of a map to standard deviations where there is none."""

_MOVES = frozenset({"Identity", "Flatten", "Unflatten", "Select", "Pair"})
_PARTS = {"mean": "encoder", "std": "encoder", "decoder": "decoder"}


@dataclass(frozen=True)
class Map:
    """One of the model's maps: its layers, and a proved bound of its constant.

    Attributes:
        layers: in the order of evaluation; empty where one of them is not understood here.
        own: those among them that are the model's encoder or decoder, without what the map adds.
        output_shape: of the last layer; None where it is not known here.
        constant: product of the layers' constants; of those that cannot be recomputed, as claimed.
        notes: what is wrong with the claims about its layers, and what had to be taken as stated.
    """

    layers: tuple[Layer, ...]
    own: tuple[Layer, ...]
    output_shape: Shape | None
    constant: arb
    notes: Notes


@dataclass(frozen=True)
class Model:
    """A model as it lies in the run's folder."""

    sha256: str
    network: dict[str, Any]
    weights: dict[str, Stored]

    @cached_property
    def printed(self) -> Printed:
        """Its architecture, as covered by the fingerprint."""
        return read_printed(self.network["repr"])

    @property
    def is_plain(self) -> bool:
        """Whether the print says how encoder and decoder are used: only a `GaussianVAE`'s does."""
        return self.printed.kind == "GaussianVAE"

    @cached_property
    def constant_std(self) -> float | None:
        """The standard deviation where it is constant and covered by the fingerprint."""
        facts = self.printed.facts
        return float(facts["std"]) if self.is_plain and facts.get("spread") == "constant" else None

    @property
    def has_constant_std(self) -> bool:
        """Whether nothing says that the standard deviations depend on the image."""
        return self.constant_std is not None or self.network["maps"]["std"] == CONSTANT

    @cached_property
    def maps(self) -> dict[str, Map | str]:
        """The maps `mean`, `std` and `decoder`; the reason in words where one is no row of layers."""
        found: dict[str, Map | str] = {}
        for role in _PARTS:
            told = self.network["maps"][role]
            found[role] = self._map(role, told) if told["layers"] else str(told["reason"])
        return found

    def _map(self, role: str, told: dict[str, Any]) -> Map:
        notes = Notes()
        layers: list[Layer] = []
        product = arb(1)
        shape: Shape | None = tuple(told["input_shape"])
        for entry in told["layers"]:
            layer = self._layer(entry, shape, notes)
            product *= _constant(f"layer {entry['path'] or entry['text']}", layer, entry, notes)
            if layer is not None:
                layers.append(layer)
            shape = _next_shape(layer, shape)
        self._compare_with_print(role, told["layers"], notes)
        if len(layers) < len(told["layers"]):
            return Map((), (), None, product, notes)
        own = [layer for layer, entry in zip(layers, told["layers"], strict=True) if entry["path"]]
        return Map(tuple(layers), tuple(own), shape, product, notes)

    def _layer(self, entry: dict[str, Any], shape: Shape | None, notes: Notes) -> Layer | None:
        call = read_call(entry["text"])
        if call is None or shape is None:
            return None
        try:
            return Layer(call, shape, {name: self.weights[of].numbers() for name, of in entry["tensors"].items()})
        except (KeyError, ValueError) as error:
            notes.fail(f"layer {entry['path']}: expected its stored weights, got {error}")
            return None

    def _compare_with_print(self, role: str, entries: list[dict[str, Any]], notes: Notes) -> None:
        """Hold the listed layers against the printed ones, which the fingerprint covers."""
        part = _PARTS[role]
        printed = self.printed.in_a_row(part) if self.is_plain else None
        if printed is None:
            notes.state("the order of the model's layers")
            return
        listed = [entry for entry in entries if entry["path"]]
        if [entry["text"] for entry in listed] != printed:
            notes.fail(f"the listed layers of the {role} map are not those that the model prints")
        for entry in listed:
            home = entry["path"]
            if not f"{home}.".startswith(f"{part}."):
                notes.fail(f"layer {home} is not in the model's {part}")
            if any(of != f"{home}.{name}" for name, of in entry["tensors"].items()):
                notes.fail(f"layer {home} is listed with the weights of another")
        added = [read_call(entry["text"]) for entry in entries if not entry["path"]]
        if not all(call and (call.kind in _MOVES or self._makes_std(role, call)) for call in added):
            notes.fail(f"the {role} map is listed with a layer that the model does not have")

    def _makes_std(self, role: str, call: Call) -> bool:
        facts = self.printed.facts
        if role != "std":
            return False
        kinds = {"variance": ["SquareRoot"], "log_variance": ["HalfExponential"], "bounded": ["Sigmoid", "Scale"]}
        scaled = call.kind != "Scale" or call.by_position == (facts.get("std"),)
        return scaled and call.kind in kinds.get(str(facts.get("spread")), [])


def _constant(name: str, layer: Layer | None, entry: dict[str, Any], notes: Notes) -> arb:
    """Give a layer's constant as recomputed, and compare with the claim; as claimed where that cannot be done."""
    claimed = decode_numbers(entry["constant"])
    if not (isinstance(claimed, float) and 0 <= claimed < math.inf):
        notes.fail(f"{name}: expected a finite constant >= 0, got {claimed}")
        return arb(0)
    try:
        if layer is None:
            raise Unknown("its print or its shape is not understood here")
        recomputed = layer.bound()
    except Unknown as reason:
        if claimed != 1.0 or entry["path"]:
            notes.state(f"the constant of {name} ({reason})")
        return arb(claimed)
    except (KeyError, TypeError, ValueError) as error:
        notes.fail(f"{name}: its constant cannot be recomputed: {error}")
        return arb(claimed)
    if not recomputed <= claimed * (1 + TOLERANCE):
        notes.fail(f"{name}: claimed constant {claimed!r}, recomputed {recomputed!r}")
    return arb(recomputed)


def _next_shape(layer: Layer | None, shape: Shape | None) -> Shape | None:
    if layer is None:
        return None
    try:
        return layer.output_shape
    except Unknown:
        return None


def read_model(folder: Path) -> Model:
    """Read `weights.safetensors` and `network.json`, and recompute the fingerprint.

    Raises:
        ValueError: a file is missing or not what it should be; the model is not the one that the folder names.
    """
    try:
        network = json.loads((folder / "network.json").read_text())
        weights = read_weights(folder / "weights.safetensors")
        read_printed(network["repr"])
    except (OSError, KeyError, TypeError, UnicodeError, json.JSONDecodeError) as error:
        raise ValueError(f"cannot read the model {folder.name[:8]}: {error}") from None
    found = fingerprint(network["repr"], weights)
    if found != folder.name:
        raise ValueError(f"the stored model has the fingerprint {found[:8]}, not {folder.name[:8]}")
    return Model(found, network, weights)
