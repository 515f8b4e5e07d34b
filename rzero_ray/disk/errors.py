"""What a disk refuses, in one line: full, read-only, not ours, gone."""

from __future__ import annotations

import errno

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
_DEEPEST = 20
"""How many errors are followed that have led to another."""


def disk_error(error: BaseException | None) -> str | None:
    """Return in one line what a disk refused, or None where `error` is of another kind.

    An error that was raised while one of a disk was dealt with, as libraries do, counts as that.
    """
    for _ in range(_DEEPEST):
        if error is None:
            return None
        if isinstance(error, OSError) and error.errno in _REASONS:
            path = error.filename2 or error.filename
            # Without a name it may be anything, a network connection as well.
            if path is not None or error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
                reason = _REASONS[error.errno].format(path=_name(path))
                return " ".join(reason.split())
        error = error.__cause__ or error.__context__
    return None


def _name(path: object) -> str:
    return "this process" if path is None else str(path)
