"""The command line: options in, one call of the library, exit status out.

0: done. 1: a check failed. 2: wrong usage, one sentence on stderr. Heavy imports happen inside the commands.
"""

import hashlib
import logging
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

from vaerdict.arguments import fail, parse
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
)


def _demo(options: DemoOptions) -> None:
    from vaerdict.demo import run_demo

    report, summary = run_demo(options)
    print(f"\n{summary}\n\nreport: {report}")


def _train(task: TrainTask, data: DataOptions, model: ModelOptions, training: TrainingOptions) -> None:
    from vaerdict.tasks import train_task

    vae, elbo = train_task(task, data, model, training)
    print(f"{vae.name}: held-out ELBO {elbo:.2f} nats per image, written to {task.out}")


def _certify(
    source: ModelSource, data: DataOptions, question: Question, options: CertifyOptions, run: RunOptions
) -> None:
    from vaerdict.tasks import certify_task

    print(certify_task(source, data, question, options, run))


def _attack(
    source: ModelSource, data: DataOptions, question: Question, options: AttackOptions, run: RunOptions
) -> None:
    from vaerdict.tasks import attack_task

    print(attack_task(source, data, question, options, run))


def _sweep(grid: str, options: SweepOptions) -> None:
    from vaerdict.tasks import dry_run_task, sweep_task

    if options.dry_run:
        print(dry_run_task(Path(grid), options))
        return
    text, whole = sweep_task(Path(grid), options)
    print(text, file=sys.stderr if options.log_json else sys.stdout)
    if not whole:
        sys.exit(1)


def _status(run: str) -> None:
    from vaerdict.tasks import status_task

    print(status_task(Path(run)))


def _report(run: str) -> None:
    from vaerdict.reports import build_report

    print(f"report: {build_report(Path(run))}")


def _check(run: str) -> None:
    from vaerdict.checker import check_run

    report = check_run(Path(run))
    print(report)
    if report.failed:
        sys.exit(1)


def _design(options: DesignOptions) -> None:
    from vaerdict.tasks import design_task

    print(design_task(options))


def _doctor() -> None:
    from vaerdict.tasks import doctor_task

    print(doctor_task())


_COMMANDS: dict[str, Callable[..., None]] = {
    "demo": _demo,
    "train": _train,
    "certify": _certify,
    "attack": _attack,
    "sweep": _sweep,
    "status": _status,
    "report": _report,
    "check": _check,
    "design": _design,
    "doctor": _doctor,
}


@contextmanager
def _recorded(out: Path, command: str, configuration: str) -> Iterator[None]:
    """Keep the resolved options beside the results, and leave nothing where a command fails before its first one.

    Raises:
        ValueError: `out` cannot be written.
    """
    from vaerdict.results import write_atomic

    path = out / "configs" / f"{command}-{hashlib.sha256(configuration.encode()).hexdigest()[:8]}.yaml"
    made = [file for file in (path, *path.parents) if not file.exists()]
    try:
        write_atomic(path, configuration.encode())
    except OSError as error:
        raise ValueError(f"expected `--out` as a folder that can be written, got {out}: {error.strerror}") from None
    before = _files(out)
    try:
        yield
    except BaseException:
        if _files(out) == before:
            with suppress(OSError):  # another run may use a folder by now
                for file in made:
                    file.rmdir() if file.is_dir() else file.unlink()
        raise


def _files(folder: Path) -> set[Path]:
    return {*folder.glob("*"), *folder.glob("*/*")}


@contextmanager
def _skipping_told() -> Iterator[None]:
    """Say in one line each which files are skipped as damaged."""
    from vaerdict.results import DamagedParts

    usual = warnings.showwarning

    def show(message: Warning | str, category: type[Warning], *where: Any) -> None:
        if issubclass(category, DamagedParts):
            print(f"vaerdict: {message}", file=sys.stderr)
        else:
            usual(message, category, *where)

    with warnings.catch_warnings():
        warnings.simplefilter("once", DamagedParts)
        warnings.showwarning = show  # type: ignore[assignment]  # its last arguments do not matter here
        yield


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command."""
    values, configuration, options = parse(sys.argv[1:] if arguments is None else arguments)
    logging.basicConfig(level=logging.INFO if values.verbose else logging.WARNING, format="%(message)s")
    from vaerdict.results import Contradiction

    command = values.subcommand
    out = None if values[command].get("dry_run") else values[command].get("out")
    try:
        with _skipping_told(), nullcontext() if out is None else _recorded(Path(out), command, configuration):
            _COMMANDS[command](*options)
    except (ValueError, OSError, FloatingPointError) as error:
        if values.verbose:
            logging.exception("the error came from here:")
        fail(" ".join(str(error).split()))
    except Contradiction as error:
        print(f"vaerdict: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("vaerdict: interrupted; finished parts are kept, the same command goes on from there", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
