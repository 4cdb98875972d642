"""Files are written whole or not at all: to a dot-file beside them, synced, then renamed."""

import os
import re
import secrets
import time
from contextlib import suppress
from pathlib import Path

from vaerdict.options import require

_DRAFT = re.compile(r"\..+\.[0-9a-f]{8}\.draft", re.DOTALL)


def write_atomic(path: Path, content: bytes) -> None:
    """Write a file whole or not at all: to a dot-file beside it, synced, then renamed over the old one.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_atomic(Path(folder) / "new" / "file", b"content")
    ...     (Path(folder) / "new" / "file").read_bytes()
    b'content'
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not the process's number: containers that share a folder share their numbers, too.
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}.draft")
    try:
        with draft.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def remove_drafts(folder: Path, older_than_s: float = 3600.0) -> list[Path]:
    """Remove what killed writers left below a folder, and give the paths.

    Only drafts of `write_atomic` are touched, and only those last written more than `older_than_s` seconds ago: a
    younger one may be another process's, about to be renamed.

    Raises:
        ValueError: `older_than_s` is negative.

    >>> remove_drafts(Path("no-such-folder"))
    []
    """
    require(older_than_s >= 0, "`older_than_s` >= 0", older_than_s)
    latest = time.time() - older_than_s
    removed = []
    for path in sorted(Path(folder).rglob(".*.draft")):
        with suppress(FileNotFoundError):  # renamed or removed by another process by now
            if _DRAFT.fullmatch(path.name) and not path.is_dir() and path.lstat().st_mtime < latest:
                path.unlink()
                removed.append(path)
    return removed
