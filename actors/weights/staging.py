"""Weights on their way into the engines of a node: shared memory that is used again and again.

The processes of the engines do not reach Ray's object store. One sampler of a node copies each
bucket from there into a slot, memory that the engines map. New memory for each bucket would cost
more than the copy: the kernel clears its pages, and each engine faults on them.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from actors.weights.buckets import BucketLayout
from rzero_ray.types import RunError

NUM_SLOTS = 2
"""One bucket is loaded while the next is written."""


class StagingArea:
    """The slots of one sampler. They grow to the largest bucket and stay until `close`."""

    def __init__(self) -> None:
        self._slots: list[_Slot | None] = [None] * NUM_SLOTS

    def write(self, slot: int, layout: BucketLayout, tensors: Sequence[NDArray[np.uint8]]) -> str:
        """Write a bucket's tensors, flat bytes, where its layout says; returns the path by which
        processes of the same user on this node map it.

        What the slot held is overwritten: all engines must have loaded it. RunError when the node
        has no memory for it.
        """
        present = self._slots[slot]
        if present is None or len(present.data) < layout.num_bytes:
            if present is not None:
                present.close()
            self._slots[slot] = None
            present = self._slots[slot] = _make_slot(layout.num_bytes)
        target = np.frombuffer(present.data, dtype=np.uint8)
        for tensor, offset in zip(tensors, layout.offsets, strict=True):
            target[offset : offset + tensor.nbytes] = tensor
        return present.path

    def close(self) -> None:
        """Give the memory back; engines that have mapped it keep it."""
        for slot in self._slots:
            if slot is not None:
                slot.close()
        self._slots = [None] * NUM_SLOTS


@dataclass(slots=True)
class _Slot:
    """Memory that has no name in any folder, so that nothing of it outlives its processes, however
    they end."""

    descriptor: int
    data: mmap.mmap

    @property
    def path(self) -> str:
        return f"/proc/{os.getpid()}/fd/{self.descriptor}"

    def close(self) -> None:
        os.close(self.descriptor)


def _make_slot(num_bytes: int) -> _Slot:
    descriptor = os.memfd_create("rzero-weights")
    try:
        # Taken at once: a write that finds no room later would kill the process by a signal.
        os.posix_fallocate(descriptor, 0, num_bytes)
        return _Slot(descriptor, mmap.mmap(descriptor, num_bytes))
    except OSError as error:
        os.close(descriptor)
        raise RunError(
            f"no memory for a bucket of {num_bytes / 2**20:.0f} MiB of weights on "
            f"{os.uname().nodename} ({error.strerror}); lower weights.bucket_mib"
        ) from None
