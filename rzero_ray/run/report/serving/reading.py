"""Columns of a run's Parquet files, as the disk has them at this moment.

A file that has been read is kept until it changes, or until enough others were read: the next page
over the same rows does not read them again. Nothing is written.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

from rzero_ray.disk.files import Stamp, stamp_of
from rzero_ray.run.parquet import num_rows, read_columns, read_records
from rzero_ray.types import UserError

R = TypeVar("R")

_FILES_KEPT = 24
"""Files, of one step each, of which columns stay in memory."""


def columns(path: Path, record_type: type) -> dict[str, list[Any]]:
    """Return a file's rows as {field of `record_type`: its values}, which nobody may change."""
    return _columns(path, stamp_of(path), record_type)


@lru_cache(maxsize=_FILES_KEPT)
def _columns(path: Path, stamp: Stamp, record_type: type) -> dict[str, list[Any]]:
    return read_columns(path, record_type)


def record(path: Path, record_type: type[R], row: int) -> R | None:
    """Return one row of a file; None where the file has fewer."""
    if row >= num_rows(path):
        return None
    (found,) = read_records(path, record_type, [row])
    return found


class Problems:
    """What could not be read for a page, a line each: the page is made without it."""

    def __init__(self) -> None:
        """Nothing has gone wrong yet."""
        self.lines: list[str] = []

    @contextmanager
    def noted(self) -> Iterator[None]:
        """Leave the block where a file in it is damaged, and keep the line that says so."""
        try:
            yield
        except UserError as error:
            self.lines.append(str(error))
