"""Real engines for benchmarks: samplers as actors, without learner and driver.

On a CPU they are those of `conf=tiny`; on a GPU each has a whole one, or as many as there are share
one, in bfloat16.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ray
import torch
from ray.actor import ActorHandle

from actors.cluster import Cluster, start_cluster
from actors.process import engine_environment
from actors.sampling.options import EngineOptions
from actors.sampling.sampler import Sampler
from rzero_ray.config.config import Config
from rzero_ray.config.layout import disaggregated
from rzero_ray.protocols import Cast
from rzero_ray.run.clock import StageClock
from rzero_ray.tasks.registry import make_task
from rzero_ray.types import Role
from tests.bench.harness import device, dtype

SETTINGS = {
    "model": "",  # a folder in Hugging Face format in place of the benchmark's own
    "max_model_len": "192",
    "max_num_seqs": "1024",
}
_KV_CACHE_BYTES = 1 << 28
"""On a CPU."""
_GPU_SHARE = 0.85


def engine_options(
    model: Path, settings: Mapping[str, str], num_on_gpu: int, in_process: bool | None = None
) -> EngineOptions:
    """Return how an engine is started, `num_on_gpu` of which share a GPU.

    On a CPU it runs in its sampler's process, as with `conf=tiny`, unless `in_process` says.
    """
    on_gpu = device() == "cuda"
    return EngineOptions(
        model=str(model),
        dtype=dtype(),
        max_model_len=int(settings["max_model_len"]),
        max_num_seqs=int(settings["max_num_seqs"]),
        kv_cache_bytes=None if on_gpu else _KV_CACHE_BYTES,
        gpu_memory_utilization=_GPU_SHARE / num_on_gpu,
        enforce_eager=not on_gpu,
        on_cpu=not on_gpu,
        in_process=not on_gpu if in_process is None else in_process,
        weight_backend="object_store",
    )


def start_samplers(
    options: EngineOptions, count: int, kind: type[Sampler] = Sampler
) -> tuple[list[ActorHandle], list[int]]:
    """Start `count` samplers, one after the other where they share a GPU; returns their process
    ids too."""
    environment = engine_environment(1, on_cpu=options.on_cpu, backend="object_store")
    settings: dict[str, Any] = {
        "num_cpus": 0,
        "num_gpus": min(1.0, torch.cuda.device_count() / count),
        "max_concurrency": 10_000,
        "runtime_env": {"env_vars": environment | {"PYTHONPATH": os.getcwd()}},
    }
    actors, started = [], []
    for k in range(count):
        actor: Any = ray.remote(kind).options(**settings).remote(f"bench/sampler-{k}", options)
        actors.append(actor)
        started.append(actor.start.remote())
        if not options.on_cpu:
            ray.get(started, timeout=600)
    return actors, ray.get(started, timeout=600)


async def start_roles(config: Config, model: Path) -> tuple[Cluster, Cast]:
    """Start all roles of a run, each on devices of its own, from the folder `model`; the cluster
    is there to be closed."""
    task = make_task(config.task)
    models: dict[Role, Path] = {"challenger": model, "solver": model}
    cluster = await start_cluster(config, disaggregated(config), models, task, model)
    return cluster, cluster.cast(config, task, StageClock(), lambda sync: None)
