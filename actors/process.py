"""What the process of an actor needs: its environment, its large imports, a port.

Every setting that holds for a whole process is here, with its reason, apart from what tells the
ranks of one group of each other (`actors.learning.deepspeed_rank`). Of NCCL nothing is set: vLLM
takes out of its own what would bind the learner (`unpinned_nccl_env`), and how the nodes are linked
is for whoever starts Ray on them to say.
"""

from __future__ import annotations

import gc
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from rzero_ray.config.cluster import WeightBackend

RAY_ENVIRONMENT = {
    # Else Ray runs actors at nice 15: behind everything else, an engine starts four times slower.
    "RAY_worker_niceness": "0",
}
"""What a Ray that the driver starts finds in its environment, unless the user has set it."""

_OF_THE_HUB = ("HF_TOKEN", "HF_HOME", "HF_ENDPOINT", "HF_HUB_OFFLINE")
"""By what a user says where models come from and who asks for them."""

_NO_EXPANDABLE_SEGMENTS = dict.fromkeys(
    ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"), "expandable_segments:False"
)


def engine_environment(num_threads: int, on_cpu: bool, backend: WeightBackend) -> dict[str, str]:
    """Return what the processes of a vLLM engine find in their environment from the start."""
    environment = {
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_LOGGING_LEVEL": "WARNING",
        # The tokenizer's threads and the fork of a child do not go together, and prompts are short.
        "TOKENIZERS_PARALLELISM": "false",
    }
    if backend == "cuda_ipc":
        # The handles of a buffer hold Python types, which vLLM passes from a sampler to its own
        # engine process pickled or not at all.
        environment["VLLM_ALLOW_INSECURE_SERIALIZATION"] = "1"
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


def learner_environment(num_threads: int, on_cpu: bool, backend: WeightBackend) -> dict[str, str]:
    """Return what the process of a learner rank finds in its environment from the start."""
    # Before torch is imported: later its pools of threads are there.
    environment = {"OMP_NUM_THREADS": str(num_threads)}
    if on_cpu:
        # DeepSpeed would look for an accelerator, and take one that the rank was not given.
        environment["DS_ACCELERATOR"] = "cpu"
    elif backend == "cuda_ipc":
        # Memory of such segments is opened by another process piece by piece, several times slower.
        environment |= _NO_EXPANDABLE_SEGMENTS
    return environment


def judge_environment() -> dict[str, str]:
    """Return what the process of a reward worker finds in its environment from the start."""
    # It counts, compares and clusters on the one core that it has reserved.
    return {"OMP_NUM_THREADS": "1"}


def hub_environment() -> dict[str, str]:
    """Return what the driver's environment says of the Hugging Face hub, for actors that fetch a
    model by themselves."""
    return {name: os.environ[name] for name in _OF_THE_HUB if name in os.environ}


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
