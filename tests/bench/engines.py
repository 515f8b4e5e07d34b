"""Real engines for benchmarks: samplers as actors, without learner and driver."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import ray
from ray.actor import ActorHandle

from actors.cluster import engine_environment
from actors.options import EngineOptions
from actors.sampler import Sampler

MAX_NUM_SEQS = 256
KV_CACHE_BYTES = 1 << 28
MAX_MODEL_LEN = 192


def start_samplers(
    model: Path, count: int, num_threads: int = 1
) -> tuple[list[ActorHandle], list[int]]:
    """Start `count` samplers on this machine's CPU, as `conf=tiny` does; returns their process ids
    too."""
    options = EngineOptions(
        model=str(model),
        dtype="float32",
        max_model_len=MAX_MODEL_LEN,
        max_num_seqs=MAX_NUM_SEQS,
        kv_cache_bytes=KV_CACHE_BYTES,
        gpu_memory_utilization=0.85,
        enforce_eager=True,
        on_cpu=True,
        weight_backend="object_store",
    )
    settings: dict[str, Any] = {
        "num_cpus": 0,
        "max_concurrency": 10_000,
        "runtime_env": {
            "env_vars": engine_environment(num_threads, on_cpu=True) | {"PYTHONPATH": os.getcwd()}
        },
    }
    actors: list[Any] = [
        ray.remote(Sampler).options(**settings).remote(f"bench/sampler-{k}", options)
        for k in range(count)
    ]
    pids = ray.get([actor.start.remote() for actor in actors], timeout=600)
    return actors, pids
