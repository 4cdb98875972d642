"""Files are whole or absent, and what killed writers leave is swept up."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.results.rows import row
from vaerdict.results import remove_drafts, write_atomic, write_part


def test_an_interrupted_write_leaves_the_old_file_and_no_draft(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError("no space left on device")

    path = write_part(tmp_path, [row(margin=1.0)], "k")
    before = path.read_bytes()
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space left"):
        write_part(tmp_path, [row(margin=2.0)], "k")
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["k.parquet"]


def test_content_is_synced_before_it_takes_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, seen = tmp_path / "new" / "file", []
    monkeypatch.setattr(
        os, "fsync", lambda _: seen.append((path.exists(), [p.stat().st_size for p in path.parent.iterdir()]))
    )
    write_atomic(path, b"content")
    assert seen[0] == (False, [7])
    assert path.read_bytes() == b"content"
    assert list(path.parent.iterdir()) == [path]


def test_a_file_is_replaced(tmp_path: Path) -> None:
    for content in (b"long content", b"short", b""):
        write_atomic(tmp_path / "file", content)
        assert (tmp_path / "file").read_bytes() == content


# --- drafts ---


def killed_while_writing(folder: Path) -> Path:
    """Let a process be killed between writing its draft and renaming it."""
    code = (
        "import os, signal; from pathlib import Path; from vaerdict.results import write_atomic; "
        "os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL); "
        f"write_atomic(Path({str(folder / 'results' / 'k.parquet')!r}), b'content')"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, cwd=Path(__file__).parents[2])
    assert done.returncode == -signal.SIGKILL
    (draft,) = (folder / "results").iterdir()
    return draft


def aged(path: Path, seconds: float) -> Path:
    then = time.time() - seconds
    os.utime(path, (then, then))
    return path


def test_the_draft_of_a_killed_writer_is_removed_once_it_is_old(tmp_path: Path) -> None:
    draft = killed_while_writing(tmp_path)
    assert draft.read_bytes() == b"content"
    assert remove_drafts(tmp_path) == []
    aged(draft, 3500)
    assert remove_drafts(tmp_path) == []
    aged(draft, 3700)
    assert remove_drafts(tmp_path, older_than_s=3800) == []
    assert remove_drafts(tmp_path) == [draft]
    assert list((tmp_path / "results").iterdir()) == []


@pytest.mark.parametrize(
    "name",
    [
        "k.parquet",
        "k.parquet.0123abcd.draft",  # no dot in front
        ".k.parquet",
        ".k.parquet.draft",
        ".k.parquet.0123abc.draft",
        ".k.parquet.0123ABCD.draft",
        ".k.parquet.0123abcd.draft.txt",
        ".0123abcd.draft",
        ".backup.20240101",
    ],
)
def test_files_of_other_names_stay(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("mine")
    aged(tmp_path / name, 10**6)
    assert remove_drafts(tmp_path) == []
    assert (tmp_path / name).read_text() == "mine"


def test_folders_stay_and_links_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "target").write_text("mine")
    folder = tmp_path / ".k.parquet.0123abcd.draft"
    folder.mkdir()
    aged(folder, 10**6)
    link = tmp_path / ".l.parquet.0123abcd.draft"
    link.symlink_to(tmp_path / "target")
    aged(tmp_path / "target", 10**6)
    assert remove_drafts(tmp_path) == []  # the link itself is young
    assert (tmp_path / "target").read_text() == "mine"
    assert folder.is_dir()


def test_a_negative_age_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^expected `older_than_s` >= 0, got -1$"):
        remove_drafts(tmp_path, older_than_s=-1)


def test_two_writers_of_one_file_do_not_share_a_draft(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, sync = tmp_path / "file", os.fsync
    nested = iter([True])

    def interrupted(descriptor: int) -> None:
        if next(nested, False):
            write_atomic(path, b"another's")
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", interrupted)
    write_atomic(path, b"mine")
    assert path.read_bytes() == b"mine"
    assert list(tmp_path.iterdir()) == [path]
