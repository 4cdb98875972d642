"""What made a result is told: machine, software, code."""

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from vaerdict import __version__
from vaerdict.results import canonical_json, code_version, environment, unit_key

needs_git = pytest.mark.skipif(shutil.which("git") is None, reason="there is no git")


@pytest.fixture
def version(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], str]:
    """Ask for the version of a package anew, with all the patience that a busy machine needs."""
    monkeypatch.setattr("vaerdict.results.origin._PATIENCE_S", 60.0)
    return code_version.__wrapped__


def git(folder: Path, *arguments: str) -> str:
    who = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
    clean = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    done = subprocess.run(["git", "-C", str(folder), *who, *arguments], capture_output=True, check=True, env=clean)
    return done.stdout.decode().strip()


def checkout(folder: Path) -> Path:
    """A repository with one commit that holds `package/__init__.py` and a file besides."""
    package = folder / "package"
    package.mkdir(parents=True)
    for path in (package / "__init__.py", folder / "notes.md"):
        path.write_text("as committed")
    git(folder, "init", "--quiet")
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "--message", "first", "--no-verify")
    return package


@needs_git
def test_the_commit_and_changes_of_the_package_are_told(tmp_path: Path, version: Callable[[Path], str]) -> None:
    package = checkout(tmp_path)
    commit = git(tmp_path, "rev-parse", "HEAD")[:7]
    assert version(package) == f"{__version__} {commit}"
    (tmp_path / "notes.md").write_text("changed, but no code")
    (package / "new.py").write_text("not tracked")
    assert version(package) == f"{__version__} {commit}"
    (package / "__init__.py").write_text("changed")
    assert version(package) == f"{__version__} {commit}+changes"
    git(tmp_path, "add", ".")
    assert version(package) == f"{__version__} {commit}+changes"
    git(tmp_path, "commit", "--quiet", "--message", "second", "--no-verify")
    assert version(package) == f"{__version__} {git(tmp_path, 'rev-parse', 'HEAD')[:7]}"


@needs_git
def test_a_package_inside_somebody_elses_checkout_has_no_commit(tmp_path: Path, version: Callable[[Path], str]) -> None:
    checkout(tmp_path)
    installed = tmp_path / "site-packages" / "vaerdict"
    installed.mkdir(parents=True)
    (installed / "__init__.py").write_text("")
    assert version(installed) == __version__


@needs_git
def test_a_repository_named_by_the_environment_is_not_asked(
    tmp_path: Path, version: Callable[[Path], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    package, other = checkout(tmp_path / "a"), checkout(tmp_path / "b")
    git(other, "commit", "--quiet", "--message", "another", "--no-verify", "--allow-empty")
    expected = version(package)
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "b" / ".git"))
    assert version(package) == expected


@needs_git
def test_a_repository_without_a_commit_gives_the_version(tmp_path: Path, version: Callable[[Path], str]) -> None:
    (tmp_path / "__init__.py").write_text("")
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", ".")
    assert version(tmp_path) == __version__


def test_no_checkout_gives_the_version(tmp_path: Path, version: Callable[[Path], str]) -> None:
    (tmp_path / "__init__.py").write_text("")
    assert version(tmp_path) == version(tmp_path / "absent") == __version__


@pytest.mark.parametrize("script", [None, "#!/bin/sh\nexit 1\n", "#!/bin/sh\nexec sleep 30\n"])
def test_git_that_is_absent_fails_or_is_slow_gives_the_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str | None
) -> None:
    if script is not None:
        (tmp_path / "git").write_text(script)
        (tmp_path / "git").chmod(0o755)
    monkeypatch.setattr("vaerdict.results.origin._PATIENCE_S", 0.1)
    sleep = Path(shutil.which("sleep") or "sleep")
    (tmp_path / "sleep").symlink_to(sleep)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert code_version.__wrapped__(tmp_path) == __version__


def test_a_units_key_does_not_follow_the_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    before = unit_key(a=1)
    for module in ("origin", "parts"):
        monkeypatch.setattr(f"vaerdict.results.{module}.code_version", lambda: "another")
    assert unit_key(a=1) == before


def test_the_environment_has_versions_and_is_json() -> None:
    facts = environment()
    assert {"torch", "numpy", "scipy", "pandas", "pyarrow", "vaerdict"} == set(facts["packages"])
    assert facts["packages"]["numpy"] == np.__version__
    assert facts["packages"]["pyarrow"] == pa.__version__
    assert facts["python"].startswith("3.")
    assert facts["cores"] >= 1
    assert json.loads(canonical_json(facts)) == facts
