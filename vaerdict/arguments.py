"""What may be typed: the commands with their options, YAML files of options, and errors of one line."""

import itertools
import json
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from types import UnionType
from typing import Any, Literal, NoReturn, get_args, get_origin

import yaml  # type: ignore[import-untyped]
from jsonargparse import ArgumentParser, Namespace

from vaerdict import __version__
from vaerdict.options import (
    AttackOptions,
    CertifyOptions,
    DataOptions,
    DemoOptions,
    DesignOptions,
    ModelOptions,
    ModelSource,
    Question,
    RunOptions,
    SweepOptions,
    TrainingOptions,
    TrainTask,
    require,
    require_known,
)

_COMMANDS: dict[str, tuple[str, tuple[type, ...]]] = {
    "demo": ("Train, certify, attack and report on the embedded digits.", (DemoOptions,)),
    "train": ("Train a VAE.", (TrainTask, DataOptions, ModelOptions, TrainingOptions)),
    "certify": ("Certify a margin from below.", (ModelSource, DataOptions, Question, CertifyOptions, RunOptions)),
    "attack": ("Attack: a margin from above.", (ModelSource, DataOptions, Question, AttackOptions, RunOptions)),
    "sweep": ("Certify and attack a grid of models, images and methods.", (SweepOptions,)),
    "status": ("Say which units of a sweep are done, failed or missing.", ()),
    "report": ("Turn a run's results into tables, figures and one HTML file.", ()),
    "check": ("Verify a run's certificates and witnesses again, by independent code.", ()),
    "design": ("List the Lipschitz budgets that promise a margin.", (DesignOptions,)),
    "doctor": ("Say what is installed and what would be skipped.", ()),
}

_PLACES = {
    "sweep": ("grid", "YAML file of the grid"),
    "status": ("run", "folder of the sweep"),
    "report": ("run", "folder of the run"),
    "check": ("run", "folder of the run"),
}
"""What is named without an option."""

_WORDS: dict[Any, str] = {
    float: "a number",
    int: "a whole number",
    bool: "true or false",
    tuple[int, ...]: "whole numbers such as 128,128",
    tuple[float, ...]: "numbers such as 0.5,1",
    tuple[float, float]: "two numbers such as 0,1",
}


def _in_words(kind: Any) -> str:
    """Say what an option takes: `float | None` is a number."""
    if get_origin(kind) is UnionType:
        kind = get_args(kind)[0]
    return f"one of {', '.join(get_args(kind))}" if get_origin(kind) is Literal else _WORDS.get(kind, "text")


class _Parser(ArgumentParser):
    """jsonargparse with dashes in option names, no abbreviations, and errors of one line in this package's form."""

    def __init__(self, *, types: dict[str, Any] | None = None, **facts: Any) -> None:
        super().__init__(allow_abbrev=False, print_config="--print-config", **facts)
        self.types = types or {}

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Say what is wrong in one sentence and leave with status 2."""
        fail(self._translated(" ".join(str(message).split())))

    def _translated(self, message: str) -> str:
        """Translate the mistakes that are made most; anything else stays as jsonargparse says it."""
        if found := re.fullmatch(r'Parser key "(\w+)": .*(?:Got|Given) value: (.*)', message):
            return f"expected `--{_dashed(found[1])}` as {_in_words(self.types.get(found[1]))}, got {found[2]!r}"
        if found := re.fullmatch(r"the following arguments are required: (.*)", message):
            missing = [name.split(".") for name in found[1].split(", ")]
            return "expected " + " and ".join(
                f"`--{_dashed(name)}`" if name in _types(command) else f"`{name}`" for command, name in missing
            )
        if found := re.match(r'argument subcommand: invalid choice: (.*) \(|expected "subcommand"', message):
            return f"expected a command ({', '.join(_COMMANDS)}), got {found[1] or 'none'}"
        return message

    def format_help(self, *args: Any, **kwargs: Any) -> str:
        """Show the names with dashes, as they are typed, and that flags need no value."""
        text = super().format_help(*args, **kwargs).replace("{true,false}", "[{true,false}]")
        return re.sub(r"--[a-z_]+", lambda name: _dashed(name[0]), text)


def _dashed(name: str) -> str:
    return name.replace("_", "-")


def fail(message: str) -> NoReturn:
    """Say one sentence on stderr and leave with status 2."""
    print(f"vaerdict: {message}", file=sys.stderr)
    sys.exit(2)


def _types(command: str) -> dict[str, Any]:
    return {field.name: field.type for kind in _COMMANDS[command][1] for field in fields(kind)}


def build_parsers() -> tuple[_Parser, dict[str, _Parser]]:
    """Make the parser and those of its commands."""
    parser = _Parser(prog="vaerdict", description="A verdict on a VAE's robustness.", version=__version__)
    parser.add_argument("--verbose", action="store_true", help="log what is done, and show where an error comes from")
    subcommands = parser.add_subcommands()
    commands = {}
    for name, (summary, kinds) in _COMMANDS.items():
        commands[name] = _Parser(description=summary, types=_types(name))
        if kinds:
            commands[name].add_argument("--config", action="config", help="YAML file with any of the options")
        if name in _PLACES:
            place, meaning = _PLACES[name]
            commands[name].add_argument(place, help=meaning)
        for kind in kinds:
            commands[name].add_class_arguments(kind, as_group=True)
        subcommands.add_subcommand(name, commands[name], help=summary)
    return parser, commands


def _spelled_out(arguments: Sequence[str]) -> list[str]:
    """Turn what is typed into what jsonargparse reads: `--radii 0.5,1 --config f` into `--radii=[0.5,1] --r=8`.

    Raises:
        ValueError: an option stands before the command or lacks its value; a file of options cannot be used.
    """
    place = next((index for index, argument in enumerate(arguments) if argument in _COMMANDS), len(arguments))
    early, command, rest = arguments[:place], arguments[place : place + 1], _Typed(arguments[place + 1 :])
    if command and early and early[0].startswith("--") and early[0] not in ("--verbose", "--help", "--version"):
        raise ValueError(f"options stand after the command: vaerdict {' '.join([*command, *early])}")
    types = _types(command[0]) if command else {}
    named = _PLACES.get(command[0], ("",))[0] if command else ""
    options = (_spelled_out_option(argument, rest, types, named) for argument in rest)
    return [*early, *command, *itertools.chain.from_iterable(options)]


class _Typed(Iterator[str]):
    """What is typed, argument by argument, with a look at the next one."""

    def __init__(self, arguments: Sequence[str]) -> None:
        self._left = list(arguments)

    def __next__(self) -> str:
        if not self._left:
            raise StopIteration
        return self._left.pop(0)

    def peek(self) -> str:
        """Give the next argument without taking it; nothing where there is none."""
        return self._left[0] if self._left else ""


def _is_value(word: str, named: str) -> bool:
    """Say whether a word after a flag is its value: any is, unless the command takes one without an option."""
    return word.lower() in ("true", "false", "yes", "no") if named else bool(word) and not word.startswith("--")


def _spelled_out_option(argument: str, rest: _Typed, types: dict[str, Any], named: str) -> list[str]:
    typed, equals, value = argument.partition("=")
    name = typed.removeprefix("--").replace("-", "_")
    if not (types and typed.startswith("--") and name in (*types, "config")):
        return [argument]
    if not equals:
        if types.get(name) is bool and not _is_value(rest.peek(), named):
            return [f"--{name}=true"]
        value = next(rest, "--")
        if value.startswith("--"):
            raise ValueError(f"expected a value after `{typed}`")
    return _options_in(Path(value), types, named) if name == "config" else [_assignment(name, value, types)]


def _options_in(path: Path, types: dict[str, Any], named: str) -> list[str]:
    """Read a YAML file, dashes or underscores in its keys, as arguments; it may hold what is `named` without an option.

    Raises:
        ValueError: the file is no such one, or has an option that the command lacks.
    """
    what = "`--config` as a YAML file with lines `option: value`"
    try:
        chosen = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, OSError, UnicodeError) as error:
        raise ValueError(f"expected {what}, got {path}: {' '.join(str(error).split())}") from None
    require(isinstance(chosen, dict), what, path)
    known = [_dashed(name) for name in (*types, named) if name]
    require_known(f"option in {path}", [_dashed(str(name)) for name in chosen], known)
    return [
        str(value) if name == named else _assignment(name.replace("-", "_"), value, types)
        for name, value in chosen.items()
    ]


def _with_design(arguments: list[str]) -> list[str]:
    """Put the options of `train --design FILE` before all others: what is typed otherwise stays, to be refused."""
    command = next((place for place, argument in enumerate(arguments) if argument in _COMMANDS), len(arguments))
    files = [argument.partition("=")[2] for argument in arguments if argument.startswith("--design=")]
    if arguments[command : command + 1] != ["train"] or not files or files[-1] == "null":
        return arguments
    from vaerdict.certify.promise import read_promise

    options = read_promise(Path(files[-1])).options()
    designed = [_assignment(name, value, _types("train")) for name, value in options.items()]
    return [*arguments[: command + 1], *designed, *arguments[command + 1 :]]


def _assignment(name: str, value: Any, types: dict[str, Any]) -> str:
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    is_bare_list = get_origin(types[name]) is tuple and not text.startswith("[")
    return f"--{name}=[{text}]" if is_bare_list else f"--{name}={text}"


def parse(arguments: Sequence[str]) -> tuple[Namespace, str, list[Any]]:
    """Give what was chosen, the configuration to keep, and the command's own arguments, all of them checked."""
    parser, commands = build_parsers()
    try:
        values: Any = parser.parse_args(_with_design(_spelled_out(arguments)))
        chosen = values[values.subcommand]
        kinds = _COMMANDS[values.subcommand][1]
        options = [kind(**{field.name: chosen[field.name] for field in fields(kind)}) for kind in kinds]
    except ValueError as error:
        fail(str(error))
    places = [chosen[_PLACES[values.subcommand][0]]] if values.subcommand in _PLACES else []
    return values, commands[values.subcommand].dump(chosen), [*places, *options]
