"""What made a result besides its options: machine, software, and the code itself."""

import os
import platform
import subprocess
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from vaerdict import __version__

_PACKAGE = Path(__file__).resolve().parents[1]
_PATIENCE_S = 2.0


def environment() -> dict[str, Any]:
    """Give the facts about machine and software that a result depends on.

    >>> sorted(environment())
    ['cores', 'packages', 'platform', 'processor', 'python']
    """
    packages = ("torch", "numpy", "scipy", "pandas", "pyarrow", "vaerdict")
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "packages": {name: metadata.version(name) for name in packages},
    }


def _processor() -> str:
    try:
        facts = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in facts.splitlines() if line.startswith("model name")]
    return names[0] if names else platform.machine()


@cache
def code_version(package: Path = _PACKAGE) -> str:
    """Say which code is running: the version and, from a git checkout, the commit.

    `+changes` says that files of the package differ from that commit. Without git, or where the checkout does not hold
    the package's own files, the version alone is given. The answer of the first call stands for the whole process.

    >>> code_version().split()[0] == __version__
    True
    """
    # An installed package may lie inside somebody else's checkout, whose commit says nothing of it.
    if not _git(package, "ls-files", "__init__.py"):
        return __version__
    state = _git(package, "status", "--porcelain=v2", "--branch", "--untracked-files=no", "--", ".")
    commit = next((line.split()[-1] for line in state if line.startswith("# branch.oid")), "(initial)")
    if commit == "(initial)":
        return __version__
    return f"{__version__} {commit[:7]}" + "+changes" * any(not line.startswith("#") for line in state)


def _git(folder: Path, *arguments: str) -> list[str]:
    """Ask git in a folder; no lines where it is not there, refuses, or is slow."""
    # Inside a hook, these name the repository of the hook.
    outside = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    command = ["git", "--no-optional-locks", "-C", str(folder), *arguments]
    try:
        done = subprocess.run(
            command, capture_output=True, stdin=subprocess.DEVNULL, env=outside, timeout=_PATIENCE_S, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return []
    return done.stdout.decode(errors="replace").splitlines()
