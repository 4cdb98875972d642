"""Tiny models, grids of small units, and sweeps of them in processes of their own that can be killed."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import yaml
from pandas.testing import assert_frame_equal

from vaerdict.models import build_vae
from vaerdict.models.checkpoint import save_vae
from vaerdict.options import ModelOptions
from vaerdict.results import load

ROOT = Path(__file__).resolve().parents[2]
ATTACK = {"margin": False, "radii": [0.5], "gradients": 3, "samples": 50, "confidence": 0.9}


def write_models(folder: Path, count: int = 2) -> list[str]:
    """Write folders of untrained models, and give their paths."""
    options = ModelOptions(family="plain", hidden=(8,), latent=2)
    paths = [folder / f"model{number}" for number in range(count)]
    for number, path in enumerate(paths):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(number)
            vae = build_vae(options, name=path.name, input_shape=(1, 8, 8)).eval()
        save_vae(path, vae, options, {})
    return [str(path) for path in paths]


def write_grid(path: Path, **given: Any) -> Path:
    """Write a grid of cheap units: one certificate and one attack per chunk, model and seed."""
    grid = {
        "data": {"data": "digits", "limit": 10},
        "questions": {"r": 1.0},
        "certify": {"methods": ["barrett"], "local": False},
        "attack": ATTACK,
        "chunk": 1,
    }
    asked = {name: value for name, value in {**grid, **given}.items() if value is not None}
    path.write_text(yaml.safe_dump(asked))
    return path


def rows(folder: Path) -> pd.DataFrame:
    """Give all rows below a sweep's folder in the order of their units, without the time they took."""
    return load(folder / "results").drop(columns="time_s")


def files(folder: Path, name: str) -> dict[str, bytes]:
    """Give the whole files of a part of a sweep's folder by their paths; drafts of who was killed are none."""
    held = [path for path in (folder / name).rglob("*") if path.is_file() and not path.name.startswith(".")]
    return {str(path.relative_to(folder)): path.read_bytes() for path in held}


def parts(folder: Path) -> list[Path]:
    """Give the parts of finished units."""
    return [path for path in (folder / "results").glob("*.parquet") if not path.name.startswith(".")]


def assert_same(folder: Path, whole: Path) -> None:
    """Check that a sweep's folder holds what an undisturbed one does: no row or file more, less or other."""
    found, expected = rows(folder), rows(whole)
    assert_frame_equal(found, expected, check_exact=True)
    assert not found.duplicated(["unit_key", "kind", "method", "sample_id", "rho"]).any()
    assert [*(folder / "results").rglob("failed/*.parquet")] == []
    for name in ("certificates", "witnesses"):
        assert files(folder, name) == files(whole, name)
    assert all((folder / path).is_file() for path in found["witness"].dropna())


@dataclass(frozen=True)
class Process:
    """What /proc tells of a living process."""

    pid: int
    parent: int
    group: int
    session: int
    command: str


def processes() -> list[Process]:
    """Give all living processes."""
    return [found for path in Path("/proc").glob("[0-9]*") if (found := _process(path)) is not None]


def _process(path: Path) -> Process | None:
    try:
        state, *numbers = (path / "stat").read_text().rpartition(")")[2].split()[:4]
        command = (path / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except (FileNotFoundError, ProcessLookupError):  # it has just ended
        return None
    return None if state in "ZX" else Process(int(path.name), *map(int, numbers), command)


def until(condition: Callable[[], Any], seconds: float, what: object) -> Any:
    """Wait until a condition holds, and give what it gave."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"waited {seconds} s for {what}"
        time.sleep(0.02)
    return found


def end(pid: int) -> None:
    """Kill a process, unless it has ended by itself."""
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


class Run:
    """A command in a process and session of its own."""

    def __init__(self, server: "Server", pid: int, log: Path) -> None:
        self._server, self.pid, self._log = server, pid, log
        self._status: int | None = None

    def __str__(self) -> str:
        return f"the end of a command that wrote {self.output}"

    @property
    def output(self) -> str:
        """What it and those it started wrote on stdout and stderr."""
        return self._log.read_text()

    def poll(self) -> int | None:
        """Give the exit status once there is one."""
        if self._status is None:
            self._status = self._server.ask({"poll": self.pid})
        return self._status

    def wait(self, seconds: float = 120.0) -> int:
        """Wait for the exit status."""
        until(lambda: self.poll() is not None, seconds, self)
        assert self._status is not None
        return self._status

    def members(self) -> list[Process]:
        """Give the living processes of the session: all that the command started and itself."""
        return [found for found in processes() if found.session == self.pid]

    def workers(self) -> list[Process]:
        """Give the processes that do units besides the command's own."""
        members = {found.pid: found for found in self.members()}
        parents = {pid: members.get(found.parent) for pid, found in members.items()}
        return [
            found
            for pid, found in members.items()
            if found.command.startswith("ray::Hand")
            or ((parent := parents[pid]) is not None and parent.pid != self.pid and "forkserver" in parent.command)
        ]

    def kill(self, whole_group: bool = False) -> None:
        """Kill the command's own process, or with it those that it started in its group."""
        with suppress(ProcessLookupError):  # it was done before
            (os.killpg if whole_group else os.kill)(self.pid, signal.SIGKILL)

    def interrupt(self) -> None:
        """Do what Ctrl-C in a terminal does."""
        os.killpg(self.pid, signal.SIGINT)

    def end(self) -> None:
        """Leave nothing behind."""
        for found in self.members():
            end(found.pid)


class Server:
    """A process that has imported the command line once, and forks itself for each command."""

    def __init__(self, folder: Path) -> None:
        self._folder, self.runs = folder, list[Run]()
        nothing = folder / "nothing"
        nothing.mkdir()
        # No git: which commit a row names must not hinge on how fast git answers.
        environment = {**os.environ, "PATH": str(nothing), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        self._short = tempfile.mkdtemp(prefix="v")  # Ray's sockets take no long paths
        environment["RAY_TMPDIR"] = environment["TMPDIR"] = self._short
        self._process = subprocess.Popen(
            [sys.executable, "-c", "from tests.sweeps.small import serve; serve()"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, cwd=folder,
        )  # fmt: skip

    def ask(self, question: dict[str, Any]) -> Any:
        """Give the server's answer."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def start(self, *arguments: object, cwd: Path | None = None) -> Run:
        """Start `vaerdict` with arguments."""
        log = self._folder / f"log{len(self.runs)}.txt"
        log.touch()
        run = Run(self, 0, log)
        self.runs.append(run)
        asked = {"arguments": [str(argument) for argument in arguments], "log": str(log)}
        run.pid = self.ask({**asked, "cwd": str(cwd or self._folder)})
        return run

    def run(self, *arguments: object, cwd: Path | None = None) -> tuple[int, str]:
        """Run `vaerdict` to its end; give its status and what it wrote."""
        run = self.start(*arguments, cwd=cwd)
        return run.wait(), run.output

    def close(self) -> None:
        """End the server and what it started."""
        self._process.communicate()
        for run in self.runs:
            run.end()
        shutil.rmtree(self._short)


@contextmanager
def server(folder: Path) -> Iterator[Server]:
    """Lend a server."""
    lent = Server(folder)
    try:
        yield lent
    finally:
        lent.close()


def serve() -> None:
    """Fork a child for each command that stdin asks for, and tell of its end."""
    import vaerdict.tasks  # noqa: F401 - once for all children

    for line in sys.stdin:
        asked = json.loads(line)
        answer: int | None
        if "poll" in asked:
            pid, status = os.waitpid(asked["poll"], os.WNOHANG)
            answer = os.waitstatus_to_exitcode(status) if pid else None
        else:
            answer = os.fork()
            if answer == 0:
                _become(asked["arguments"], asked["cwd"], asked["log"])
        print(json.dumps(answer), flush=True)


def _become(arguments: list[str], cwd: str, log: str) -> None:
    """Be the process of one command to its end."""
    from vaerdict.cli import main

    os.setsid()
    os.chdir(cwd)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    target = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(target, 1)
    os.dup2(target, 2)
    main(arguments)
    sys.exit()


TROUBLED = '''
"""A VAE that dies or fails when it sees images for which there is trouble, and tells which images it saw."""

import os
import signal
import time
from pathlib import Path

import torch
from torch import nn

from vaerdict.models import wrap

HERE = Path(__file__).parent


class Watched(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 2)
        with torch.no_grad():
            self.linear.weight.copy_(torch.arange(8.0).reshape(2, 4) / 8)
            self.linear.bias.fill_(0.1)

    def forward(self, images):
        for image in (images.detach().flatten(1) * 255).tolist():
            if all(abs(value - 128) < 1e-3 for value in image[1:]):
                meet(round(image[0]))
        return self.linear(images.flatten(1))


def meet(number):
    with (HERE / "seen.txt").open("a") as file:
        file.write(f"{number}\\n")
    trouble = HERE / f"at {number}"
    kind = trouble.read_text() if trouble.exists() else ""
    if kind == "fail":
        raise RuntimeError(f"no image {number}, please")
    if kind == "sleep":
        time.sleep(60)
    if kind == "die once":
        trouble.unlink()
    if kind.startswith("die"):
        os.kill(os.getpid(), signal.SIGKILL)


def make():
    decoder = nn.Sequential(nn.Linear(2, 4), nn.Unflatten(1, (1, 2, 2)))
    with torch.no_grad():
        decoder[0].weight.copy_(torch.arange(8.0).reshape(4, 2) / 4)
        decoder[0].bias.fill_(0.1)
    return wrap(Watched(), decoder, input_shape=(1, 2, 2), latent_shape=(2,), spread="constant", std=0.1)
'''


@dataclass(frozen=True)
class Troubled:
    """A model with images that it can be told to die or fail at; one unit for each image.

    Args:
        folder: of the module, the images and the grid; the working directory of those who use it.
        module: a name that no other test uses, since modules are imported once.
        images: how many there are; planning looks at the first.
    """

    folder: Path
    module: str
    images: int = 8

    def write(self, limit: int | None = None) -> Path:
        """Write module and images, and give the grid's path."""
        (self.folder / f"{self.module}.py").write_text(TROUBLED)
        pixels = np.full((self.images, 2, 2), 128, np.uint8)
        pixels[:, 0, 0] = np.arange(self.images)
        np.savez(self.folder / "images.npz", images=pixels)
        return write_grid(
            self.folder / "grid.yaml",
            models={"factory": f"{self.module}:make"},
            data={"data": f"npz:{self.folder / 'images.npz'}[images]", "limit": limit},
            certify=None,
        )

    def trouble(self, kind: str, *numbers: int) -> None:
        """From now on: `die`, `die once`, `fail` or `sleep` (for a minute) at some images."""
        for number in numbers:
            (self.folder / f"at {number}").write_text(kind)

    def calm(self) -> None:
        """End all trouble."""
        for path in self.folder.glob("at *"):
            path.unlink()

    def seen(self) -> Counter[int]:
        """Give how often the model saw each image but the first since the last call."""
        path = self.folder / "seen.txt"
        lines = path.read_text().split() if path.exists() else []
        path.unlink(missing_ok=True)
        return Counter(number for number in map(int, lines) if number)
