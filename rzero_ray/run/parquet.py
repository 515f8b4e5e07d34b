"""Records on disk: dataclasses of `types` as Parquet rows.

A file holds one row per record and one column per field, under the field's own name; arrays are
lists, a missing value is null. A file appears under its name only when it is complete.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import MISSING, fields
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

R = TypeVar("R")


def write_records(path: Path, records: Sequence[Any], record_type: type) -> None:
    """Write records of one dataclass to `path`, atomically. An empty file keeps the columns."""
    columns = {
        field.name: [_to_plain(getattr(record, field.name)) for record in records]
        for field in fields(record_type)
    }
    schema = pa.schema([(name, _ARROW_TYPES[kind]) for name, kind in _kinds(record_type).items()])
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.partial")
    pq.write_table(pa.table(columns, schema=schema), temporary, compression="zstd")
    replace_durably(temporary, path)


def read_records(path: Path, record_type: type[R]) -> list[R]:
    """Read what `write_records` wrote, in the same order.

    A field that has a default may be missing as a column: a file that was written before it.
    """
    table = pq.read_table(path)
    optional = _optional_names(record_type)
    kinds = {
        name: kind
        for name, kind in _kinds(record_type).items()
        if name in table.column_names or name not in optional
    }
    return [
        record_type(**{name: _from_plain(row[name], kind) for name, kind in kinds.items()})
        for row in table.to_pylist()
    ]


def replace_durably(temporary: Path, path: Path) -> None:
    """Rename `temporary` to `path`: after a crash `path` is the old or the new file, whole."""
    with temporary.open("rb") as stream:
        os.fsync(stream.fileno())
    temporary.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def write_text_durably(path: Path, text: str) -> None:
    """Write a text file atomically."""
    temporary = path.with_name(f".{path.name}.partial")
    temporary.write_text(text, encoding="utf-8")
    replace_durably(temporary, path)


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
