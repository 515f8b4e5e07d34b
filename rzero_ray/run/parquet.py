"""Records on disk: dataclasses as Parquet rows.

A file holds one row per record and one column per field, under the field's own name; arrays are
lists, a missing value is null (`columns`). A file appears under its name only when it is complete.
Its pages carry check sums, so that a byte that has changed since is found when it is read.

A record type whose fields are some of the columns reads these and nothing else of a file.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from rzero_ray.disk.files import damaged, open_regular, replacing
from rzero_ray.run.columns import Column, arrow_numbers, columns_of

R = TypeVar("R")

_ROWS_AT_A_TIME = 512
"""Records that are made into columns at a time: what a write needs does not grow with them."""
_UNREADABLE = (pa.ArrowException, OSError, TypeError, ValueError)
"""What the library and conversion raise for content that is not ours."""


def write_records(path: Path, records: Sequence[Any], record_type: type) -> None:
    """Write records of one dataclass to `path`, atomically. An empty file keeps the columns.

    Returns when the disk has them. `Run` calls it in a thread, beside the event loop.
    """
    columns = columns_of(record_type)
    schema = pa.schema([(column.name, column.kind.arrow_type) for column in columns])
    with (
        replacing(path) as stream,
        pq.ParquetWriter(stream, schema, compression="zstd", write_page_checksum=True) as writer,
    ):
        for start in range(0, len(records), _ROWS_AT_A_TIME):
            part = records[start : start + _ROWS_AT_A_TIME]
            arrays = [c.kind.to_arrow([getattr(r, c.name) for r in part]) for c in columns]
            writer.write_batch(pa.RecordBatch.from_arrays(arrays, schema=schema))


def read_records(path: Path, record_type: type[R], rows: Sequence[int] | None = None) -> list[R]:
    """Read what `write_records` wrote: all records in their order, or those of `rows` in that one.

    Columns that are no fields of `record_type` are not looked at. A field that has a default may be
    missing as a column: a file that was written before it. Arrays are read-only views. Raises
    DamagedFileError for a file that holds anything else.
    """
    columns = read_columns(path, record_type, rows)
    with _damage(path, f"no rows of {record_type.__name__}"):
        return [
            record_type(**dict(zip(columns, row, strict=True)))
            for row in zip(*columns.values(), strict=True)
        ]


def read_columns(
    path: Path, record_type: type, rows: Sequence[int] | None = None
) -> dict[str, list[Any]]:
    """Return what `read_records` does as {field: its values}: for rows that are only counted."""
    values: dict[str, list[Any]] = {}
    for column, chunks in _read(path, record_type):
        chosen = chunks if rows is None else chunks.take(arrow_numbers(rows, pa.int64()))
        with _damage(path, f"no rows of {record_type.__name__}: column {column.name}"):
            parts = [column.kind.from_arrow(chunk) for chunk in chosen.chunks]
        values[column.name] = [value for part in parts for value in part]
    return values


def column_names(path: Path) -> list[str]:
    """Return the names of a file's columns."""
    with _opened(path) as file:
        return file.schema_arrow.names


def num_rows(path: Path) -> int:
    """Return how many records a file says that it holds; nothing else of it is looked at."""
    with _opened(path) as file:
        return file.metadata.num_rows


def num_records(path: Path, record_type: type) -> int:
    """Return how many records a file holds; much faster than `read_records`, which would find its
    columns whole: DamagedFileError where it is cut, changed, or has other ones."""
    return max(len(chunks) for _, chunks in _read(path, record_type))


def _read(path: Path, record_type: type) -> Iterator[tuple[Column, pa.ChunkedArray]]:
    """Yield a record's columns in their types, one after the other."""
    with _opened(path) as file:
        names = file.schema_arrow.names
        for column in columns_of(record_type):
            if column.name in names or not column.may_be_missing:
                with _damage(path, f"no rows of {record_type.__name__}: column {column.name}"):
                    found = _read_column(file, column, names)
                yield column, found


def _read_column(file: pq.ParquetFile, column: Column, names: Sequence[str]) -> pa.ChunkedArray:
    if names.count(column.name) != 1:
        raise ValueError("it is missing" if column.name not in names else "it is there twice")
    found = file.read([column.name], use_threads=False).column(0).cast(column.kind.arrow_type)
    if found.null_count and not column.may_be_null:
        raise ValueError("a value is missing")
    return found


@contextmanager
def _opened(path: Path) -> Iterator[pq.ParquetFile]:
    with open_regular(path) as stream:
        with _damage(path, "no whole Parquet file"):
            file = pq.ParquetFile(stream, page_checksum_verification=True)
        yield file


@contextmanager
def _damage(path: Path, what: str) -> Iterator[None]:
    """Turn what is wrong with a file's content into the one line that names the file."""
    try:
        yield
    except _UNREADABLE as error:
        raise damaged(path, f"{what}: {error}") from None
