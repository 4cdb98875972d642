"""The command line: options in, one call of the library, exit status out.

0: done. 1: a check failed. 2: wrong usage, one sentence on stderr. Heavy imports happen inside the commands.
"""

import logging
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, NoReturn, TypeVar

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
    TrainingOptions,
    TrainTask,
)

Options = TypeVar("Options")


class _Parser(ArgumentParser):
    """jsonargparse with dashes in option names, no abbreviations, and errors of one line."""

    def __init__(self, **facts: Any) -> None:
        super().__init__(allow_abbrev=False, **facts)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Say what is wrong in one sentence and leave with status 2."""
        _fail(" ".join(str(message).split()))

    def format_help(self, *args: Any, **kwargs: Any) -> str:
        """Show the names with dashes, as they are typed."""
        return re.sub(r"--[a-z_]+", lambda name: name[0].replace("_", "-"), super().format_help(*args, **kwargs))


def _fail(message: str) -> NoReturn:
    print(f"vaerdict: {message}", file=sys.stderr)
    sys.exit(2)


def _take(kind: type[Options], values: Namespace) -> Options:
    return kind(**{field.name: getattr(values, field.name) for field in fields(kind)})  # type: ignore[arg-type]


def _demo(values: Namespace) -> None:
    from vaerdict.demo import run_demo

    report, summary = run_demo(_take(DemoOptions, values))
    print(f"\n{summary}\n\nreport: {report}")


def _train(values: Namespace) -> None:
    from vaerdict.tasks import train_task

    options = [_take(kind, values) for kind in (TrainTask, DataOptions, ModelOptions, TrainingOptions)]
    vae, elbo = train_task(*options)  # type: ignore[arg-type]
    print(f"{vae.name}: held-out ELBO {elbo:.2f} nats per image, written to {values.out}")


def _certify(values: Namespace) -> None:
    from vaerdict.tasks import certify_task

    options = [_take(kind, values) for kind in (ModelSource, DataOptions, Question, CertifyOptions, RunOptions)]
    print(certify_task(*options))  # type: ignore[arg-type]


def _attack(values: Namespace) -> None:
    from vaerdict.tasks import attack_task

    options = [_take(kind, values) for kind in (ModelSource, DataOptions, Question, AttackOptions, RunOptions)]
    print(attack_task(*options))  # type: ignore[arg-type]


def _report(values: Namespace) -> None:
    from vaerdict.reports import build_report

    print(f"report: {build_report(Path(values.run))}")


def _design(values: Namespace) -> None:
    from vaerdict.tasks import design_task

    print(design_task(_take(DesignOptions, values)))


def _doctor(values: Namespace) -> None:
    from vaerdict.tasks import doctor_task

    print(doctor_task())


_COMMANDS: dict[str, tuple[str, Callable[[Namespace], None], tuple[type, ...]]] = {
    "demo": ("Train, certify, attack and report on the embedded digits.", _demo, (DemoOptions,)),
    "train": ("Train a VAE.", _train, (TrainTask, DataOptions, ModelOptions, TrainingOptions)),
    "certify": (
        "Certify a margin from below.",
        _certify,
        (ModelSource, DataOptions, Question, CertifyOptions, RunOptions),
    ),
    "attack": (
        "Attack: a margin from above.",
        _attack,
        (ModelSource, DataOptions, Question, AttackOptions, RunOptions),
    ),
    "report": ("Turn a run's results into tables, figures and one HTML file.", _report, ()),
    "design": ("List the Lipschitz budgets that promise a margin.", _design, (DesignOptions,)),
    "doctor": ("Say what is installed and what would be skipped.", _doctor, ()),
}


def _build_parsers() -> tuple[_Parser, dict[str, _Parser]]:
    parser = _Parser(prog="vaerdict", description="A verdict on a VAE's robustness.", version=__version__)
    parser.add_argument("--verbose", action="store_true", help="log what is done, and show where an error comes from")
    subcommands = parser.add_subcommands()
    commands = {}
    for name, (summary, _, kinds) in _COMMANDS.items():
        commands[name] = _Parser(description=summary)
        commands[name].add_argument("--config", action="config", help="YAML file with any of the options")
        if name == "report":
            commands[name].add_argument("run", help="folder of the run")
        for kind in kinds:
            commands[name].add_class_arguments(kind, as_group=True)
        subcommands.add_subcommand(name, commands[name], help=summary)
    return parser, commands


def _underscored(argument: str) -> str:
    """Turn `--batch-size=3` into `--batch_size=3`, the name that the dataclass has."""
    name, equals, value = argument.partition("=")
    return name.replace("-", "_").replace("__", "--", 1) + equals + value if name.startswith("--") else argument


def _save_config(command: _Parser, name: str, chosen: Namespace) -> None:
    """Write the resolved options beside the results."""
    from vaerdict.results import write_atomic

    if "out" in chosen:
        write_atomic(Path(chosen.out) / f"{name}.yaml", command.dump(chosen).encode())


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command."""
    parser, commands = _build_parsers()
    typed = sys.argv[1:] if arguments is None else arguments
    values: Any = parser.parse_args([_underscored(argument) for argument in typed])
    if values.subcommand is None:
        parser.print_help()
        sys.exit(2)
    logging.basicConfig(level=logging.INFO if values.verbose else logging.WARNING, format="%(message)s")
    from vaerdict.results import Contradiction

    try:
        chosen = values[values.subcommand]
        _COMMANDS[values.subcommand][1](chosen)
        _save_config(commands[values.subcommand], values.subcommand, chosen)
    except (ValueError, OSError, FloatingPointError) as error:
        if values.verbose:
            logging.exception("the error came from here:")
        _fail(" ".join(str(error).split()))
    except Contradiction as error:
        print(f"vaerdict: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("vaerdict: interrupted; finished parts are kept, the same command goes on from there", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
