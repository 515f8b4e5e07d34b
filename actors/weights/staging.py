"""Weights on their way into the engines of a node: shared memory that is used again and again.

The processes of the engines do not reach Ray's object store. One sampler of a node copies each
bucket from there into a slot, a file in shared memory, which the engines map. New files for each
bucket would cost more than the copy: the kernel clears their pages, and each engine faults on them.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from actors.weights.buckets import BucketLayout
from rzero_ray.types import RunError

NUM_SLOTS = 2
"""One bucket is loaded while the next is written."""

_SHARED_MEMORY = Path("/dev/shm")
_PREFIX = "rzero-"
_MIN_AGE_S = 5.0
"""Age from which a file may be removed: a younger one may be about to be locked by its owner."""


class StagingArea:
    """The slots of one sampler. They grow to the largest bucket and stay until `close`."""

    def __init__(self, folder: Path = _SHARED_MEMORY) -> None:
        self._folder = folder
        self._slots: list[_Slot | None] = [None] * NUM_SLOTS
        remove_abandoned(folder)

    def write(self, slot: int, layout: BucketLayout, tensors: Sequence[NDArray[np.uint8]]) -> str:
        """Write a bucket's tensors, flat bytes, where its layout says; returns the slot's path.

        What the slot held is overwritten: all engines must have loaded it. A path keeps its size.
        RunError when the shared memory of the node has no room.
        """
        present = self._slots[slot]
        if present is None or len(present.data) < layout.num_bytes:
            if present is not None:
                present.close()
            self._slots[slot] = None
            present = self._slots[slot] = _make_slot(self._folder, layout.num_bytes)
        target = np.frombuffer(present.data, dtype=np.uint8)
        for tensor, offset in zip(tensors, layout.offsets, strict=True):
            target[offset : offset + tensor.nbytes] = tensor
        return str(present.path)

    def close(self) -> None:
        """Remove the files, and those of samplers of the node that were killed; engines that have
        mapped one keep it."""
        for slot in self._slots:
            if slot is not None:
                slot.close()
        self._slots = [None] * NUM_SLOTS
        remove_abandoned(self._folder)


@dataclass(slots=True)
class _Slot:
    path: Path
    data: mmap.mmap
    lock: int
    """File descriptor whose lock says that the owner lives, whatever happens to the process."""

    def close(self) -> None:
        self.path.unlink(missing_ok=True)
        os.close(self.lock)


def _make_slot(folder: Path, num_bytes: int) -> _Slot:
    path = folder / f"{_PREFIX}{uuid.uuid4().hex}"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        # Taken now: a write that finds no room later would kill the process by a signal.
        os.posix_fallocate(descriptor, 0, num_bytes)
        return _Slot(path, mmap.mmap(descriptor, num_bytes), descriptor)
    except OSError as error:
        path.unlink()
        os.close(descriptor)
        raise RunError(
            f"no room for a bucket of {num_bytes / 2**20:.0f} MiB of weights in {folder} "
            f"({error.strerror}); enlarge it, or lower weights.bucket_mib"
        ) from None


def remove_abandoned(folder: Path) -> None:
    """Remove the slots of processes that were killed before they could."""
    for path in folder.glob(f"{_PREFIX}*"):
        try:
            if time.time() - path.stat().st_ctime < _MIN_AGE_S:
                continue
            descriptor = os.open(path, os.O_RDWR)
        except OSError:  # gone meanwhile, or another user's
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink(missing_ok=True)
        except BlockingIOError:
            pass
        finally:
            os.close(descriptor)
