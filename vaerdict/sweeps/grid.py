"""What a sweep is asked: models x images x questions x seeds x methods, read from a YAML file."""

import itertools
import json
from argparse import ArgumentError
from collections.abc import Iterator
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, get_args, get_origin

import yaml  # type: ignore[import-untyped]
from jsonargparse import ArgumentParser

from vaerdict.options import AttackOptions, CertifyOptions, DataOptions, ModelSource, Question, require, require_known

_WHAT = "a YAML file with `models`, `data`, `questions` and `certify` or `attack`"
_SHOWN = 5


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Every combination is done: each model on all images, for each question and seed, by each method.

    Attributes:
        models: checkpoints or factories.
        data: images, with the range of samples.
        questions: distances `r` or `r_relative` and levels `p`.
        certify: certificates with their options.
        attack: attacks with their options.
        seeds: of all random draws.
        chunk: samples per unit of work.
        batch: images attacked at once; by default as many as fit in a quarter of the free memory when the sweep begins.
        threads: of each worker on the CPU; sums are rounded differently by their number.
        device: "cpu" or "cuda".
    """

    models: tuple[ModelSource, ...]
    data: tuple[DataOptions, ...]
    questions: tuple[Question, ...]
    certify: tuple[CertifyOptions, ...] = ()
    attack: tuple[AttackOptions, ...] = ()
    seeds: tuple[int, ...] = (0,)
    chunk: int = 100
    batch: int | None = None
    threads: int = 1
    device: Literal["cpu", "cuda"] = "cpu"

    def __post_init__(self) -> None:
        for name in ("models", "data", "questions", "seeds"):
            require(bool(getattr(self, name)), f"one or more `{name}`", "none")
        require(bool(self.certify or self.attack), "`certify` or `attack`", "neither")
        for name in ("chunk", "threads"):
            require(getattr(self, name) >= 1, f"`{name}` >= 1", getattr(self, name))
        require(self.batch is None or self.batch >= 1, "`batch` >= 1", self.batch)


def read_grid(path: Path) -> Grid:
    """Read a grid.

    Lists of models, images, questions, certificates and attacks hold mappings of options as on the command line; a text
    stands for a model's folder or a source of images, and a list where one value is expected for an entry with each.

    Raises:
        ValueError: the file cannot be read, or an option is unknown or out of its range.
    """
    try:
        given = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, OSError, UnicodeError) as error:
        raise ValueError(f"expected {_WHAT}, got {path}: {' '.join(str(error).split())}") from None
    require(isinstance(given, dict), _WHAT, path)
    return make_grid({str(name).replace("-", "_"): value for name, value in given.items()}, str(path))


def make_grid(given: dict[str, Any], where: str) -> Grid:
    """Make a grid of what a file holds.

    Raises:
        ValueError: an option is unknown or out of its range; the message says in which entry `where`.

    >>> asked = {"r": 1, "p": [0.5, 0.9]}
    >>> grid = make_grid({"models": "m", "data": "digits", "questions": asked, "certify": {}}, "doc")
    >>> [question.p for question in grid.questions]
    [0.5, 0.9]
    """
    known = {field.name: field for field in fields(Grid)}
    require_known(f"entry in {where}", [*given], [*known])
    missing = [name for name, field in known.items() if field.default is MISSING and name not in given]
    require(not missing, f"`{missing[0] if missing else ''}` in {where}", "none")
    kinds = {name: get_args(field.type)[0] for name, field in known.items() if get_origin(field.type) is tuple}
    parts = {name: _entries(kind, given[name], f"{name} in {where}") for name, kind in kinds.items() if name in given}
    single = {name: _typed(known[name].type, name, value, where) for name, value in given.items() if name not in kinds}
    return _checked(Grid, {**single, **parts}, where)


def _entries(kind: Any, given: Any, where: str) -> tuple[Any, ...]:
    """Read a list of entries, or one."""
    listed = given if isinstance(given, list) else [given]
    if kind is int:
        return tuple(_typed(int, "value", value, where) for value in listed)
    return tuple(
        entry for number, value in enumerate(listed, 1) for entry in _entry(kind, value, f"{where}, {number}.")
    )


def _entry(kind: Any, given: Any, where: str) -> Iterator[Any]:
    """Read one entry: of several values for an option that takes one, each in turn."""
    types = {field.name: field.type for field in fields(kind)}
    given = {next(iter(types)): given} if isinstance(given, str) else {} if given is None else given
    require(isinstance(given, dict), f"options in {where}", given)
    options = {str(name).replace("-", "_"): value for name, value in given.items()}
    require_known(f"option in {where}", [*map(_dashed, options)], [*map(_dashed, types)])
    choices = [
        value if isinstance(value, list) and get_origin(types[name]) is not tuple else [value]
        for name, value in options.items()
    ]
    for values in itertools.product(*choices):
        chosen = zip(options, values, strict=True)
        yield _checked(kind, {name: _typed(types[name], name, value, where) for name, value in chosen}, where)


def _typed(kind: Any, name: str, value: Any, where: str) -> Any:
    """Give a value the type of its option, or say that it has another."""
    if get_origin(kind) is tuple and not isinstance(value, list):
        value = [value]
    if kind is str or str in get_args(kind) or get_origin(kind) is Literal:
        value = str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--value", type=kind)
    try:
        if value is None and NoneType not in get_args(kind):
            raise TypeError  # the parser takes it for "as it is"
        return parser.parse_object({"value": value}).value
    except (ArgumentError, ArithmeticError, TypeError, ValueError):
        raise ValueError(f"expected `{name}` in {where} as {_in_words(kind)}, got {value!r}") from None


def _dashed(name: str) -> str:
    return name.replace("_", "-")


def _in_words(kind: Any) -> str:
    if get_origin(kind) is UnionType:
        kind = get_args(kind)[0]
    if get_origin(kind) is Literal:
        return f"one of {', '.join(get_args(kind))}"
    if get_origin(kind) is tuple:
        return f"a list, each {_in_words(get_args(kind)[0])}"
    return {int: "a whole number", float: "a number", bool: "true or false"}.get(kind, "text")


def _checked(kind: Any, options: dict[str, Any], where: str) -> Any:
    try:
        return kind(**options)
    except ValueError as error:
        raise ValueError(f"{error} ({where})") from None


def as_json(grid: Grid) -> dict[str, Any]:
    """Give the grid as JSON holds it."""
    held: dict[str, Any] = json.loads(json.dumps(asdict(grid)))
    return held


def differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Say where two grids, as JSON, differ: `attack.0.radii.1: 0.5 -> 1.0`.

    >>> differences({"seeds": [0]}, {"seeds": [0, 1]})
    ['seeds.1: nothing -> 1']
    """
    old, new = dict(_leaves(before)), dict(_leaves(now))
    names = [*old, *(name for name in new if name not in old)]
    told = [(name, old.get(name, "nothing"), new.get(name, "nothing")) for name in names]
    found = [f"{name}: {was} -> {is_now}" for name, was, is_now in told if was != is_now]
    return [*found[:_SHOWN], *([f"and {len(found) - _SHOWN} more"] if len(found) > _SHOWN else [])]


def _leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
    if inner is None:
        yield name.removeprefix("."), value
    else:
        for key, part in inner:
            yield from _leaves(part, f"{name}.{key}")
