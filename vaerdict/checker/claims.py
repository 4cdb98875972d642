"""Exported certificates: read back bit by bit, and held against the rows of the results."""

import json
import re
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

_HEXADECIMAL = re.compile(r"-?0x[01](\.[0-9a-f]+)?p[+-]\d+|-?inf|nan")


def decode_numbers(value: Any) -> Any:
    """Turn hexadecimal strings back into the floats that they are, inside lists and dictionaries too.

    >>> decode_numbers({"margin": "0x1.8000000000000p+1"})
    {'margin': 3.0}
    """
    if isinstance(value, dict):
        return {name: decode_numbers(one) for name, one in value.items()}
    if isinstance(value, list):
        return [decode_numbers(one) for one in value]
    if isinstance(value, str) and _HEXADECIMAL.fullmatch(value):
        return float.fromhex(value)
    return value


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One exported certificate; the fields are those of the row in the results."""

    model_sha256: str
    sample_sha256: str
    sample_id: int
    dataset: str
    method: str
    kind: str
    strength: str
    norm: str
    r: float
    p: float
    reconstruction: str
    noise_std: float | None = None
    margin: float | None
    confidence: float | None
    constants: dict[str, Any]

    @property
    def about(self) -> str:
        """The claim in a message."""
        return f"{self.method} on sample {self.sample_id} of {self.dataset or 'unnamed data'}, r {self.r:.6g}"


FIELDS = tuple(field.name for field in fields(Claim))
_NUMBERS = ("r", "p", "noise_std", "margin", "confidence", "constants")
_LATER = ("noise_std",)  # runs from before it was a column lack it


def read_claims(path: Path) -> list[Claim]:
    """Read one unit's certificates.

    Raises:
        ValueError: the file is missing or something else.
    """
    try:
        entries = json.loads(path.read_text())["certificates"]
        return [Claim(**{name: _field(name, entry) for name in FIELDS}) for entry in entries]
    except (OSError, UnicodeError, json.JSONDecodeError, LookupError, TypeError) as error:
        raise ValueError(f"cannot read the exported certificates {path.name}: {type(error).__name__} {error}") from None


def _field(name: str, entry: dict[str, Any]) -> Any:
    """Decode what holds numbers: text elsewhere stays text, as the norm's name `inf` or a data set called `nan`."""
    value = entry.get(name) if name in _LATER else entry[name]
    return decode_numbers(value) if name in _NUMBERS else value


def differences(claim: Claim, row: dict[str, Any]) -> list[str]:
    """Name the fields in which a certificate and its row in the results are not exactly equal.

    >>> differences.__name__
    'differences'
    """
    found = []
    for name in FIELDS:
        stored = row[name]
        if name == "constants":
            stored = json.loads(stored)
        elif stored is None or stored != stored:  # Parquet gives an empty number back as NaN
            stored = None
        if getattr(claim, name) != stored:
            found.append(name)
    return found
