"""The driver's door to the cluster: connects to Ray, places the roles, starts and ends them."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import signal
import socket
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import ray
from numpy.typing import NDArray
from ray._private.utils import read_ray_address

from actors.control import answer_commands
from actors.control import ask_driver as ask_driver
from actors.control import run_on_cluster as run_on_cluster
from actors.fleet.fleet import Fleet
from actors.fleet.member import Member
from actors.fleet.work import told_work
from actors.judge import ClusterJudge
from actors.learning.group import LearnerGroup
from actors.learning.options import PhaseOptions
from actors.metrics import RunMetrics as RunMetrics
from actors.metrics import shown_work
from actors.nodes import Disk, find_disk
from actors.placement import (
    check_resources,
    demands,
    local_resources,
    reserve,
    resource_table,
    sampling_demands,
)
from actors.policy import ClusterPolicy
from actors.process import RAY_ENVIRONMENT
from actors.sampling.pool import PooledSampler, SamplerPool
from actors.sampling.renewal import EngineRenewal
from actors.sampling.scaling import Scaling
from actors.turns import Holder, NoTurns, SharedDevices, Turns
from actors.waiting import within
from actors.weights.probe import Probe
from rzero_ray.config.cluster import SamplingSettings
from rzero_ray.config.config import Config, probe_bound, sampling_settings
from rzero_ray.config.layout import Layout, engines_alone, resolve_layout
from rzero_ray.config.roles import ROLES
from rzero_ray.protocols import Cast, Clock, Task
from rzero_ray.tasks.base_model import is_of_hub
from rzero_ray.types import (
    ActorChange,
    BusySpan,
    Completion,
    PlacedText,
    Role,
    SampleRequest,
    Sampling,
    ScaleChange,
    SyncReport,
    UserError,
)

logger = logging.getLogger(__name__)

_NUM_PROBE_QUESTIONS = 3
_CONNECT_S = 10.0
"""How long whoever listens at an address may take to say so."""
_FIX = (
    "start one with `ray start --head`, or set RAY_ADDRESS: HOST:6379 of a Ray that runs, or local "
    "for one of the driver's own"
)
_OBJECT_STORE_BYTES = 512 << 20
"""Size of the object store of a local Ray: it holds weights and rollouts of a model that a laptop
trains."""


@dataclass(slots=True)
class Cluster:
    """The running actors, which serve one run after the other: `cast` makes the roles of a run."""

    learner: LearnerGroup
    pool: SamplerPool
    workers: Sequence[Member]
    """The reward workers."""
    turns: Turns
    renewal: EngineRenewal
    probes: Sequence[NDArray[np.int32]]
    """Token ids of the prompts by which a weight sync is verified."""
    fleet: Fleet
    scaling: Scaling

    def cast(
        self,
        config: Config,
        task: Task,
        clock: Clock,
        on_sync: Callable[[SyncReport], None],
        on_turn: Callable[[Holder], None] = lambda holder: None,
        on_change: Callable[[ActorChange], None] = lambda change: None,
        on_scale: Callable[[ScaleChange], None] = lambda change: None,
        check_writer: Callable[[], None] = lambda: None,
    ) -> Cast:
        """Return the roles of a run; one run at a time has them.

        `config` may differ from that of the start in what `config.layout.is_fixed_at_start` does
        not name. What the engines hold is another run's until it is published or held
        (`protocols.Policy.hold`). `on_sync` is told of each publication of weights once it is
        verified, `on_turn` who has the devices each time that changes (`actors.turns`), `on_change`
        how each actor is, at once and each time that changes (`actors.fleet`), `on_scale` how
        many engines a role is to have, each time that changes (`actors.sampling.scaling`).
        `check_writer` raises where another driver has taken the run over.
        """
        self.learner.check_writer = check_writer
        self.turns.tell(clock, on_turn)
        self.fleet.watch.tell(on_change)
        self.scaling.tell(on_scale)
        probe = Probe(self.probes, config.model.dtype, probe_bound(config))
        policies = {
            role.name: ClusterPolicy(
                role.name,
                config,
                PhaseOptions.of(role.learns(config)),
                self.pool,
                self.learner,
                self.turns,
                probe,
                clock,
                on_sync,
                self.renewal,
            )
            for role in ROLES
            if role.learns is not None
        }
        judge = ClusterJudge(self.workers, config.deadline, clock, self.fleet.watch)
        return Cast(
            policies["challenger"],
            policies["solver"],
            judge,
            task,
            policies["verifier"],
            policies["referee"],
        )

    async def scaled_by(self, run_dir: str) -> None:
        """Do what the command `rzero scale` asks of the run in `run_dir`, until cancelled."""
        try:
            await answer_commands(run_dir, lambda request: _as_line(self.scaling.scale(request)))
        except Exception:
            logger.exception("no command reaches this run any more")

    def shown(self, config: Config, run: str) -> AbstractAsyncContextManager[None]:
        """Have the metrics of a run show in the block what engines and workers do."""
        return shown_work(run, self.pool, self.workers) if config.metrics.run else nullcontext()

    def told(self, tell: Callable[[BusySpan], None]) -> AbstractAsyncContextManager[None]:
        """Have `tell` told in the block when each actor was at work, and at what."""
        return told_work(self.fleet.works, tell)

    async def close(self) -> None:
        """End all actors and give their places back."""
        await self.scaling.close()
        await self.fleet.close()


def _as_line(change: ScaleChange) -> str:
    least, most = change.least, change.most
    wanted = f"{least}" if least == most else f"{least} to {most}"
    return f"{change.role}: {wanted} engines wanted, {change.present} present"


@dataclass(slots=True)
class SamplingCluster:
    """The running roles of an evaluation: engines that hold one model, and reward workers.

    Implements `protocols.Sampler`.
    """

    judge: ClusterJudge
    pool: SamplerPool
    num_engines: int
    fleet: Fleet

    async def sample(self, request: SampleRequest) -> list[Completion]:
        """See `protocols.Sampler`."""
        return await self.pool.sample("solver", request)

    async def close(self) -> None:
        """End all actors and give their places back."""
        await self.fleet.close()


def connect_ray() -> str:
    """Join the Ray cluster of RAY_ADDRESS, or one that runs here, or start one; return its address.

    A Ray started here ends with this process. SIGTERM keeps its handler.
    """
    if ray.is_initialized():
        return gcs_address()
    local = os.environ.get("RAY_ADDRESS") == "local"
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.WARNING}
    if local:
        options |= {"include_dashboard": True, "object_store_memory": _OBJECT_STORE_BYTES}
    _check_answers(_address_to_join())
    on_sigterm = signal.getsignal(signal.SIGTERM)
    for name, value in RAY_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        context = ray.init(**options)
    except SystemExit:  # what Ray's own handler of SIGTERM does while it starts
        raise KeyboardInterrupt from None
    except ConnectionError as error:
        raise _no_ray(_address_to_join(), error, _FIX) from None
    finally:  # Ray has put a handler of its own in its place
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, on_sigterm)
    return context.dashboard_url or gcs_address()


def _address_to_join() -> str:
    """Return the address at which Ray will look for a cluster; nothing where it will start one."""
    given = os.environ.get("RAY_ADDRESS", "")
    return (read_ray_address() or "") if given in ("", "auto") else given


def join_ray(address: str) -> None:
    """Join the Ray at an address for a short while. Raises UserError where none answers."""
    _check_answers(address)
    if address.startswith("127."):  # Ray would make another address of the machine of it
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.WARNING)
    except ConnectionError as error:
        fix = "RAY_ADDRESS names the run's cluster, or, as http://HOST:8265, its dashboard"
        raise _no_ray(address, error, fix) from None


def _check_answers(address: str) -> None:
    """Raise UserError where nobody listens at HOST:PORT: Ray itself would try for minutes."""
    found = re.fullmatch(r"\[?([^/]+?)\]?:(\d{1,5})", address)
    if found is None:  # `local`, or an address of another form, which is Ray's to read
        return
    try:
        socket.create_connection((found[1], int(found[2])), timeout=_CONNECT_S).close()
    except (OSError, OverflowError) as error:
        raise _no_ray(address, error, _FIX) from None


def _no_ray(address: str, error: Exception, fix: str) -> UserError:
    return UserError(f"no Ray answers at {address} ({str(error).splitlines()[0]}); {fix}")


def gcs_address() -> str:
    """Return the address by which other processes join the cluster that is joined."""
    return ray.get_runtime_context().gcs_address


def choose_layout(config: Config) -> Layout:
    """Return the layout for the cluster that is joined, or else for this machine.

    Raises UserError when it contradicts another key of the config. Whether the roles fit is for
    `check_machine` to say.
    """
    return resolve_layout(config, resources())


def plan_resources(config: Config, layout: Layout) -> list[str]:
    """Return the needs/has table without starting anything.

    'has' is the cluster when one is joined, else this machine.
    """
    return resource_table(demands(config, layout), resources())


def check_machine(config: Config, layout: Layout, num_clusters: int = 1) -> None:
    """Raise UserError when the roles do not fit: the joined cluster, or else this machine.

    Of `num_clusters` that run side by side each has an equal share.
    """
    share = {name: amount / num_clusters for name, amount in resources().items()}
    check_resources(demands(config, layout), share)


def check_machine_for_sampling(settings: SamplingSettings) -> None:
    """Raise UserError when engines and reward workers do not fit, as `check_machine` does."""
    check_resources(sampling_demands(settings, engines_alone(settings.sampler)), resources())


def check_texts(model: Path, texts: Sequence[PlacedText], max_model_len: int, key: str) -> None:
    """Raise UserError where a text is longer than `max_model_len` allows, in the tokens of the
    folder `model`, or where its tokenizer or chat template cannot be used. Needs no Ray.

    `key` is the name of the limit in the configuration."""
    # Imported here: it imports transformers, which a driver without texts does without.
    from actors.sampling.lengths import check_lengths

    check_lengths(model, texts, max_model_len, key)


def resources() -> Mapping[str, float]:
    """Return what the cluster that is joined has, or else this machine, in Ray's words."""
    return ray.cluster_resources() if ray.is_initialized() else local_resources()


async def start_sampling(settings: SamplingSettings, model: Path, clock: Clock) -> SamplingCluster:
    """Place and start the Solver's engines with the weights of the folder `model`, and the reward
    workers; no learner, so these weights stay, and the engines are on nodes that see them."""
    layout = engines_alone(settings.sampler)
    needed = sampling_demands(settings, layout)
    disk = await _disk([model], None, settings.deadline.start)
    places = await reserve(needed, settings.deadline.placement, disk)
    fleet = Fleet(settings, layout, places, needed)
    async with fleet.ended_on_failure():
        workers, samplers = await within(
            settings.deadline.start,
            "engines and reward workers to start",
            asyncio.gather(
                fleet.start_workers(), fleet.start_samplers({role.name: model for role in ROLES})
            ),
        )
    pool = _pool(fleet, settings, samplers)
    _look_after(fleet, pool, workers, NoTurns(), model, settings)
    return SamplingCluster(
        judge=ClusterJudge(workers, settings.deadline, clock, fleet.watch),
        pool=pool,
        num_engines=len(samplers),
        fleet=fleet,
    )


async def start_cluster(
    config: Config,
    layout: Layout,
    models: Mapping[Role, Path],
    task: Task,
    base_model: Path,
    run_dir: Path | None = None,
) -> Cluster:
    """Place and start every actor.

    `models` are the folders that the engines start from, `base_model` one that is there whatever
    becomes of these. The learner reads them all and writes into `run_dir`: it is on nodes that see
    them. An engine whose node does not see its model starts without weights, and is STALE until
    `ClusterPolicy.hold`.
    """
    needed, settings = demands(config, layout), sampling_settings(config)
    disk = await _disk([*models.values(), base_model], run_dir, config.deadline.start)
    places = await reserve(needed, config.deadline.placement, disk)
    fleet = Fleet(settings, layout, places, needed)
    async with fleet.ended_on_failure():
        make_ranks = partial(fleet.make_ranks, config)
        ranks = await make_ranks(1)
        learner = LearnerGroup(
            ranks, config.deadline, make_ranks, fleet.watch, fleet.reason_to_regroup
        )
        workers, samplers, _ = await within(
            config.deadline.start,
            "all actors to start",
            asyncio.gather(fleet.start_workers(), fleet.start_samplers(models), learner.join()),
        )
        probes: list[NDArray[np.int32]] = await within(
            config.deadline.start,
            f"{samplers[0].name} to render the probe prompts",
            samplers[0].actor.render.remote(_probe_requests(task)),
        )
    pool = _pool(fleet, settings, samplers)
    turns: Turns = NoTurns()
    if layout.takes_turns:
        turns = SharedDevices(pool, learner, config.deadline.sync)
    for rank in learner.ranks:
        fleet.watch.enter(rank)
    renewal = _look_after(
        fleet, pool, workers, turns, base_model, settings, _bucket_bytes(config, layout)
    )
    scaling = Scaling(fleet, pool, renewal, workers, layout, config.sampler.idle_seconds)
    scaling.begin()
    return Cluster(
        learner=learner,
        pool=pool,
        workers=workers,
        turns=turns,
        renewal=renewal,
        probes=probes,
        fleet=fleet,
        scaling=scaling,
    )


async def _disk(models: Sequence[Path], run_dir: Path | None, deadline_s: float) -> Disk | None:
    """Return which nodes see what the driver's disk must show them (`find_disk`); what is of the
    hub each of them fetches by itself."""
    local = [model for model in models if not is_of_hub(model)]
    return await find_disk(local, run_dir, deadline_s)


def _pool(fleet: Fleet, settings: SamplingSettings, samplers: list[PooledSampler]) -> SamplerPool:
    return SamplerPool(
        samplers,
        settings.deadline.sample,
        watch=fleet.watch,
        start_s=settings.deadline.start,
        lends=settings.sampler.lends,
        max_num_seqs=settings.sampler.max_num_seqs,
    )


def _look_after(
    fleet: Fleet,
    pool: SamplerPool,
    workers: Sequence[Member],
    turns: Turns,
    model: Path,
    settings: SamplingSettings,
    bucket_bytes: int = 0,
) -> EngineRenewal:
    """Have engines and reward workers watched, and replaced when they die."""
    renewal = EngineRenewal(
        fleet, pool, turns, model, settings.deadline.sync, settings.model.dtype, bucket_bytes
    )
    for sampler in pool.samplers:
        fleet.watch.enter(sampler.member, renewal.renew)
    for worker in workers:
        fleet.watch.enter(worker, fleet.renew_worker)
    return renewal


def _bucket_bytes(config: Config, layout: Layout) -> int:
    """Return the size of a bucket where engines take weights from the object store at any time."""
    is_possible = layout.weight_backend == "object_store" and not layout.takes_turns
    return config.weights.bucket_mib << 20 if is_possible else 0


def _probe_requests(task: Task) -> list[SampleRequest]:
    """Return requests whose prompts verify weights: both roles' prompts, with real questions."""
    questions = [problem.question for problem in task.heldout()[-_NUM_PROBE_QUESTIONS:]]
    questions = questions or ["What is the sum of the first hundred positive integers?"]
    chats = [task.challenger_messages(), *(task.solver_messages(q) for q in questions)]
    sampling = Sampling(temperature=0.0, top_p=1.0, top_k=-1, max_tokens=1)
    return [
        SampleRequest(messages=chat, num_samples=1, seed=0, sampling=sampling) for chat in chats
    ]
