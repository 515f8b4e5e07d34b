"""What an actor says of itself while it works: that it lives, where, and what it is doing."""

from __future__ import annotations

import os
import sys
import threading
import traceback
from typing import NamedTuple

import psutil
import ray

CONCURRENCY = {"life": 1}
"""Ray's concurrency groups of an actor that is one of `Lives`, and their threads."""


class Whereabouts(NamedTuple):
    """The process of an actor."""

    pid: int
    node: str
    """The address of its node."""
    node_id: str
    """Ray's name of it."""
    has_weights: bool = True
    """False of an engine that has started without, because its node does not see its model's folder
    (`sampling.small_files`): it needs a publication before it samples."""
    gpus: tuple[str, ...] = ()
    """Ray's ids of its GPUs on that node."""


def whereabouts(*, has_weights: bool = True) -> Whereabouts:
    """Return where the calling actor runs."""
    context = ray.get_runtime_context()
    gpus = tuple(context.get_accelerator_ids().get("GPU", []))
    address = ray.util.get_node_ip_address()
    return Whereabouts(os.getpid(), address, context.get_node_id(), has_weights, gpus)


class Vitals(NamedTuple):
    """What a node has left, as shares of all it has."""

    node: str
    memory: float
    """Of the host's memory."""
    shared_memory: float
    """Of `/dev/shm`, where Ray's object store lies."""


class Lives:
    """What every actor of the fleet can be asked besides its work.

    These are answered in a thread of their own (`CONCURRENCY`), beside the one that works.
    """

    @ray.method(concurrency_group="life")
    def pulse(self) -> None:
        """Return: the process runs."""

    @ray.method(concurrency_group="life")
    def stacks(self) -> str:
        """Return what each thread of the process is doing."""
        names = {thread.ident: thread.name for thread in threading.enumerate()}
        return "\n".join(
            f"{names.get(ident, ident)}:\n{''.join(traceback.format_stack(frame))}"
            for ident, frame in sys._current_frames().items()
        )

    @ray.method(concurrency_group="life")
    def vitals(self) -> Vitals:
        """Return what the actor's node has left."""
        memory, shm = psutil.virtual_memory(), psutil.disk_usage("/dev/shm")
        return Vitals(
            ray.util.get_node_ip_address(), memory.available / memory.total, shm.free / shm.total
        )
