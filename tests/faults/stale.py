"""A learner that is cut off while it writes, and goes on later: what it can do to a run."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import psutil

from rzero_ray.config.roles import ROLES
from rzero_ray.disk.files import ATTEMPT
from rzero_ray.run.manifest import Manifest
from rzero_ray.types import iteration_key

_LOOK_S = 0.001
Files = Mapping[Path, tuple[int, int, str]]
"""The inode, the time of change and a digest of each file."""


class StaleWriter:
    """The process of a learner's rank, seen and stopped from outside."""

    def __init__(self, root: Path, process: psutil.Process) -> None:
        """`root` is the run directory."""
        self._root = root
        self._process = process
        self._writes = Path()
        """What it was writing when it was stopped."""
        self._size = 0
        """How much of it there was then."""
        self._before: Files = {}
        self._changed: set[Path] = set()
        self._left: dict[Path, int] = {}

    def stop_while_it_writes(self, within_s: float) -> None:
        """Stop the process while it writes a checkpoint. RuntimeError where it was not seen to."""
        deadline = time.monotonic() + within_s
        while time.monotonic() < deadline:
            if self._unfinished():
                self._process.suspend()
                if found := self._unfinished():
                    self._writes = found[0]
                    self._size = size_of(found[0])
                    return
                self._process.resume()
            time.sleep(_LOOK_S)
        raise RuntimeError("the learner was not seen to write a checkpoint")

    def go_on(self) -> None:
        """Note what the manifest stands for, and let the process write on."""
        self._before = kept(self._root)
        self._process.resume()

    def look(self) -> None:
        """Note what has changed since, and what it has left."""
        after = kept(self._root)
        self._changed |= {p for p, was in self._before.items() if after.get(p, was) != was}
        self._left |= {path: size_of(path) for path in self._unfinished()}

    def has_changed_nothing(self) -> bool:
        """Return whether each file was whenever somebody looked what it was before, or was removed
        by the run."""
        return bool(self._before) and not self._changed

    def __str__(self) -> str:
        def named(path: Path, size: int) -> str:
            return f"{path.relative_to(self._root)} ({size:,} bytes)"

        left = [named(path, size) for path, size in sorted(self._left.items())]
        changed = [str(path.relative_to(self._root)) for path in sorted(self._changed)]
        return (
            f"stopped while it wrote {named(self._writes, self._size)}, "
            f"{len(self._before)} files were kept then, changed of them: {changed or 'none'}, "
            f"left: {', '.join(left) or 'nothing'}"
        )

    def _unfinished(self) -> list[Path]:
        return sorted(self._root.glob(f"checkpoints/*/*/.*{ATTEMPT}"))


def kept(root: Path) -> Files:
    """Return the files of the models and of the checkpoint that the manifest of a run names."""
    manifest = Manifest.read(root / "manifest.json")
    folders = [
        root / "models" / f"{role.name}-{iteration_key(iteration)}"
        for role in ROLES
        for iteration in manifest.learned(role.name)
    ]
    if manifest.checkpoint is not None:
        folders.append(root / "checkpoints" / manifest.checkpoint)
    found = {}
    for path in (path for folder in folders for path in folder.rglob("*")):
        with suppress(
            FileNotFoundError, IsADirectoryError
        ):  # the run removes what it needs no more
            digest = hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest()
            found[path] = path.stat().st_ino, path.stat().st_mtime_ns, digest
    return found


def size_of(folder: Path) -> int:
    """Return the bytes of all files of a folder."""
    size = 0
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError):
            size += path.stat().st_size if path.is_file() else 0
    return size
