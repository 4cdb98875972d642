"""A stored model: its fingerprint, and the constants of its three maps recomputed layer by layer."""

import json
import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from vaerdict.checker.claims import decode_numbers
from vaerdict.checker.facts import Facts, read_facts
from vaerdict.checker.maps import PARTS, Builder, Map
from vaerdict.checker.parted import Parted, part
from vaerdict.checker.printed import Printed, read_printed
from vaerdict.checker.weights import Stored, fingerprint, read_weights

CONSTANT = {"layers": None, "reason": "the standard deviations are constant"}
"""What is exported in place of a map to standard deviations where there is none."""


@dataclass(frozen=True)
class Model:
    """A model as it lies in the run's folder.

    `network` is what was exported beside the weights. Its print is covered by the fingerprint; the rest is used where
    the print does not say how the model works, and is then taken as stated.
    """

    sha256: str
    network: dict[str, Any]
    weights: dict[str, Stored]

    @cached_property
    def printed(self) -> Printed:
        """Its architecture."""
        return read_printed(self.network["repr"])

    @cached_property
    def facts(self) -> Facts | None:
        """How it uses encoder and decoder; None where the print does not say that: only a `GaussianVAE`'s does."""
        return read_facts(self.printed)

    @cached_property
    def latent(self) -> int:
        """The number of latents."""
        return int(self.network["latent"]) if self.facts is None else self.facts.latent

    @cached_property
    def pixels(self) -> int:
        """The number of values of an image."""
        return math.prod(self.network["input_shape"] if self.facts is None else self.facts.input_shape)

    @cached_property
    def input_range(self) -> tuple[float, float]:
        """The least and the greatest value of a pixel."""
        low, high = decode_numbers(self.network["input_range"]) if self.facts is None else self.facts.input_range
        return float(low), float(high)

    @cached_property
    def constant_std(self) -> float | None:
        """The standard deviation where the print says that it is constant."""
        return self.facts.std if self.facts is not None and self.facts.spread == "constant" else None

    @cached_property
    def has_constant_std(self) -> bool:
        """Whether the standard deviations do not depend on the image."""
        if self.facts is None:
            return bool(self.network["maps"]["std"] == CONSTANT)
        return self.facts.spread == "constant"

    @cached_property
    def maps(self) -> dict[str, Map | str]:
        """The maps `mean`, `std` and `decoder`; the reason in words where one cannot be rebuilt from the print."""
        if self.facts is None:
            return dict.fromkeys(PARTS, "how the model uses its layers is not in the print")
        builder = Builder(self.printed, self.facts, self.weights, self.network["maps"])
        return {role: builder.build(role) for role in PARTS}

    @cached_property
    def parted(self) -> Parted | str:
        """The model parted behind its decoder's first layer; the reason in words where that is not known here.

        Raises:
            ValueError: the decoder does not begin with a dense layer.
        """
        return part(self.maps["mean"], self.maps["decoder"], self.latent)


def read_model(folder: Path) -> Model:
    """Read `weights.safetensors` and `network.json`, and recompute the fingerprint.

    Raises:
        ValueError: a file is missing or not what it should be; the model is not the one that the folder names.
    """
    try:
        network = json.loads((folder / "network.json").read_text())
        weights = read_weights(folder / "weights.safetensors")
        read_printed(network["repr"])
    except (OSError, KeyError, TypeError, AttributeError, UnicodeError, json.JSONDecodeError) as error:
        raise ValueError(f"cannot read the model {folder.name[:8]}: {error}") from None
    if not isinstance(network.get("maps"), dict):
        raise ValueError(f"expected the maps of the model {folder.name[:8]}, got {network.get('maps')!r:.40}")
    found = fingerprint(network["repr"], weights)
    if found != folder.name:
        raise ValueError(f"the stored model has the fingerprint {found[:8]}, not {folder.name[:8]}")
    return Model(found, network, weights)
