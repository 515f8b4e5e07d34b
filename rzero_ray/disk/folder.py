"""Which folder a command may write, and how it is taken.

Runs, evaluations, audits and comparisons go this way. A folder that holds somebody else's files is
refused before anything is written. Whether it can be written, has room and is not in use is known
before anything is started that costs time.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Set
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from rzero_ray.disk.files import damaged
from rzero_ray.types import UserError

GIB = 1 << 30
LOCK = ".lock"
"""The name of the file that the writer of a folder holds."""


def check_folder(folder: Path, key: str, is_own: Callable[[Set[str]], bool]) -> None:
    """Raise UserError unless `folder` is new, empty, or the command's own. Writes nothing.

    `key` is the key that names it. `is_own` is given the names in the folder, without locks and
    what a write that was cut short has left, and says whether the command made them.
    """
    try:
        if not os.path.lexists(folder):
            return
        names = set(os.listdir(folder))
    except OSError as error:
        raise UserError(
            f"{key}={folder} cannot be used ({error.strerror}); choose another {key}"
        ) from None
    others = {name for name in names if not _is_left_behind(name)}
    if others and not is_own(others):
        raise UserError(
            f"{key}={folder} holds other files ({min(others)}); choose a new or empty folder"
        )


def check_no_folders(folder: Path, names: Iterable[str]) -> None:
    """Raise DamagedFileError where a folder lies in the place of a file that will be written."""
    for name in names:
        if (folder / name).is_dir():
            raise damaged(folder / name, "it is a folder", "move it away")


@contextmanager
def held(folder: Path, key: str, room: int, lock: str = LOCK, what: str = "") -> Iterator[None]:
    """Hold a folder that `check_folder` has accepted; it is made where it is missing.

    Raises UserError when another process holds it, when it cannot be written, or when less than
    `room` bytes, which are needed for `what`, are free on its disk. Folders that were made here and
    that the block leaves empty are removed again.
    """
    made = [path for path in (folder, *folder.parents) if not os.path.lexists(path)]
    try:
        _check_room(folder, key, room, what)
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK | os.X_OK):
            raise UserError(f"{key}={folder} cannot be written; choose another {key}")
        if (folder / lock).is_symlink():
            raise UserError(f"{folder / lock} is a link; remove it")
        holder = FileLock(folder / lock)
        holder.acquire(timeout=0)
    except Timeout:
        raise UserError(
            f"{key}={folder} is in use by another process; wait for it or choose another {key}"
        ) from None
    except OSError as error:
        raise UserError(
            f"{key}={folder} cannot be written ({error.strerror}); choose another {key}"
        ) from None
    try:
        yield
    finally:
        with suppress(OSError):  # one that is not empty stays, and so do those above it
            if made and os.listdir(folder) == [lock]:
                (folder / lock).unlink()
            for path in made:
                path.rmdir()
        holder.release()


def free_space(folder: Path) -> str:
    """Return how much room the disk has on which a folder is, or will be made."""
    return f"{_free_bytes(folder) / GIB:,.1f} GiB free"


def _free_bytes(folder: Path) -> int:
    there = next(path for path in (folder, *folder.parents) if os.path.exists(path))
    return shutil.disk_usage(there).free


def _check_room(folder: Path, key: str, room: int, what: str) -> None:
    free = _free_bytes(folder)
    if free < room:
        raise UserError(
            f"{key}={folder}: {free / GIB:.1f} GiB free on its disk, needs at least "
            f"{room / GIB:.1f}{what}; free some space or choose another {key}"
        )


def _is_left_behind(name: str) -> bool:
    return name.startswith(".") and name.endswith((".lock", ".partial"))
