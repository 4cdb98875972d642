"""What a printed VAE says of itself beside its layers; the fingerprint covers it."""

import math
from dataclasses import dataclass
from typing import Any

from vaerdict.checker.layers import Shape
from vaerdict.checker.printed import Printed

SPREADS = ("constant", "std", "variance", "log_variance", "bounded")


@dataclass(frozen=True, kw_only=True)
class Facts:
    """How a `GaussianVAE` uses its encoder and decoder; the meaning of each is explained there."""

    spread: str
    std: float
    input_shape: Shape
    latent_shape: Shape
    input_range: tuple[float, float]
    returns_pair: bool

    @property
    def latent(self) -> int:
        """The number of latents."""
        return math.prod(self.latent_shape)


def read_facts(printed: Printed) -> Facts | None:
    """Read the facts of a printed `GaussianVAE`; None where it is another model or does not say all of them.

    >>> read_facts(Printed("Net", {}, (), {})) is None
    True
    """
    told = printed.facts
    names = Facts.__dataclass_fields__
    if printed.kind != "GaussianVAE" or not all(name in told for name in names):
        return None
    sensible = (
        told["spread"] in SPREADS
        and _is_std(told["spread"], told["std"])
        and _is_shape(told["input_shape"])
        and _is_shape(told["latent_shape"])
        and _is_range(told["input_range"])
        and isinstance(told["returns_pair"], bool)
    )
    return Facts(**{name: told[name] for name in names}) if sensible else None


def _is_std(spread: str, value: Any) -> bool:
    return isinstance(value, float) and (spread not in ("constant", "bounded") or 0 < value < math.inf)


def _is_shape(value: Any) -> bool:
    return isinstance(value, tuple) and value != () and all(type(one) is int and one > 0 for one in value)


def _is_range(value: Any) -> bool:
    return isinstance(value, tuple) and len(value) == 2 and all(isinstance(one, float) for one in value)
