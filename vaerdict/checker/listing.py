"""The listed layers of a map, held against the printed ones: nothing is proved from the list."""

from typing import Any

from vaerdict.checker.notes import Notes
from vaerdict.checker.weights import Stored, tensors_of

_MOVES = ("Identity()", "Pair(0)", "Pair(1)")


def own_entries(
    told: Any, row: list[tuple[str, str]], added: list[str], weights: dict[str, Stored], notes: Notes
) -> list[Any]:
    """Give the constant claimed for each printed layer `(path, text)`, None for each where none are listed.

    Args:
        told: of the map, as exported.
        row: the model's own layers.
        added: prints of the layers that the map has beside them.
        weights: all tensors.
        notes: where differences are written.
    """
    nothing = [None] * len(row)
    if not isinstance(told, dict) or "layers" not in told:
        notes.fail("a map is not listed")
        return nothing
    entries = told["layers"]
    if entries is None:
        return nothing
    if not isinstance(entries, list) or not all(_is_entry(entry) for entry in entries):
        notes.fail("expected a map's layers as a list of layers")
        return nothing
    own = [entry for entry in entries if entry["path"]]
    if any(entry["text"] not in (*added, *_MOVES) for entry in entries if not entry["path"]):
        notes.fail("a map is listed with a layer that the model does not have")
    if [entry["text"] for entry in own] != [text for _, text in row]:
        notes.fail("the listed layers are not those that the model prints")
        return nothing
    for entry, (path, _) in zip(own, row, strict=True):
        _compare_weights(entry, path, weights, notes)
    return [entry["constant"] for entry in own]


def _is_entry(entry: Any) -> bool:
    types = {"path": str, "text": str, "tensors": dict, "constant": str}
    return isinstance(entry, dict) and all(isinstance(entry.get(name), kind) for name, kind in types.items())


def _compare_weights(entry: dict[str, Any], path: str, weights: dict[str, Stored], notes: Notes) -> None:
    """A layer that the model uses twice is listed twice under its first name: its tensors must be the same."""
    home = entry["path"]
    held = tensors_of(weights, home)
    named = entry["tensors"] == {name: f"{home}.{name}" for name in held}
    if not named or held != tensors_of(weights, path):
        notes.fail(f"layer {path} is listed with the weights of another")
