"""The driver's door to the cluster: connects to Ray, places the roles, starts and ends them."""

from __future__ import annotations

import asyncio
import logging
import os
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import ray
from numpy.typing import NDArray
from ray.actor import ActorHandle
from ray.util.placement_group import PlacementGroup, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from actors.judge import ClusterJudge, RewardWorker
from actors.learning.group import LearnerGroup
from actors.learning.learner import Learner
from actors.learning.options import LearnerOptions, PhaseOptions
from actors.placement import (
    Demand,
    bundles,
    check_resources,
    demands,
    local_resources,
    reserve,
    resource_table,
    sampling_demands,
)
from actors.policy import ClusterPolicy
from actors.process import engine_environment
from actors.sampling.options import EngineOptions
from actors.sampling.pool import Engine, SamplerPool
from actors.sampling.sampler import Sampler
from actors.turns import Holder, NoTurns, SharedDevices, Turns
from actors.waiting import within
from rzero_ray.config.config import Config
from rzero_ray.config.layout import Layout, disaggregated, resolve_layout
from rzero_ray.config.method import ChallengerConfig, SolverConfig
from rzero_ray.protocols import Clock, Task
from rzero_ray.types import (
    Completion,
    ProbeReport,
    Role,
    SampleRequest,
    Sampling,
    SyncReport,
    UserError,
)

logger = logging.getLogger(__name__)

_MAX_REQUESTS_PER_SAMPLER = 10_000
"""Concurrent calls of one sampler actor: the engine queues them, Ray must not."""
_NUM_PROBE_QUESTIONS = 3
_SHUTDOWN_S = 20.0
_OBJECT_STORE_BYTES = 512 << 20
"""Of a local Ray: weights and rollouts of a model that a laptop trains."""


@dataclass(slots=True)
class Cluster:
    """The running roles."""

    challenger: ClusterPolicy
    solver: ClusterPolicy
    judge: ClusterJudge
    learner: LearnerGroup
    pool: SamplerPool
    _actors: list[ActorHandle]
    _placement: PlacementGroup

    async def close(self) -> None:
        """End all actors and give their places back."""
        await _end(self.pool, self._actors, self._placement)


@dataclass(slots=True)
class SamplingCluster:
    """The running roles of an evaluation: engines that hold one model, and reward workers.

    Implements `protocols.Sampler`.
    """

    judge: ClusterJudge
    pool: SamplerPool
    num_engines: int
    _start_deadline_s: float
    _actors: list[ActorHandle]
    _placement: PlacementGroup

    async def sample(self, request: SampleRequest) -> list[Completion]:
        """See `protocols.Sampler`."""
        return await self.pool.sample("solver", request)

    async def prompt_lengths(self, requests: Sequence[SampleRequest]) -> list[int]:
        """Return the number of tokens of each request's prompt."""
        engine = self.pool.engines[0]
        prompts = await within(
            self._start_deadline_s,
            f"{engine.name} to render {len(requests)} prompts",
            engine.actor.render.remote(list(requests)),
        )
        return [len(prompt) for prompt in prompts]

    async def close(self) -> None:
        """End all actors and give their places back."""
        await _end(self.pool, self._actors, self._placement)


async def _end(pool: SamplerPool, actors: Sequence[ActorHandle], placement: PlacementGroup) -> None:
    with suppress(Exception):  # an engine that is dead already has nothing to end
        await asyncio.wait_for(
            asyncio.gather(*(engine.actor.stop.remote() for engine in pool.engines)),
            _SHUTDOWN_S,
        )
    for actor in actors:
        ray.kill(actor)
    remove_placement_group(placement)


def connect_ray() -> str:
    """Join the Ray cluster of RAY_ADDRESS, or one that runs here, or start one; return its address.

    A Ray started here ends with this process.
    """
    if ray.is_initialized():
        return ray.get_runtime_context().gcs_address
    local = os.environ.get("RAY_ADDRESS") == "local"
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.WARNING}
    if local:
        options |= {"include_dashboard": True, "object_store_memory": _OBJECT_STORE_BYTES}
    try:
        context = ray.init(**options)
    except ConnectionError as error:
        where = os.environ.get("RAY_ADDRESS", "the address of the last one started here")
        raise UserError(
            f"no Ray answers at {where} ({str(error).splitlines()[0]}); start one with "
            "`ray start --head`, or set RAY_ADDRESS=local for one of the driver's own"
        ) from None
    return context.dashboard_url or ray.get_runtime_context().gcs_address


def choose_layout(config: Config) -> Layout:
    """Return the layout for the cluster that is joined, or else for this machine.

    Raises UserError when it contradicts another key of the config. Whether the roles fit is for
    `check_machine` to say.
    """
    return resolve_layout(config, _has())


def plan_resources(config: Config, layout: Layout) -> list[str]:
    """Return the needs/has table without starting anything.

    'has' is the cluster when one is joined, else this machine.
    """
    return resource_table(demands(config, layout), _has())


def check_machine(config: Config, layout: Layout) -> None:
    """Raise UserError when the roles do not fit: the joined cluster, or else this machine."""
    check_resources(demands(config, layout), _has())


def check_machine_for_sampling(config: Config) -> None:
    """Raise UserError when engines and reward workers do not fit, as `check_machine` does."""
    check_resources(sampling_demands(config, disaggregated(config)), _has())


def _has() -> Mapping[str, float]:
    return ray.cluster_resources() if ray.is_initialized() else local_resources()


async def start_sampling(config: Config, model: Path, clock: Clock) -> SamplingCluster:
    """Place and start the Solver's engines with the weights of the folder `model`, and the reward
    workers; no learner, so these weights stay."""
    layout = disaggregated(config)  # without a learner nobody takes turns
    needed = sampling_demands(config, layout)
    placement = reserve(needed, config.deadline.placement)
    launcher = _Launcher(config, layout, placement, needed)
    workers = [launcher.reward_worker(k) for k in range(config.reward.num_workers)]
    engines, _ = await within(
        config.deadline.start,
        "engines and reward workers to start",
        asyncio.gather(
            launcher.start_engines({"challenger": model, "solver": model}),
            asyncio.gather(*(worker.start.remote() for worker in workers)),
        ),
    )
    return SamplingCluster(
        judge=ClusterJudge(workers, config.deadline.grade, clock),
        pool=SamplerPool(engines, config.deadline.sample),
        num_engines=len(engines),
        _start_deadline_s=config.deadline.start,
        _actors=[*(engine.actor for engine in engines), *workers],
        _placement=placement,
    )


async def start_cluster(
    config: Config,
    layout: Layout,
    models: dict[Role, Path],
    task: Task,
    clock: Clock,
    on_sync: Callable[[SyncReport, ProbeReport], None],
    on_turn: Callable[[Holder], None] = lambda holder: None,
) -> Cluster:
    """Place and start every role; `models` are the folders the engines start from.

    `on_turn` is told who has the devices, each time that changes (`actors.turns`).
    """
    needed = demands(config, layout)
    placement = reserve(needed, config.deadline.placement)
    launcher = _Launcher(config, layout, placement, needed)
    learner = LearnerGroup(
        [launcher.learner(rank) for rank in range(layout.num_ranks)], config.deadline
    )
    workers = [launcher.reward_worker(k) for k in range(config.reward.num_workers)]
    engines, *_ = await within(
        config.deadline.start,
        "all actors to start",
        asyncio.gather(
            launcher.start_engines(models),
            asyncio.gather(*(worker.start.remote() for worker in workers)),
            learner.join(),
        ),
    )
    actors = [engine.actor for engine in engines] + learner.ranks + workers
    pool = SamplerPool(engines, config.deadline.sample)
    probes: list[NDArray[np.int32]] = await within(
        config.deadline.start,
        f"{engines[0].name} to render the probe prompts",
        engines[0].actor.render.remote(_probe_requests(task)),
    )

    turns: Turns = NoTurns()
    if layout.takes_turns:
        turns = SharedDevices(engines, learner, config.deadline.sync, clock, on_turn)

    def policy(role: Role, settings: ChallengerConfig | SolverConfig) -> ClusterPolicy:
        options = PhaseOptions.of(settings)
        return ClusterPolicy(role, config, options, pool, learner, turns, probes, clock, on_sync)

    return Cluster(
        challenger=policy("challenger", config.challenger),
        solver=policy("solver", config.solver),
        judge=ClusterJudge(workers, config.deadline.grade, clock),
        learner=learner,
        pool=pool,
        _actors=actors,
        _placement=placement,
    )


class _Launcher:
    """Creates the actors of one run, each in its reserved bundle, with its name."""

    def __init__(
        self, config: Config, layout: Layout, placement: PlacementGroup, needed: Sequence[Demand]
    ) -> None:
        self._config = config
        self._layout = layout
        self._placement = placement
        self._index = {place: index for index, place in enumerate(bundles(needed))}
        self._demand = {demand.actor: demand for demand in needed}
        # Names are unique to this attempt: actors of one that was killed may still be dying.
        self._namespace = f"rzero-{config.name}-{uuid.uuid4().hex[:8]}"

    async def start_engines(self, models: Mapping[Role, Path]) -> list[Engine]:
        """Start an engine per demand for one, with its role's model; the caller holds the deadline.

        One after the other in each place: a starting engine measures how much of its GPU it fills,
        and would take another's growth for its own.
        """
        by_place: dict[str, list[tuple[Role, str]]] = {}
        for role, name in _engine_names(self._layout):
            by_place.setdefault(self._demand[name].place, []).append((role, name))
        started = await asyncio.gather(
            *(self._start_in_turn(names, models) for names in by_place.values())
        )
        return sorted((e for engines in started for e in engines), key=lambda e: e.home)

    async def _start_in_turn(
        self, names: Sequence[tuple[Role, str]], models: Mapping[Role, Path]
    ) -> list[Engine]:
        engines = []
        for role, name in names:
            model = models[role]
            actor = self.sampler(name, model)
            started: Any = actor.start.remote()
            await started
            engines.append(Engine(name=name, actor=actor, home=role, role=role, model=model))
        return engines

    def sampler(self, name: str, model: Path) -> ActorHandle:
        settings = self._config.sampler
        on_cpu = settings.gpus_per_engine == 0
        kv_bytes = int(settings.kv_cache_gib * 2**30)
        options = EngineOptions(
            model=str(model),
            dtype=self._config.model.dtype,
            max_model_len=self._config.model.max_model_len,
            max_num_seqs=settings.max_num_seqs,
            kv_cache_bytes=kv_bytes or None,
            gpu_memory_utilization=self._layout.gpu_memory_utilization,
            enforce_eager=settings.enforce_eager,
            on_cpu=on_cpu,
            weight_backend=self._layout.weight_backend,
            takes_turns=self._layout.takes_turns,
        )
        environment = engine_environment(settings.threads_per_engine, on_cpu)
        if self._layout.weight_backend == "cuda_ipc":
            # The handles of a buffer hold Python types, which vLLM passes from this actor to its
            # own engine process pickled or not at all.
            environment["VLLM_ALLOW_INSECURE_SERIALIZATION"] = "1"
        actor = ray.remote(Sampler).options(
            **self._options(name, environment), max_concurrency=_MAX_REQUESTS_PER_SAMPLER
        )
        return cast(ActorHandle, actor.remote(name, options))

    def learner(self, rank: int) -> ActorHandle:
        settings = self._config.learner
        name = f"learner/rank-{rank}"
        on_cpu = settings.gpus_per_rank == 0
        options = LearnerOptions(
            rank=rank,
            world_size=self._layout.num_ranks,
            device="cpu" if on_cpu else "cuda",
            dtype=self._config.model.dtype,
            zero_stage=settings.zero_stage,
            tokens_per_micro_batch=settings.tokens_per_micro_batch,
            num_threads=settings.threads_per_rank,
            weight_backend=self._layout.weight_backend,
            gradient_checkpointing=settings.gradient_checkpointing,
            # Between turns nothing of the learner may stay on the device.
            reference="cpu" if self._layout.takes_turns else settings.reference,
        )
        environment = {"OMP_NUM_THREADS": str(settings.threads_per_rank)}
        if on_cpu:
            environment["DS_ACCELERATOR"] = "cpu"
        actor = ray.remote(Learner).options(**self._options(name, environment))
        handle = actor.remote(name, options, self._config.weights, self._config.deadline.sync)
        return cast(ActorHandle, handle)

    def reward_worker(self, index: int) -> ActorHandle:
        name = f"reward/worker-{index}"
        actor = ray.remote(RewardWorker).options(**self._options(name, {"OMP_NUM_THREADS": "1"}))
        return cast(ActorHandle, actor.remote(name, self._config.task))

    def _options(self, name: str, environment: dict[str, str]) -> dict[str, Any]:
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


def _engine_names(layout: Layout) -> list[tuple[Role, str]]:
    challengers: list[tuple[Role, str]] = [
        ("challenger", f"challenger/sampler-{k}") for k in range(layout.num_challenger)
    ]
    return challengers + [("solver", f"solver/sampler-{k}") for k in range(layout.num_solver)]


def _probe_requests(task: Task) -> list[SampleRequest]:
    """Return requests whose prompts verify weights: both roles' prompts, with real questions."""
    questions = [problem.question for problem in task.heldout()[-_NUM_PROBE_QUESTIONS:]]
    questions = questions or ["What is the sum of the first hundred positive integers?"]
    chats = [task.challenger_messages(), *(task.solver_messages(q) for q in questions)]
    sampling = Sampling(temperature=0.0, top_p=1.0, top_k=-1, max_tokens=1)
    return [
        SampleRequest(messages=chat, num_samples=1, seed=0, sampling=sampling) for chat in chats
    ]
