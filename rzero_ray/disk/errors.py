"""What a disk refuses, in one line: full, read-only, not ours, gone."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rzero_ray.types import RunError

_REASONS = {
    errno.ENOSPC: "no space left on the disk of {path}; free some space",
    errno.EDQUOT: "the disk quota of {path} is used up; free some space",
    errno.EFBIG: "{path} is larger than this file system or process may write; raise the limit",
    errno.EROFS: "{path} is on a disk that can only be read; make it writable",
    errno.EACCES: "no permission for {path}; give it to this user",
    errno.EPERM: "no permission for {path}; give it to this user",
    errno.ELOOP: "{path} is a link, through which nothing is written; put a file in its place",
    errno.ENAMETOOLONG: "the name {path} is longer than the file system allows; shorten it",
    errno.EISDIR: "{path} is a folder where a file is expected; move it away",
    errno.ENOTDIR: "{path} leads through a file; move it away",
    errno.EEXIST: "{path} exists and is no folder; move it away",
    errno.ENOENT: "{path} is gone while it is in use; look who removes it",
    errno.EIO: "the disk of {path} fails (input/output error); see the system's log",
    errno.ESTALE: "{path} is on a network disk that was replaced; mount it again",
    errno.EMFILE: "too many open files at {path}; raise the limit (ulimit -n)",
}
_SHOW_THROUGH = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)
"""What libraries wrap in errors of their own, and what needs no file's name to be a disk's."""
_DEEPEST = 20
"""How many errors are followed that have led to another."""
_IN_TEXT = re.compile(r"\(os error (\d+)\)")
"""How libraries written in Rust, such as safetensors, hand on the number of an error."""


def disk_error(error: BaseException) -> str | None:
    """Return in one line what a disk refused, or None where `error` is of another kind.

    An error that a library raised because of a full or broken disk counts as that.
    """
    if isinstance(error, OSError) and error.filename is not None and error.errno in _REASONS:
        return _line(error.errno, error.filename2 or error.filename)
    cause: BaseException | None = error
    for _ in range(_DEEPEST):
        if cause is None:
            break
        number = cause.errno if isinstance(cause, OSError) else _number_in(str(cause))
        if number in _SHOW_THROUGH:
            return _line(number, getattr(cause, "filename", None))
        cause = cause.__cause__ or cause.__context__
    return None


@contextmanager
def one_line_disk_errors(path: Path) -> Iterator[None]:
    """Turn what the disk refuses to a library that writes to `path` into a RunError."""
    try:
        yield
    except Exception as error:
        line = disk_error(error)
        if line is None:
            raise
        raise RunError(line if str(path) in line else f"{path}: {line}") from None


def _number_in(text: str) -> int | None:
    found = _IN_TEXT.search(text)
    return None if found is None else int(found[1])


def _line(number: int, path: object) -> str:
    named = "this process" if path is None else str(path)
    return " ".join(_REASONS[number].format(path=named).split())
