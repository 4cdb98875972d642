"""Files are read as parts; one that is none is told apart with the reason, and hides no other."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from textwrap import shorten

import pyarrow as pa
import pyarrow.parquet as pq

from vaerdict.results.row import NECESSARY, SCHEMA

_BLOCK = 256
"""Files whose columns are joined at a time: thousands of small pieces would take twice the memory."""
_REASON = 160
_ALWAYS = NECESSARY[0]
"""Read whatever is asked for: a part without any of the columns still has its lines."""


def read_parts(
    folder: Path, paths: Sequence[Path], columns: Sequence[str] | None
) -> tuple[dict[str, pa.ChunkedArray], dict[str, str]]:
    """Give the columns of all parts among some files, and why the others are none, by their path within the folder.

    A part of which only some columns are read is judged by those. Of parts that have columns of one name that cannot
    be joined, the later one is left out.

    >>> columns, skipped = read_parts(Path("."), [], ["margin"])
    >>> columns["margin"].type, skipped
    (DataType(double), {})
    """
    columns = None if columns is None else [_ALWAYS, *columns]
    schema = pa.schema([field for field in SCHEMA if columns is None or field.name in columns])
    blocks, skipped = [schema.empty_table()], {}
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in range(0, len(paths), _BLOCK):
            some, tables = paths[start : start + _BLOCK], []
            for path, found in zip(some, pool.map(partial(_read, columns=columns), some), strict=True):
                try:
                    schema = _with(schema, found)
                    tables.append(found)
                except (pa.ArrowException, ValueError) as error:
                    skipped[path.relative_to(folder).as_posix()] = shorten(str(error), _REASON, placeholder=" ...")
            if tables:
                blocks.append(pa.concat_tables(tables, promote_options="permissive").combine_chunks())
    table = pa.concat_tables(blocks, promote_options="permissive")
    return dict(zip(table.column_names, table.columns, strict=True)), skipped


def _with(schema: pa.Schema, found: pa.Table | str) -> pa.Schema:
    """Add a part's columns to those known so far, or say why that is impossible."""
    if isinstance(found, str):
        raise ValueError(found)
    if found.schema.equals(schema):
        return schema
    return pa.unify_schemas([schema, found.schema], promote_options="permissive")


def _read(path: Path, columns: Sequence[str] | None) -> pa.Table | str:
    """Give the rows of a part, or why a file is none."""
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as part:
            names = part.schema_arrow.names
            if fault := _fault(names):
                return fault
            asked = None if columns is None else [name for name in names if name in columns]
            table = part.read(asked, use_threads=False).replace_schema_metadata()
    except (pa.ArrowException, OSError, ValueError) as error:
        return f"cannot be read: {error}"
    return _as_rows(table)


def _fault(names: Sequence[str]) -> str:
    lacking = [name for name in NECESSARY if name not in names]
    if lacking:
        return f"lacks the column {', '.join(lacking)}"
    twice = sorted({name for name in names if names.count(name) > 1})
    return f"has several columns {', '.join(twice)}" if twice else ""


def _as_rows(table: pa.Table) -> pa.Table | str:
    empty = [name for name in NECESSARY if name in table.column_names and table[name].null_count]
    if empty:
        return f"has no value in a line of {', '.join(empty)}"
    if table.schema.equals(SCHEMA):
        return table
    for place, name in enumerate(table.column_names):
        if name in SCHEMA.names and table.schema.field(name).type != SCHEMA.field(name).type:
            try:
                table = table.set_column(place, SCHEMA.field(name), table[name].cast(SCHEMA.field(name).type))
            except pa.ArrowException as error:
                return f"its column {name} is no {SCHEMA.field(name).type}: {error}"
    return table
