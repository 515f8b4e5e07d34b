"""The files of a run, an evaluation or a comparison: how they are written, and read without trust.

A file that is replaced is the old or the new one at every moment, and nothing is written or removed
through a link. What is read may have been cut, edited or exchanged since it was written: whatever
is wrong with a file becomes one line that names it (`DamagedFileError`).
"""

from __future__ import annotations

import json
import os
import shutil
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

from omegaconf import OmegaConf
from pydantic import BaseModel, ValidationError

from rzero_ray.text.yaml_text import NotKeysAndValuesError, parse_yaml
from rzero_ray.types import RunError, UserError

REMOVED = ".removed"
"""Ends the name of a folder that is being removed, so that a half of it is never taken for it."""
_MOST_DIGITS = 18
"""Of an integer that 64 bits surely hold."""


class DamagedFileError(UserError):
    """A file is not what this program wrote; the text names it, the line where there is one, and
    what is wrong with it."""


def damaged(where: Path | str, reason: str, advice: str = "restore it from a copy") -> UserError:
    """Return the error for a file, or a line of it, that is not what this program wrote."""
    return DamagedFileError(f"{where} is damaged ({' '.join(reason.split())}); {advice}")


Stamp = tuple[int, int, int]
"""What tells one content of a file from another: inode, bytes, and the time of the last write in
nanoseconds."""


def stamp_of(path: Path) -> Stamp:
    """Return what changes when a file does. Raises DamagedFileError where it is not there."""
    try:
        found = path.stat()
    except OSError as error:
        raise damaged(path, error.strerror or str(error)) from None
    return found.st_ino, found.st_size, found.st_mtime_ns


# Writing.


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Give a stream whose content takes the place of `path` when the block ends without an error.

    It is written beside `path` under a name of this process's own, because a report may be written
    by two at once. What has that name already, a link for example, is removed and never written to.
    After an error nothing of it stays, so that a full disk is not fuller than before.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    with _naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.unlink(missing_ok=True)
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666)
        try:
            with os.fdopen(descriptor, "wb") as stream:
                yield stream
                stream.flush()
                os.fsync(stream.fileno())
            partial.replace(path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
        _sync_folder(path.parent)


def write_text_durably(path: Path, text: str) -> None:
    """Write a text file in UTF-8, in place of what `path` was."""
    with replacing(path) as stream:
        stream.write(text.encode("utf-8"))


def append_line(path: Path, line: str) -> None:
    """Add a line to a log, whole or not at all: what a full disk cut off is taken back."""
    with _naming(path):
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW
        descriptor = os.open(path, flags, 0o666)
        try:
            before = os.fstat(descriptor).st_size
            try:
                _write_all(descriptor, f"{line}\n".encode())
            except BaseException:
                os.ftruncate(descriptor, before)
                raise
        finally:
            os.close(descriptor)


ATTEMPT = ".attempt"
"""Ends the name of a folder that is being written; nobody reads it before it has its own name."""


def attempt_folder(path: Path, writer: str) -> Path:
    """Return the name under which `writer` writes what is to be the folder `path`."""
    return path.with_name(f".{path.name}.{writer}{ATTEMPT}")


def synced_files(folder: Path) -> dict[str, int]:
    """Return {path in the folder: bytes} of all files of a folder, each of which is on the disk."""
    sizes = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        with path.open("rb") as stream:
            os.fsync(stream.fileno())
        sizes[str(path.relative_to(folder))] = path.stat().st_size
    return sizes


def keep_folder(written: Path, path: Path, files: Mapping[str, int]) -> None:
    """Have the folder `written` be `path`, in place of what was there, if it holds these files.

    Raises RunError where it does not: it was written to a disk that is not seen here.
    """
    with _naming(path):
        for name, size in files.items():
            file = written / name
            if not file.is_file() or file.stat().st_size != size:
                raise RunError(
                    f"{file} was written by a learner rank and is not to be seen here; the run "
                    "directory must lie on a disk that the nodes of driver and learner share"
                )
        remove_folder(path, path.parent)
        written.rename(path)
        _sync_folder(path.parent)


def remove_folder(path: Path, root: Path) -> None:
    """Remove the folder `path` of `root` with all that is in it, and nothing outside `root`.

    A link is removed in place of what it leads to; behind a link nothing is removed.
    """
    between = path.relative_to(root).parents
    if any((root / part).is_symlink() for part in between if part.parts):
        return
    if path.is_symlink():
        path.unlink()
        return
    if not path.is_dir():
        return
    doomed = path
    if not path.name.endswith(REMOVED):
        doomed = path.with_name(f".{path.name}{REMOVED}")
        shutil.rmtree(doomed, ignore_errors=True)
        path.replace(doomed)
    shutil.rmtree(doomed, ignore_errors=True)


def _write_all(descriptor: int, content: bytes) -> None:
    left = memoryview(content)
    while left:
        left = left[os.write(descriptor, left) :]
    os.fsync(descriptor)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Have an error of the disk name the file, which one of a stream does not do by itself."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise


# Reading.


@contextmanager
def open_regular(path: Path) -> Iterator[BinaryIO]:
    """Give a file to read. Raises DamagedFileError where it is missing, a folder, a pipe, or
    cannot be read."""
    try:
        # A pipe that nobody writes to would be waited for.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except FileNotFoundError:
        raise damaged(path, "it is missing") from None
    except OSError as error:
        raise damaged(path, error.strerror or str(error)) from None
    with _closing(descriptor, path) as stream:
        yield stream


@contextmanager
def _closing(descriptor: int, path: Path) -> Iterator[BinaryIO]:
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise damaged(path, "it is no regular file")
    with os.fdopen(descriptor, "rb") as stream:
        yield stream


def read_bytes(path: Path) -> bytes:
    """Return what a file holds."""
    with open_regular(path) as stream:
        try:
            return stream.read()
        except OSError as error:
            raise damaged(path, error.strerror or str(error)) from None


def read_text(path: Path) -> str:
    """Return the text of a file in UTF-8."""
    return _decoded(read_bytes(path), path)


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the keys of a YAML file."""
    try:
        tree = OmegaConf.to_container(parse_yaml(read_text(path)))
    except NotKeysAndValuesError as error:
        raise damaged(path, f"it {error}") from None
    if not tree:
        raise damaged(path, "it holds no keys")
    return cast(dict[str, Any], tree)


def read_json(path: Path, shape: type[BaseModel]) -> dict[str, Any]:
    """Return the JSON object in a file, checked to have this shape."""
    return _object(read_text(path), shape, path)


def read_if_there(path: Path, shape: type[BaseModel]) -> dict[str, Any] | None:
    """Return what `read_json` does, or None where there is nothing under this name."""
    return read_json(path, shape) if os.path.lexists(path) else None


def read_log(path: Path, shape: type[BaseModel]) -> list[dict[str, Any]]:
    """Return the objects of a log, one a line; none where there is no file yet.

    A stop may have cut the last line, which then does not count. Any other line that is no object
    of this shape raises DamagedFileError with its number.
    """
    if not os.path.lexists(path):
        return []
    *lines, last = read_bytes(path).split(b"\n")
    rows = []
    for number, line in enumerate(lines, start=1):
        where = f"{path}, line {number},"
        try:
            rows.append(_object(_decoded(line, where), shape, where))
        except DamagedFileError as error:
            raise DamagedFileError(f"{error}, or delete the line and do without it") from None
    try:
        return [*rows, _object(_decoded(last, path), shape, path)] if last else rows
    except DamagedFileError:
        return rows


def write_log(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Have a log hold these rows; a file that does so already is not touched."""
    content = "".join(f"{json.dumps(row)}\n" for row in rows)
    if not os.path.lexists(path) and not rows:
        return
    if not os.path.lexists(path) or read_bytes(path) != content.encode():
        write_text_durably(path, content)


def _decoded(content: bytes, where: Path | str) -> str:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise damaged(where, f"byte {error.start} is no UTF-8") from None


def _integer(digits: str) -> int | float:
    """Return a number of JSON; beyond 64 bits it is a float, which no count is."""
    return int(digits) if len(digits) <= _MOST_DIGITS else float(digits)


def _object(text: str, shape: type[BaseModel], where: Path | str) -> dict[str, Any]:
    try:
        content = json.loads(text, parse_int=_integer)
    except (ValueError, RecursionError) as error:
        raise damaged(where, f"no JSON: {error}") from None
    try:
        shape.model_validate(content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise damaged(where, f"{place}: {first['msg']}" if place else first["msg"]) from None
    return content
