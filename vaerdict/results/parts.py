"""Parts are immutable Parquet files of rows; a folder of them is read into one table."""

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from vaerdict.options import require
from vaerdict.results.files import write_atomic
from vaerdict.results.origin import code_version
from vaerdict.results.reading import read_parts
from vaerdict.results.row import SCHEMA, Row

SKIPPED = "skipped"
"""The name in a loaded table's `attrs` of what was skipped: reasons by path, relative to the folder."""
_NAMED = 5


class DamagedParts(UserWarning):
    """Some files below a folder of results are no parts, and were skipped."""


def frame(rows: Iterable[Row]) -> pd.DataFrame:
    """Give rows as a typed table, one line per row, one column per field.

    >>> frame([])["margin"].dtype
    dtype('float64')
    """
    return pa.Table.from_pylist([asdict(row) for row in rows], schema=SCHEMA).to_pandas()


def write_part(folder: Path, rows: Sequence[Row], key: str) -> Path:
    """Write one unit's rows as `folder/<key>.parquet`; the columns `unit_key` and `code` are filled in.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_part(Path(folder), [], "key").name
    'key.parquet'
    """
    code = code_version()
    table = pa.Table.from_pylist([{**asdict(row), "unit_key": key, "code": code} for row in rows], schema=SCHEMA)
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, write_page_checksum=True)
    path = folder / f"{key}.parquet"
    write_atomic(path, sink.getvalue().to_pybytes())
    return path


def load(folder: Path, columns: Sequence[str] | None = None) -> pd.DataFrame:
    """Read every part below a folder into one table, in the order of their paths.

    Columns that an older part lacks are empty, unknown ones are kept. A file that is truncated, unreadable or not made
    of rows is skipped with a warning; the table's `attrs["skipped"]` then holds the reasons, by the paths relative to
    the folder.

    Args:
        folder: searched with all folders below it; names that start with a dot are left out.
        columns: the only ones to read, in this order; all by default. A part is judged by what is read of it.

    Raises:
        FileNotFoundError: there is no `.parquet` file below the folder.
        ValueError: none of the files is a part, or a column is neither a row's nor any part's.

    >>> load(Path("no-such-run"))
    Traceback (most recent call last):
    FileNotFoundError: expected results below no-such-run, found no .parquet file
    """
    folder = Path(folder)
    paths = sorted(path for path in folder.rglob("*.parquet") if not path.name.startswith(".") and not path.is_dir())
    if not paths:
        raise FileNotFoundError(f"expected results below {folder}, found no .parquet file")
    held, skipped = read_parts(folder, paths, columns)
    if len(skipped) == len(paths):
        raise ValueError(f"expected parts below {folder}, found only {_told(skipped)}")
    if skipped:
        said = f"skipped {len(skipped)} of {len(paths)} files below {folder} that are no parts: {_told(skipped)}"
        warnings.warn(said, DamagedParts, stacklevel=2)
    names = list(held if columns is None else dict.fromkeys(columns))
    unknown = [name for name in names if name not in held]
    require(not unknown, f"`columns` that the rows below {folder} have", unknown)
    table = _typed(held, names)
    if skipped:
        table.attrs[SKIPPED] = skipped
    return table


def _typed(held: dict[str, pa.ChunkedArray], names: Sequence[str]) -> pd.DataFrame:
    made = {}
    for name in names:  # one after the other, so that the whole table is never held twice
        column = held.pop(name)
        if pa.types.is_string(column.type):
            column = column.cast(pa.large_string()).combine_chunks()
        made[name] = column.to_pandas()
        del column
    return pd.DataFrame(made)


def _told(skipped: Mapping[str, str]) -> str:
    first = [f"{name} ({why})" for name, why in list(skipped.items())[:_NAMED]]
    return ", ".join([*first, *(["..."] if len(skipped) > _NAMED else [])])
