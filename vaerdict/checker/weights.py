"""Stored weights: the safetensors file read with the standard library, and the model's fingerprint recomputed."""

import hashlib
import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

_TORCH = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "I64": "int64", "I32": "int32",
    "I16": "int16", "I8": "int8", "U8": "uint8", "BOOL": "bool",
}  # fmt: skip
_NUMPY = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1", "U8": "u1"}

_BYTES = {name: 1 if name == "BOOL" else int(name.strip("BFIU")) // 8 for name in _TORCH}


@dataclass(frozen=True)
class Stored:
    """One tensor as it lies in the file."""

    dtype: str
    shape: tuple[int, ...]
    content: bytes

    def numbers(self) -> np.ndarray:
        """Give the values in float64, which holds all of float32 exactly.

        Raises:
            ValueError: they are of a type that numpy does not know.
        """
        if self.dtype not in _NUMPY:
            raise ValueError(f"expected weights of a type known to numpy, got {self.dtype}")
        return np.frombuffer(self.content, _NUMPY[self.dtype]).reshape(self.shape).astype(np.float64)


def read_weights(path: Path) -> dict[str, Stored]:
    """Read a safetensors file: the header's length in 8 bytes, the header in JSON, the tensors one after the other.

    Raises:
        ValueError: the file is something else.
    """
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    try:
        header = json.loads(content[8 : 8 + length])
        data = content[8 + length :]
        held = {
            name: Stored(facts["dtype"], tuple(facts["shape"]), data[slice(*facts["data_offsets"])])
            for name, facts in header.items()
            if name != "__metadata__"
        }
        # A tensor of another length could pass for several in the fingerprint.
        if any(len(one.content) != math.prod(one.shape) * _BYTES[one.dtype] for one in held.values()):
            raise ValueError("a tensor has another length than its shape says")
        return held
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"expected a safetensors file, got {path}: {error}") from None


def tensors_of(weights: dict[str, Stored], path: str) -> dict[str, Stored]:
    """Give the tensors of the layer at a path, by their names in it.

    >>> tensors_of({"a.weight": Stored("F32", (), b""), "ab.bias": Stored("F32", (), b"")}, "a").keys()
    dict_keys(['weight'])
    """
    start = f"{path}."
    return {name.removeprefix(start): one for name, one in weights.items() if name.startswith(start)}


def fingerprint(printed: str, weights: dict[str, Stored]) -> str:
    """Give the SHA-256 of a model: its printed architecture, then every tensor by name, type, shape and bytes.

    >>> fingerprint("ReLU()", {})[:8]
    'e57e5406'
    """
    digest = hashlib.sha256(printed.encode())
    for name, one in sorted(weights.items()):
        digest.update(f"{name} torch.{_TORCH.get(one.dtype, one.dtype)} {one.shape}\n".encode())
        digest.update(one.content)
    return digest.hexdigest()
