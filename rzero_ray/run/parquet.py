"""Records on disk: dataclasses of `types` as Parquet rows.

A file holds one row per record and one column per field, under the field's own name; arrays are
lists, a missing value is null. A file appears under its name only when it is complete. Its pages
carry check sums, so that a byte that has changed since is found when it is read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import MISSING, fields
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rzero_ray.disk.files import damaged, open_regular, replacing
from rzero_ray.types import UserError

R = TypeVar("R")


def write_records(path: Path, records: Sequence[Any], record_type: type) -> None:
    """Write records of one dataclass to `path`, atomically. An empty file keeps the columns."""
    columns = {
        field.name: [_to_plain(getattr(record, field.name)) for record in records]
        for field in fields(record_type)
    }
    schema = pa.schema([(name, _ARROW_TYPES[kind]) for name, kind in _kinds(record_type).items()])
    table = pa.table(columns, schema=schema)
    with replacing(path) as stream:
        pq.write_table(table, stream, compression="zstd", write_page_checksum=True)


def read_records(path: Path, record_type: type[R]) -> list[R]:
    """Read what `write_records` wrote, in the same order.

    A field that has a default may be missing as a column: a file that was written before it. Raises
    DamagedFileError for a file that holds anything else.
    """
    table = _read_columns(path, record_type)
    kinds = {n: kind for n, kind in _kinds(record_type).items() if n in table.column_names}
    try:
        return [
            record_type(**{name: _from_plain(row[name], kind) for name, kind in kinds.items()})
            for row in table.to_pylist()
        ]
    except (TypeError, ValueError) as error:  # a null inside a list
        raise _no_rows(path, record_type, error) from None


def column_names(path: Path) -> list[str]:
    """Return the names of a file's columns."""
    return _read_table(path).column_names


def num_records(path: Path, record_type: type) -> int:
    """Return how many records a file holds; much faster than `read_records`, which would find it
    whole: DamagedFileError where it is cut, changed, or has other columns."""
    return _read_columns(path, record_type).num_rows


def _read_columns(path: Path, record_type: type) -> pa.Table:
    """Return the columns that are fields of the record, in their types."""
    hints, optional = get_type_hints(record_type), _optional_names(record_type)
    table = _read_table(path)
    schema = pa.schema(
        pa.field(name, _ARROW_TYPES[kind], nullable=NoneType in get_args(hints[name]))
        for name, kind in _kinds(record_type).items()
        if name in table.column_names or name not in optional
    )
    try:
        return table.select(schema.names).cast(schema)
    except (pa.ArrowException, KeyError, TypeError, ValueError) as error:
        raise _no_rows(path, record_type, error) from None


def _read_table(path: Path) -> pa.Table:
    with open_regular(path) as stream:
        try:
            return pq.read_table(stream, page_checksum_verification=True)
        except (pa.ArrowException, OSError, ValueError) as error:
            raise damaged(path, f"no whole Parquet file: {error}") from None


def _no_rows(path: Path, record_type: type, error: Exception) -> UserError:
    return damaged(path, f"no rows of {record_type.__name__}: {error}")


def _kinds(record_type: type) -> dict[str, str]:
    """Return {field: kind}; kinds are `str`, `int`, `float`, `bool` and their lists.

    An optional field has the kind of its values: every column may hold nulls.
    """
    hints = get_type_hints(record_type)
    return {field.name: _kind(hints[field.name]) for field in fields(record_type)}


def _optional_names(record_type: Any) -> set[str]:
    return {field.name for field in fields(record_type) if field.default is not MISSING}


def _kind(hint: Any) -> str:
    if get_origin(hint) is UnionType:
        return _kind(next(option for option in get_args(hint) if option is not NoneType))
    if get_origin(hint) is np.ndarray:
        return f"{get_args(get_args(hint)[1])[0].__name__}s"
    if get_origin(hint) is tuple:
        return "bools" if get_args(hint)[0] is bool else "strings"
    return hint.__name__


_ARROW_TYPES = {
    "str": pa.string(),
    "int": pa.int64(),
    "float": pa.float64(),
    "bool": pa.bool_(),
    "strings": pa.list_(pa.string()),
    "bools": pa.list_(pa.bool_()),
    "int32s": pa.list_(pa.int32()),
    "float32s": pa.list_(pa.float32()),
}


def _to_plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _from_plain(value: Any, kind: str) -> Any:
    if kind in ("int32s", "float32s"):
        return np.asarray(value, dtype=kind.removesuffix("s"))
    return tuple(value) if kind in ("strings", "bools") else value
