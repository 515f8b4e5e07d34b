"""Which resources the roles need, whether the cluster has them, and their reservation.

Ray leaves an actor that does not fit pending for ever. Here the demand is compared with the
cluster first, and what is missing is shown as a table within seconds.
"""

from __future__ import annotations

import asyncio
import math
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
import ray
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from actors.waiting import DeadlineError, within
from rzero_ray.config.cluster import RewardConfig, SamplerConfig, SamplingSettings
from rzero_ray.config.config import Config
from rzero_ray.config.layout import Layout
from rzero_ray.method.selection import most_clustered
from rzero_ray.types import Role, UserError

_LEARNER = "learner"
"""The group of all ranks that have places of their own, whose names begin so."""
MEMORY_PER_CPU_ENGINE = int(1.5 * 2**30)
"""Bytes that a vLLM engine on a CPU takes beside its KV cache, measured: two processes, each with
torch and vLLM loaded."""
MEMORY_OF_ONE_PROCESS = 2**30
"""The same where both are one process."""
MEMORY_PER_WORKER = 2**30
"""The same of each further worker of an engine that is cut into parts, measured: 865 MB."""
MEMORY_PER_RANK = 2**30
"""Bytes of a learner rank beside its model, measured on a CPU with a model of 1 MB: 800 MB."""
MEMORY_PER_REWARD_WORKER = 2**28
"""Bytes of a reward worker and its child that compares formulas, measured: 92 and 57 MB."""
MEMORY_PER_CLUSTERED_QUESTION = 2**14
"""Bytes that a reward worker takes for each question of a batch that it clusters, measured: 13 KiB
of 16,000 questions that differ. A batch of near copies takes 16 bytes a pair of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """What one actor needs."""

    actor: str
    """Its name, as in the dashboard."""
    cpus: float
    gpus: float
    memory: int
    """Bytes; 0 where it is not known beforehand."""
    place: str
    """Actors with the same place share one bundle: one node and, where they have parts of a GPU,
    that GPU."""


def demands(config: Config, layout: Layout) -> list[Demand]:
    """Return one entry per actor of a run, in the order in which they are placed."""
    told = int(config.learner.memory_gib_per_rank * 2**30)
    rank_memory = told or MEMORY_PER_RANK + layout.rank_bytes
    ranks = [
        Demand(
            actor=f"learner/rank-{k}",
            cpus=config.learner.cpus_per_rank,
            gpus=layout.gpus_per_rank,
            memory=rank_memory,
            place=_place(layout, f"learner/rank-{k}"),
        )
        for k in range(layout.num_ranks)
    ]
    workers = _reward_demands(config.reward, most_clustered(config.challenger, config.curriculum))
    return [*_engine_demands(config.sampler, layout), *ranks, *workers]


def sampling_demands(settings: SamplingSettings, layout: Layout) -> list[Demand]:
    """Return one entry per actor of an evaluation: engines and reward workers, no learner."""
    return [*_engine_demands(settings.sampler, layout), *_reward_demands(settings.reward, 0)]


def engine_demand(sampler: SamplerConfig, layout: Layout, name: str) -> Demand:
    """Return what the engine of this name needs."""
    return Demand(
        actor=name,
        cpus=sampler.cpus_per_engine,
        gpus=layout.gpus_per_engine,
        memory=_engine_memory(sampler, layout),
        place=_place(layout, name),
    )


def sampler_names(layout: Layout) -> list[tuple[Role, str]]:
    """Return the role and the name of each sampler."""
    return [
        (role, f"{role}/sampler-{k}") for role, n in layout.num_engines.items() for k in range(n)
    ]


def runs_in_sampler(sampler: SamplerConfig, gpus: float) -> bool:
    """Return whether an engine on so many GPUs runs in its sampler's process (`vllm_thread`).

    A process of its own pays where it has a core of its own: then the sampler packs and sends
    answers while vLLM works. On a GPU it does not hold up the device meanwhile. An engine that is
    cut into parts has processes of its own anyway.
    """
    return gpus == 0 and sampler.cpus_per_engine < 2 and sampler.tensor_parallel == 1


def bundles(needed: Sequence[Demand]) -> dict[str, dict[str, float]]:
    """Return, by place, what is reserved there, in Ray's form.

    Parts of a GPU that lie in one place are of one GPU, which is reserved whole: a reservation of
    a part would let another job's actors onto it, and the roles' actors are on it all the same.
    """
    found: dict[str, dict[str, float]] = {}
    for place in dict.fromkeys(demand.place for demand in needed):
        here = [demand for demand in needed if demand.place == place]
        gpus = sum(demand.gpus for demand in here)
        resources = {
            "CPU": sum(demand.cpus for demand in here),
            "GPU": gpus if len(here) == 1 else float(math.ceil(gpus)),
            "memory": float(sum(demand.memory for demand in here)),
        }
        found[place] = {name: amount for name, amount in resources.items() if amount}
    return found


def _place(layout: Layout, actor: str) -> str:
    """Return the place of an engine or a rank: its own, or that of all with its number."""
    return f"device-{actor.rpartition('-')[2]}" if layout.takes_turns else actor


def _engine_demands(sampler: SamplerConfig, layout: Layout) -> list[Demand]:
    return [engine_demand(sampler, layout, name) for _, name in sampler_names(layout)]


def _engine_memory(sampler: SamplerConfig, layout: Layout) -> int:
    """Return the bytes of its node that an engine takes; 0 of one on a GPU, which is not known."""
    if sampler.gpus_per_engine > 0:
        return 0
    one = runs_in_sampler(sampler, layout.gpus_per_engine)
    processes = MEMORY_OF_ONE_PROCESS if one else MEMORY_PER_CPU_ENGINE
    processes += (sampler.tensor_parallel - 1) * MEMORY_PER_WORKER
    return processes + sampler.tensor_parallel * int(sampler.kv_cache_gib * 2**30)


def _reward_demands(reward: RewardConfig, num_clustered: int) -> list[Demand]:
    memory = MEMORY_PER_REWARD_WORKER + num_clustered * MEMORY_PER_CLUSTERED_QUESTION
    return [
        Demand(actor=name, cpus=reward.cpus_per_worker, gpus=0.0, memory=memory, place=name)
        for name in (f"reward/worker-{k}" for k in range(reward.num_workers))
    ]


def local_resources() -> dict[str, float]:
    """Return what this machine would offer a Ray started on it."""
    return {
        "CPU": float(len(os.sched_getaffinity(0))),
        "GPU": float(_num_local_gpus()),
        # Ray keeps about a third of the memory for the object store.
        "memory": 0.7 * psutil.virtual_memory().available,
    }


def _num_local_gpus() -> int:
    """Count GPUs by their device files, without loading torch."""
    return len([path for path in Path("/dev").glob("nvidia[0-9]*") if path.name[6:].isdigit()])


def resource_table(needed: list[Demand], has: Mapping[str, float]) -> list[str]:
    """Return the lines of a needs/has table, by role and in all."""
    roles = Counter(demand.actor.split("-")[0] for demand in needed)
    lines = [f"{'':24}{'CPU':>8}{'GPU':>8}{'memory':>12}"]
    for role, count in roles.items():
        members = [d for d in needed if d.actor.split("-")[0] == role]
        lines.append(_table_line(f"{count} x {role}", _total(members)))
    lines.append(_table_line("needs", _total(needed)))
    lines.append(_table_line("has", has))
    return lines


def check_resources(needed: list[Demand], has: Mapping[str, float]) -> None:
    """Raise UserError with the needs/has table when the cluster is too small in total."""
    missing = [
        name for name, amount in _total(needed).items() if amount > has.get(name, 0.0) * (1 + 1e-9)
    ]
    if missing:
        raise UserError(
            f"not enough {' and '.join(missing)} for the actors of this config; lower "
            "sampler.num_solver, sampler.num_challenger or learner.num_ranks, or their "
            "cpus_per_*, gpus_per_* and learner.memory_gib_per_rank:\n"
            + "\n".join(resource_table(needed, has))
        )


class Places:
    """What is reserved for a run: a placement group for each engine, GPU or worker, so that one can
    be given back or found anew by itself, and one for all ranks of a learner, which stay near each
    other.

    A group whose node has died looks for another node by itself, and is demand that Ray's
    autoscaler sees.
    """

    def __init__(self, needed: Sequence[Demand]) -> None:
        """Ask for the places of all these actors."""
        self._groups: dict[str, PlacementGroup] = {}
        self._where: dict[str, tuple[str, int]] = {}
        """By place: the group that it is in, and the number of its bundle there."""
        self._bundles: dict[str, list[dict[str, float]]] = {}
        for place, bundle in bundles(needed).items():
            group = _LEARNER if place.startswith(_LEARNER) else place
            here = self._bundles.setdefault(group, [])
            self._where[place] = group, len(here)
            here.append(bundle)
        self.num_ranks = len(self._bundles.get(_LEARNER, ()))
        """How many ranks the learner's own group has places for; 0 where ranks share places."""
        # The largest first, before small ones have taken what only a whole node has.
        largest = sorted(self._bundles.items(), key=lambda item: _size(item[1]), reverse=True)
        for group, wanted in largest:
            self._groups[group] = placement_group(wanted, strategy="PACK")

    def strategy(self, place: str) -> PlacementGroupSchedulingStrategy:
        """Return what puts an actor into its place."""
        group, index = self._where[place]
        return PlacementGroupSchedulingStrategy(
            placement_group=self._groups[group], placement_group_bundle_index=index
        )

    async def ready(self, place: str) -> None:
        """Wait until a place is there."""
        await self._groups[self._where[place][0]].ready()

    async def all_ready(self) -> None:
        """Wait until all places are there."""
        await asyncio.gather(*(group.ready() for group in self._groups.values()))

    def ask(self, demand: Demand) -> None:
        """Ask for a place for one actor more. Until a node has room it is demand that Ray's
        autoscaler sees."""
        (bundle,) = bundles([demand]).values()
        self._bundles[demand.place] = [bundle]
        self._where[demand.place] = demand.place, 0
        self._groups[demand.place] = placement_group([bundle], strategy="PACK")

    def ask_again(self, place: str) -> None:
        """Give up the place of an actor, which ends with it, and ask for another one like it."""
        self.give_back(place)
        self._groups[place] = placement_group(self._bundles[place], strategy="PACK")

    def resize_learner(self, num_ranks: int) -> None:
        """Ask for the places of so many ranks, in place of those that the learner had."""
        self.give_back(_LEARNER)
        wanted = self._bundles[_LEARNER][:num_ranks]
        self._groups[_LEARNER] = placement_group(wanted, strategy="PACK")
        self.num_ranks = num_ranks

    def has_room_for_ranks(self, number: int) -> bool:
        """Return whether the cluster has as much free as so many ranks take, wherever it lies."""
        bundle, free = self._bundles[_LEARNER][0], ray.available_resources()
        return all(free.get(name, 0.0) >= number * amount for name, amount in bundle.items())

    def give_back(self, group: str) -> None:
        """Give up a group, whoever is in it; one that is pending asks for nothing any more."""
        remove_placement_group(self._groups.pop(group))

    def close(self) -> None:
        """Give up all places, and whoever is in them."""
        for group in list(self._groups):
            self.give_back(group)


async def reserve(needed: list[Demand], deadline_s: float) -> Places:
    """Reserve a place for each actor, or raise UserError with the table after `deadline_s`."""
    check_resources(needed, ray.cluster_resources())
    places = Places(needed)
    try:
        await within(deadline_s, "the placement of all actors", places.all_ready())
    except asyncio.CancelledError:
        places.close()
        raise
    except DeadlineError:
        places.close()
        table = "\n".join(resource_table(needed, ray.available_resources()))
        raise UserError(
            f"the actors of this config found no place in {deadline_s:.0f} s; other jobs hold the "
            f"resources, or no single node has room for one actor ('has' is what is free):\n{table}"
        ) from None
    return places


def _size(wanted: Sequence[Mapping[str, float]]) -> tuple[float, float]:
    """Return the GPUs and CPUs of a group."""
    gpus, cpus = (sum(bundle.get(name, 0.0) for bundle in wanted) for name in ("GPU", "CPU"))
    return gpus, cpus


def _total(needed: Sequence[Demand]) -> dict[str, float]:
    reserved = bundles(needed).values()
    return {
        name: sum(bundle.get(name, 0.0) for bundle in reserved) for name in ("CPU", "GPU", "memory")
    }


def _table_line(label: str, amounts: Mapping[str, float]) -> str:
    memory = f"{amounts.get('memory', 0.0) / 2**30:.1f} GiB"
    return f"{label:24}{amounts.get('CPU', 0.0):8g}{amounts.get('GPU', 0.0):8g}{memory:>12}"
