"""What the process of an actor needs: its environment, its large imports, a free port."""

from __future__ import annotations

import gc
import socket
from collections.abc import Iterator
from contextlib import contextmanager


def engine_environment(num_threads: int, on_cpu: bool) -> dict[str, str]:
    """Return what the processes of a vLLM engine find in their environment from the start."""
    environment = {
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_LOGGING_LEVEL": "WARNING",
        "TOKENIZERS_PARALLELISM": "false",
    }
    if on_cpu:
        environment |= {
            # vLLM would pin every engine of a machine to the same core.
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            # At its default, 1, vLLM takes the executor `mp` on a CPU, whatever it is told: a
            # process for the worker, beside the engine's.
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
            "OMP_NUM_THREADS": str(num_threads),
            # Huge pages: half of a reload is page faults otherwise.
            "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
        }
    return environment


@contextmanager
def large_imports() -> Iterator[None]:
    """Collect no garbage in the block, and keep the collector off what it leaves.

    vLLM's and DeepSpeed's modules are a million objects that live as long as the process. Looking
    through them takes a fifth of the time of their import, and later, at each full collection, half
    of a sampler's own time.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def held_port(address: str) -> socket.socket:
    """Return a socket that holds a free TCP port of `address`, one of this node's addresses.

    While it is open, the system gives the port to nobody else. It does not listen: whoever is to
    listen there makes it do so, or, as vLLM does, binds a socket of its own with SO_REUSEADDR to
    the port while this one is open.
    """
    holder = socket.socket()
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    holder.bind((address, 0))
    return holder
