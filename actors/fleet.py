"""The actors of a run: made, named, placed, and ended, for as long as the run lives."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, cast

import ray
from ray.actor import ActorHandle
from ray.util.placement_group import PlacementGroup, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from actors.judge import RewardWorker
from actors.learning.learner import Learner
from actors.learning.options import LearnerOptions
from actors.placement import Demand, bundles, runs_in_sampler, sampler_names
from actors.process import engine_environment, judge_environment, learner_environment
from actors.sampling.options import EngineOptions
from actors.sampling.pool import PooledSampler
from actors.sampling.sampler import Sampler
from rzero_ray.config.cluster import SamplingSettings
from rzero_ray.config.config import Config
from rzero_ray.config.layout import Layout, attention_of
from rzero_ray.types import Role

_MAX_REQUESTS_PER_SAMPLER = 10_000
"""Concurrent calls of one sampler actor: the engine queues them, Ray must not."""
_SHUTDOWN_S = 6.0
"""How long engines may take to end in order; whoever stopped the run waits for it."""


class Fleet:
    """Creates each actor in its reserved bundle and under its name, at the start or later.

    An actor that is created under the name of an earlier one takes its place here.
    """

    def __init__(
        self,
        settings: SamplingSettings,
        layout: Layout,
        placement: PlacementGroup,
        needed: Sequence[Demand],
    ) -> None:
        """`placement` holds what `needed` asks for (`actors.placement.reserve`)."""
        self._settings = settings
        self._layout = layout
        self._placement = placement
        self._index = {place: index for index, place in enumerate(bundles(needed))}
        self._demand = {demand.actor: demand for demand in needed}
        # Names are unique to this attempt: actors of one that was killed may still be dying.
        self._namespace = f"rzero-{settings.name}-{uuid.uuid4().hex[:8]}"
        self._actors: dict[str, ActorHandle] = {}
        """The living actors by name."""
        self._samplers: set[str] = set()
        """The names of those that have an engine to end."""

    async def start_samplers(self, models: Mapping[Role, Path]) -> list[PooledSampler]:
        """Start a sampler per demand for one, with its role's model; the caller holds the deadline.

        One after the other in each place: a starting engine measures how much of its GPU it fills,
        and would take another's growth for its own.
        """
        by_place: dict[str, list[tuple[Role, str]]] = {}
        for role, name in sampler_names(self._layout):
            by_place.setdefault(self._demand[name].place, []).append((role, name))
        started = await asyncio.gather(
            *(self._start_in_turn(names, models) for names in by_place.values())
        )
        by_name = {sampler.name: sampler for in_place in started for sampler in in_place}
        return [by_name[name] for _, name in sampler_names(self._layout)]

    async def _start_in_turn(
        self, names: Sequence[tuple[Role, str]], models: Mapping[Role, Path]
    ) -> list[PooledSampler]:
        samplers = []
        for role, name in names:
            model = models[role]
            actor = self.sampler(name, model)
            started: Any = actor.start.remote()
            await started
            samplers.append(
                PooledSampler(name=name, actor=actor, home=role, role=role, model=model)
            )
        return samplers

    def sampler(self, name: str, model: Path) -> ActorHandle:
        """Create a sampler whose engine starts from the folder `model`."""
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
        )
        environment = engine_environment(
            settings.threads_per_engine, on_cpu, self._layout.weight_backend
        )
        actor = ray.remote(Sampler).options(
            **self.placed(name, environment), max_concurrency=_MAX_REQUESTS_PER_SAMPLER
        )
        self._samplers.add(name)
        return self._keep(name, actor.remote(name, options))

    def learner(self, rank: int, config: Config) -> ActorHandle:
        """Create a learner rank; `LearnerGroup.join` makes the ranks one learner."""
        settings = config.learner
        name = f"learner/rank-{rank}"
        on_cpu = settings.gpus_per_rank == 0
        options = LearnerOptions(
            rank=rank,
            world_size=self._layout.num_ranks,
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
        environment = learner_environment(
            settings.threads_per_rank, on_cpu, self._layout.weight_backend
        )
        actor = ray.remote(Learner).options(**self.placed(name, environment))
        weights, deadline = config.weights, config.deadline
        return self._keep(name, actor.remote(name, options, weights, deadline.sync))

    def reward_worker(self, index: int) -> ActorHandle:
        """Create a reward worker."""
        name = f"reward/worker-{index}"
        actor = ray.remote(RewardWorker).options(**self.placed(name, judge_environment()))
        return self._keep(name, actor.remote(name, self._settings.task))

    def placed(self, name: str, environment: dict[str, str]) -> dict[str, Any]:
        """Return Ray's options of an actor: its name, what it may use, and where it is."""
        demand = self._demand[name]
        return {
            "name": name,
            "namespace": self._namespace,
            "num_cpus": demand.cpus,
            "num_gpus": demand.gpus,
            "memory": demand.memory or None,
            "runtime_env": {"env_vars": environment},
            "scheduling_strategy": PlacementGroupSchedulingStrategy(
                placement_group=self._placement,
                placement_group_bundle_index=self._index[demand.place],
            ),
        }

    @asynccontextmanager
    async def ended_on_failure(self) -> AsyncIterator[None]:
        """End all actors when the block fails or is cancelled: nobody else knows of them yet."""
        try:
            yield
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """End all actors and give their places back."""
        stops = [asyncio.create_task(_stop(self._actors[name])) for name in self._samplers]
        if stops:
            await asyncio.wait(stops, timeout=_SHUTDOWN_S)
        for actor in self._actors.values():
            ray.kill(actor)
        remove_placement_group(self._placement)

    def _keep(self, name: str, actor: Any) -> ActorHandle:
        handle = cast(ActorHandle, actor)
        self._actors[name] = handle
        return handle


async def _stop(sampler: ActorHandle) -> None:
    with suppress(Exception):  # an engine that is dead already has nothing to end
        stopped: Any = sampler.stop.remote()
        await stopped
