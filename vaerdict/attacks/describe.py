"""The options of a search as rows keep them."""

from dataclasses import fields, is_dataclass
from typing import Any, Protocol, runtime_checkable


@runtime_checkable
class Described(Protocol):
    """Options that say themselves how rows keep them, since a field is no number or word."""

    def described(self) -> dict[str, Any]:
        """Give the options as a mapping that canonical JSON can hold."""
        ...


def describe(options: Any) -> dict[str, Any]:
    """Give the options as a mapping; another optimiser among them is named, since its fields do not tell which.

    >>> from vaerdict.attacks.optimisers.noise import Noise
    >>> describe(Noise(draws=5))
    {'draws': 5, 'kind': 'uniform', 'samples': 1, 'batch_size': 256}
    """
    if isinstance(options, Described):
        return options.described()
    return {field.name: _value(getattr(options, field.name)) for field in fields(options)}


def describe_named(options: Any) -> dict[str, Any]:
    """Give the name of a search before its options.

    >>> from vaerdict.attacks.optimisers.noise import Noise
    >>> describe_named(Noise(draws=5))["name"]
    'noise-uniform'
    """
    return {"name": options.name, **describe(options)}


def _value(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_value(part) for part in value]
    if isinstance(value, Described) or (is_dataclass(value) and not isinstance(value, type)):
        return describe_named(value) if hasattr(value, "name") else describe(value)
    return value
