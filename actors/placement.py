"""Which resources the roles need, whether the cluster has them, and their reservation.

Ray leaves an actor that does not fit pending for ever. Here the demand is compared with the
cluster first, and what is missing is shown as a table within seconds.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
import ray
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from actors.nodes import Disk, Node, living_nodes
from actors.waiting import DeadlineError, within
from rzero_ray.config.cluster import RewardConfig, SamplerConfig, SamplingSettings
from rzero_ray.config.config import Config
from rzero_ray.config.layout import Layout
from rzero_ray.method.selection import most_clustered
from rzero_ray.types import Role, UserError

logger = logging.getLogger(__name__)

_LEARNER = "learner"
"""The group of all ranks that have places of their own, whose names begin so."""
_NODE_LABEL = "ray.io/node-id"
"""The label by which Ray knows a node."""
_TOGETHER_S = 15.0
"""How long a node is looked for that has room for all ranks; Ray takes milliseconds, and seconds
on a busy machine to take back what others have given up."""
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
    needs_disk: bool = False
    """Whether it reads or writes folders of the driver's."""


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
            needs_disk=True,
        )
        for k in range(layout.num_ranks)
    ]
    workers = _reward_demands(config.reward, most_clustered(config.challenger, config.curriculum))
    return [*_engine_demands(config.sampler, layout), *ranks, *workers]


def sampling_demands(settings: SamplingSettings, layout: Layout) -> list[Demand]:
    """Return one entry per actor of an evaluation: engines, which no learner gives their weights,
    and reward workers."""
    engines = [replace(d, needs_disk=True) for d in _engine_demands(settings.sampler, layout)]
    return [*engines, *_reward_demands(settings.reward, 0)]


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

    def __init__(self, needed: Sequence[Demand], disk: Disk | None = None) -> None:
        """Ask for the places of all these actors. Those that need the driver's disk get them on
        nodes of `disk`, without which all nodes see it."""
        self._groups: dict[str, PlacementGroup] = {}
        self._together: set[str] = set()
        """The groups that are to be on one node."""
        self._disk = disk
        self._on_disk = {demand.place for demand in needed if demand.needs_disk}
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
        # First those that cannot be anywhere. Of the others the largest, before small ones have
        # taken what only a whole node has.
        for group in sorted(
            self._bundles,
            key=lambda group: (self._is_bound(group), _size(self._bundles[group])),
            reverse=True,
        ):
            self._ask(group)

    def strategy(self, place: str) -> PlacementGroupSchedulingStrategy:
        """Return what puts an actor into its place."""
        group, index = self._where[place]
        return PlacementGroupSchedulingStrategy(
            placement_group=self._groups[group], placement_group_bundle_index=index
        )

    async def ready(self, place: str) -> None:
        """Wait until a place is there."""
        await self._group_ready(self._where[place][0])

    async def all_ready(self) -> None:
        """Wait until all places are there."""
        await asyncio.gather(*(self._group_ready(group) for group in list(self._groups)))

    def ask(self, demand: Demand) -> None:
        """Ask for a place for one actor more. Until a node has room it is demand that Ray's
        autoscaler sees."""
        (bundle,) = bundles([demand]).values()
        self._bundles[demand.place] = [bundle]
        self._where[demand.place] = demand.place, 0
        self._ask(demand.place)

    def ask_again(self, place: str) -> None:
        """Give up the place of an actor, which ends with it, and ask for another one like it."""
        self.give_back(place)
        self._ask(place)

    def resize_learner(self, num_ranks: int) -> None:
        """Ask for the places of so many ranks, in place of those that the learner had."""
        self.give_back(_LEARNER)
        self.num_ranks = num_ranks
        self._ask(_LEARNER)

    def has_room_for_ranks(self, number: int) -> bool:
        """Return whether the cluster has as much free as so many ranks take, wherever it lies."""
        bundle, free = self._bundles[_LEARNER][0], ray.available_resources()
        total: Counter[str] = Counter()
        for node in self._nodes(_LEARNER):
            total.update(node.resources)
        # Of nodes to which it is bound Ray does not say what they have free.
        return _fits([bundle] * (self.num_ranks + number), total) and _fits([bundle] * number, free)

    def give_back(self, group: str) -> None:
        """Give up a group, whoever is in it; one that is pending asks for nothing any more."""
        remove_placement_group(self._groups.pop(group))

    def _ask(self, group: str) -> None:
        """Ask for a group: ranks on one node where one is large enough, and told where none is."""
        wanted = self._wanted(group)
        if len(wanted) > 1 and any(_fits(wanted, node.resources) for node in self._nodes(group)):
            self._together.add(group)
            self._place(group, "STRICT_PACK")
        else:
            self._spread(group)

    def _spread(self, group: str) -> None:
        self._together.discard(group)
        if len(self._wanted(group)) > 1:
            logger.warning(
                "no node has room for all %d learner ranks; they are spread over several nodes, "
                "and the network limits their updates",
                self.num_ranks,
            )
        self._place(group, "PACK")

    def _place(self, group: str, strategy: str) -> None:
        wanted, selector = self._wanted(group), {}
        if self._disk is not None and self._is_bound(group):
            selector = {_NODE_LABEL: f"in({','.join(node.id for node in self._disk.nodes)})"}
        self._groups[group] = placement_group(
            wanted, strategy=strategy, bundle_label_selector=[selector] * len(wanted)
        )

    async def _group_ready(self, group: str) -> None:
        """Wait until a group is there; one that no node has room for at present is spread."""
        if group in self._together and len(self._nodes(group)) > 1:
            try:
                return await asyncio.wait_for(_ready(self._groups[group]), _TOGETHER_S)
            except TimeoutError:
                self.give_back(group)
                self._spread(group)
        await self._groups[group].ready()

    def _wanted(self, group: str) -> list[dict[str, float]]:
        """Return the bundles of a group."""
        wanted = self._bundles[group]
        return wanted[: self.num_ranks] if group == _LEARNER else wanted

    def _is_bound(self, group: str) -> bool:
        """Return whether a group must be where the disk is seen."""
        return self._disk is not None and any(
            self._where[place][0] == group for place in self._on_disk
        )

    def _nodes(self, group: str) -> Sequence[Node]:
        """Return the living nodes on which a group may be."""
        living = living_nodes()
        if self._disk is None or not self._is_bound(group):
            return living
        seeing = {node.id for node in self._disk.nodes}
        return [node for node in living if node.id in seeing]

    def close(self) -> None:
        """Give up all places, and whoever is in them."""
        for group in list(self._groups):
            self.give_back(group)


async def reserve(needed: list[Demand], deadline_s: float, disk: Disk | None = None) -> Places:
    """Reserve a place for each actor, or raise UserError with the table after `deadline_s`.

    Raises UserError at once where the nodes of `disk` have no room for those that need it.
    """
    check_resources(needed, ray.cluster_resources())
    if disk is not None:
        check_room(needed, disk)
    places = Places(needed, disk)
    try:
        await within(deadline_s, "the placement of all actors", places.all_ready())
    except asyncio.CancelledError:
        places.close()
        raise
    except DeadlineError:
        places.close()
        table = "\n".join(resource_table(needed, ray.available_resources()))
        bound = "" if disk is None else f"; some need {disk}"
        raise UserError(
            f"the actors of this config found no place in {deadline_s:.0f} s; other jobs hold the "
            "resources, or no single node has room for one actor ('has' is what is "
            f"free){bound}:\n{table}"
        ) from None
    return places


def check_room(needed: Sequence[Demand], disk: Disk) -> None:
    """Raise UserError where the nodes of `disk` are too small for the places of actors that need
    it."""
    bound = [demand for demand in needed if demand.needs_disk]
    there = {demand.place for demand in bound}
    wanted = {place: what for place, what in bundles(needed).items() if place in there}
    has: Counter[str] = Counter()
    for node in disk.nodes:
        has.update(node.resources)
    for demand in bound:
        bundle = wanted[demand.place]
        if not any(_fits([bundle], node.resources) for node in disk.nodes):
            raise _no_room(demand.actor, bundle, disk)
    total: Counter[str] = Counter()
    for bundle in wanted.values():
        total.update(bundle)
    if not _fits([total], has):
        raise _no_room(f"{bound[0].actor} to {bound[-1].actor}", total, disk)


def _no_room(actors: str, wanted: Mapping[str, float], disk: Disk) -> UserError:
    amounts = [f"{wanted.get(name, 0.0):g} {name}" for name in ("CPU", "GPU") if wanted.get(name)]
    memory = f"{wanted.get('memory', 0.0) / 2**30:.1f} GiB"
    return UserError(
        f"{actors} need{'' if ' ' in actors else 's'} {disk}, without room for "
        f"{', '.join([*amounts, memory])}; share that folder with nodes that have room, or start "
        "the command on one (storage_path takes a run along)"
    )


def _fits(wanted: Sequence[Mapping[str, float]], has: Mapping[str, float]) -> bool:
    """Return whether bundles fit into what there is."""
    total: Counter[str] = Counter()
    for bundle in wanted:
        total.update(bundle)
    return all(amount <= has.get(name, 0.0) * (1 + 1e-9) for name, amount in total.items())


async def _ready(group: PlacementGroup) -> None:
    await group.ready()


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
