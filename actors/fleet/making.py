"""How each kind of actor is made: its options, its name and its place."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import ray
from ray.actor import ActorHandle

from actors.fleet.life import CONCURRENCY, Lives
from actors.judge import RewardWorker
from actors.learning.learner import Learner
from actors.learning.options import LearnerOptions
from actors.placement import Demand, Places, runs_in_sampler
from actors.process import (
    engine_environment,
    hub_environment,
    judge_environment,
    learner_environment,
)
from actors.sampling.options import EngineOptions
from actors.sampling.sampler import Sampler
from actors.sampling.small_files import SmallFiles
from rzero_ray.config.cluster import SamplingSettings
from rzero_ray.config.config import Config
from rzero_ray.config.layout import Layout, attention_of
from rzero_ray.tasks.base_model import is_hub_name

_MAX_REQUESTS_PER_SAMPLER = 10_000
"""Concurrent calls of one sampler actor: the engine queues them, Ray must not."""


class Maker:
    """Makes each actor in its reserved place and under its name, at the start or later."""

    def __init__(
        self, settings: SamplingSettings, layout: Layout, places: Places, needed: Sequence[Demand]
    ) -> None:
        """`places` are those of `needed` (`actors.placement.reserve`)."""
        self._settings = settings
        self._layout = layout
        self._places = places
        self._demand = {demand.actor: demand for demand in needed}
        self._hub = hub_environment() if is_hub_name(settings.model) else {}
        self._small: dict[Path, ray.ObjectRef] = {}
        """The small files of models, by folder."""
        # Names are unique to this attempt: actors of one that was killed may still be dying.
        self._namespace = f"rzero-{settings.name}-{uuid.uuid4().hex[:8]}"

    def expect(self, demand: Demand) -> None:
        """Know what an actor needs that is to be made later."""
        self._demand[demand.actor] = demand

    def place_of(self, name: str) -> str:
        """Return the place of an actor."""
        return self._demand[name].place

    def sampler(self, name: str, model: Path, life: int) -> ActorHandle:
        """Make a sampler whose engine starts from the folder `model`; where a learner gives it its
        weights, from the folder's small files on nodes that do not see it."""
        settings = self._settings.sampler
        on_cpu = settings.gpus_per_engine == 0
        kv_bytes = int(settings.kv_cache_gib * 2**30)
        options = EngineOptions(
            model=str(model),
            dtype=self._settings.model.dtype,
            max_model_len=self._settings.model.max_model_len,
            max_num_seqs=settings.max_num_seqs,
            kv_cache_bytes=kv_bytes or None,
            gpu_memory_utilization=self._layout.gpu_memory_utilization,
            enforce_eager=settings.enforce_eager,
            on_cpu=on_cpu,
            in_process=runs_in_sampler(settings, self._demand[name].gpus),
            tensor_parallel=settings.tensor_parallel,
            weight_backend=self._layout.weight_backend,
            takes_turns=self._layout.takes_turns,
            metrics_name=name if self._settings.metrics.vllm else "",
        )
        environment = self._hub | engine_environment(
            settings.threads_per_engine, on_cpu, self._layout.weight_backend
        )
        actor: Any = _living(Sampler).options(
            **self.placed(name, environment, life),
            max_concurrency=_MAX_REQUESTS_PER_SAMPLER,
        )
        return cast(ActorHandle, actor.remote(name, options, self._small_files(model)))

    def _small_files(self, model: Path) -> ray.ObjectRef | None:
        """Return the small files of a folder, in Ray's object store; None where nothing learns."""
        if self._layout.num_ranks == 0:
            return None
        if model not in self._small:
            self._small[model] = ray.put(SmallFiles.read(model))
        return self._small[model]

    def learner(self, rank: int, num_ranks: int, config: Config, attempt: int) -> ActorHandle:
        """Make a learner rank; `LearnerGroup.join` makes `num_ranks` of them one learner.

        `attempt` counts the learners of this start of the run, from 1.
        """
        settings = config.learner
        name = f"learner/rank-{rank}"
        on_cpu = settings.gpus_per_rank == 0
        options = LearnerOptions(
            rank=rank,
            world_size=num_ranks,
            attempt=attempt,
            device="cpu" if on_cpu else "cuda",
            dtype=self._settings.model.dtype,
            zero_stage=settings.zero_stage,
            tokens_per_micro_batch=settings.tokens_per_micro_batch,
            num_threads=settings.threads_per_rank,
            weight_backend=self._layout.weight_backend,
            gradient_checkpointing=settings.gradient_checkpointing,
            # Between turns nothing of the learner may stay on the device.
            reference="cpu" if self._layout.takes_turns else settings.reference,
            attention=attention_of(config),
            offload=settings.offload,
            lora=settings.lora,
            workers_per_engine=config.sampler.tensor_parallel,
            collective_s=config.deadline.update,
        )
        environment = self._hub | learner_environment(
            settings.threads_per_rank, on_cpu, self._layout.weight_backend
        )
        actor: Any = _living(Learner).options(**self.placed(name, environment, attempt))
        weights, deadline = config.weights, config.deadline
        return cast(ActorHandle, actor.remote(name, options, weights, deadline.sync))

    def reward_worker(self, name: str, life: int) -> ActorHandle:
        """Make a reward worker."""
        actor: Any = _living(RewardWorker).options(**self.placed(name, judge_environment(), life))
        return cast(ActorHandle, actor.remote(name, self._settings.task))

    def placed(self, name: str, environment: dict[str, str], life: int = 1) -> dict[str, Any]:
        """Return Ray's options of an actor: its name, what it may use, and where it is.

        Ray keeps the name of a dead actor for a while, so that each life has one of its own.
        """
        demand = self._demand[name]
        return {
            "name": name if life == 1 else f"{name}#{life}",
            "namespace": self._namespace,
            "num_cpus": demand.cpus,
            "num_gpus": demand.gpus,
            "memory": demand.memory or None,
            "runtime_env": {"env_vars": environment},
            "scheduling_strategy": self._places.strategy(demand.place),
        }


def _living(kind: type[Lives]) -> Any:
    """Return an actor class whose actors say that they live while they work."""
    options: Any = {"concurrency_groups": CONCURRENCY}
    return ray.remote(**options)(kind)
