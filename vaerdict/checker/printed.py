"""A model's architecture as torch prints it: the text that its fingerprint covers, read back."""

import ast
import re
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Call:
    """A printed layer: `Conv2d(1, 16, kernel_size=(4, 4))` as kind, arguments by position and by name."""

    kind: str
    by_position: tuple[Any, ...]
    by_name: dict[str, Any]


def read_call(text: str) -> Call | None:
    """Read one printed layer; None where the text is anything else than a call with plain values.

    >>> read_call("LeakyReLU(negative_slope=0.1)").by_name
    {'negative_slope': 0.1}
    """
    try:
        call = ast.parse(text.replace("\n", " ").strip(), mode="eval").body
        if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Name)):
            return None
        values = tuple(_value(one) for one in call.args)
        return Call(call.func.id, values, {str(one.arg): _value(one.value) for one in call.keywords})
    except (SyntaxError, ValueError):
        return None


def _value(node: ast.expr) -> Any:
    if isinstance(node, ast.Name):  # torch prints some words without quotes, as in `padding_mode=circular`
        return float(node.id) if node.id in ("nan", "inf") else node.id
    return ast.literal_eval(node)


@dataclass(frozen=True)
class Printed:
    """A printed model: its class, the facts in its first line, and its layers `(path, text)` in the order of print.

    `containers` are the parts with layers of their own, as path and class.
    """

    kind: str
    facts: dict[str, Any]
    layers: tuple[tuple[str, str], ...]
    containers: dict[str, str]

    def in_a_row(self, part: str) -> list[tuple[str, str]] | None:
        """Give a part's layers `(path, text)` where they are called one after the other, None where it is not said."""
        inner = [kind for path, kind in self.containers.items() if f"{path}.".startswith(f"{part}.")]
        if any(kind != "Sequential" for kind in inner):
            return None
        held = [(path, text) for path, text in self.layers if f"{path}.".startswith(f"{part}.")]
        return [(path, text) for path, text in held if text != "Sequential()"]


_LINE = re.compile(r"^((?:  )+)\(([^()]+)\): (.*)$")


def read_printed(text: str) -> Printed:
    r"""Read the printed form of a torch module with layers.

    >>> printed = read_printed("Net(\n  (0): ReLU()\n  (1): Sequential(\n    (0): Tanh()\n  )\n)")
    >>> printed.kind, printed.layers
    ('Net', (('0', 'ReLU()'), ('1.0', 'Tanh()')))
    """
    first, *rest = text.split("\n")
    facts: dict[str, Any] = {}
    layers: list[tuple[str, str]] = []
    containers: dict[str, str] = {}
    path: list[str] = []
    for line in rest:
        if found := _LINE.match(line):
            path = [*path[: len(found[1]) // 2 - 1], found[2]]
            name = ".".join(path)
            if found[3].endswith("("):
                containers[name] = found[3][:-1]
            else:
                layers.append((name, found[3]))
        elif not path and (call := read_call(f"facts({line.strip()})")):
            facts = call.by_name
    return Printed(first.rstrip("("), facts, tuple(layers), containers)
