"""Text files that a user gives: JSON lines, JSON, CSV, YAML, as the world writes them.

UTF-8 with or without a byte order mark; lines end at line feeds, with or without a carriage return
before it; a name that ends in `.gz` is of a compressed file. Whatever else a file is, is told in
one line that names it and, where there is one, the line in it.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rzero_ray.text.characters import well_formed
from rzero_ray.types import UserError

_MOST_BYTES = 4 << 30
"""A file is read whole; a larger one is a mistake, or a compressed trap."""
_MOST_CSV_CHARACTERS = 10_000_000
"""Of one field: solutions of olympiad problems exceed the csv module's own limit."""
_GZIP = b"\x1f\x8b"
_BYTE_ORDER_MARKS = {
    "UTF-32": (b"\xff\xfe\0\0", b"\0\0\xfe\xff"),
    "UTF-16": (b"\xff\xfe", b"\xfe\xff"),
}


def read_text(path: Path) -> str:
    """Return a file's text, its line ends as they are. UserError for a file that is no UTF-8."""
    data = _read_bytes(path)
    for name, marks in _BYTE_ORDER_MARKS.items():
        if data.startswith(marks):
            raise UserError(f"{path} is {name}; save it as UTF-8")
    try:
        text = data.decode("utf-8-sig")
        wrong = data.find(b"\0")
    except UnicodeDecodeError as error:
        wrong = error.start
    if wrong >= 0:
        number = data.count(b"\n", 0, wrong) + 1
        raise UserError(
            f"{path}, line {number} is not UTF-8 (byte 0x{data[wrong]:02x}); save the file as UTF-8"
        )
    return text


def read_json_lines(path: Path) -> Iterator[tuple[int, Any]]:
    """Yield (line number, what it holds) of every line of a JSON-lines file that is not empty."""
    # Line by line: a list of them takes ten times the memory of a file of short lines.
    for number, line in enumerate(io.StringIO(read_text(path), newline="\n"), start=1):
        if line.strip(" \t\r\n"):
            yield number, _parse_json(line.removesuffix("\n"), path, number)


def read_json(path: Path) -> Any:
    """Return what a JSON file holds."""
    return _parse_json(read_text(path), path, 1)


def read_csv(path: Path) -> list[list[str]]:
    """Return the cells of a CSV file, row by row, its head first; rows may differ in length."""
    csv.field_size_limit(_MOST_CSV_CHARACTERS)
    reader = csv.reader(io.StringIO(read_text(path), newline=""), strict=True)
    try:
        return list(reader)
    except csv.Error as error:
        raise UserError(
            f"{path}, line {reader.line_num} is not CSV ({error}); save it with commas between the "
            "cells and quotation marks around texts that hold some"
        ) from None


def _read_bytes(path: Path) -> bytes:
    if os.path.exists(path) and not (path.is_file() or path.is_dir()):
        raise UserError(f"{path} is no regular file; a pipe could be waited for without an end")
    is_compressed = path.suffix == ".gz"
    try:
        with gzip.open(path) if is_compressed else path.open("rb") as stream:
            data = stream.read(_MOST_BYTES + 1)
    except (EOFError, zlib.error, gzip.BadGzipFile):
        raise UserError(f"{path} is no whole gzip file; compress it again") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error})") from None
    if len(data) > _MOST_BYTES:
        raise UserError(f"{path} is larger than {_MOST_BYTES >> 30} GiB; give a part of it")
    if data.startswith(_GZIP):
        advice = "decompress it once" if is_compressed else "let its name end in .gz"
        raise UserError(f"{path} is compressed by gzip; {advice}")
    return data


def _parse_json(text: str, path: Path, first_line: int) -> Any:
    """Return the value of a JSON text that begins in a line of a file, half characters in its
    strings replaced."""
    try:
        value = json.loads(text)
        if "\\ud" in text.lower():  # only an escape can spell a half character
            value = json.loads(well_formed(json.dumps(value, ensure_ascii=False)))
    except RecursionError:
        raise UserError(f"{path}, line {first_line} is nested too deeply to be read") from None
    except json.JSONDecodeError as error:
        number = first_line + error.lineno - 1
        raise UserError(
            f"{path}, line {number} is not JSON ({error.msg}, column {error.colno})"
        ) from None
    except ValueError:  # Python's own limit, which keeps the conversion from taking minutes
        raise UserError(
            f"{path}, line {first_line} holds a number of thousands of digits"
        ) from None
    return value
