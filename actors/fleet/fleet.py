"""The actors of a run: started, watched, replaced when they die, and ended."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from actors.fleet.life import Vitals, Whereabouts
from actors.fleet.making import Maker
from actors.fleet.member import Member, State
from actors.fleet.watch import Watch, kill
from actors.fleet.work import Work
from actors.nodes import draining_nodes
from actors.placement import Demand, Places, engine_demand, sampler_names
from actors.sampling.pool import PooledSampler
from actors.waiting import DeadlineError, within
from rzero_ray.config.cluster import SamplingSettings
from rzero_ray.config.config import Config
from rzero_ray.config.layout import Layout
from rzero_ray.types import Role

logger = logging.getLogger(__name__)

_SHUTDOWN_S = 6.0
"""How long engines may take to end in order; whoever stopped the run waits for it."""
_ANSWER_S = 10.0
"""How long an actor may take to say what it is doing."""
_LONGEST_SILENCE_S = 3600.0
"""Between two lines about an actor that waits for a place."""
_SHORT = 0.08
"""Share of a node's memory below which it is short: with 5 % left Ray begins to end actors."""


class Fleet:
    """Has every actor of a run made, and knows them all."""

    def __init__(
        self, settings: SamplingSettings, layout: Layout, places: Places, needed: Sequence[Demand]
    ) -> None:
        """`places` are those of `needed` (`actors.placement.reserve`)."""
        self._settings = settings
        self._layout = layout
        self._places = places
        self.maker = Maker(settings, layout, places, needed)
        self.watch = Watch(settings.recovery)
        self._members: dict[str, Member] = {}
        self._samplers: dict[str, Member] = {}
        """Those that have an engine to end."""

    async def start_samplers(self, models: Mapping[Role, Path]) -> list[PooledSampler]:
        """Start a sampler per demand for one, with its role's model; the caller holds the deadline.

        One after the other in each place: a starting engine measures how much of its GPU it fills,
        and would take another's growth for its own.
        """
        by_place: dict[str, list[tuple[Role, str]]] = {}
        for role, name in sampler_names(self._layout):
            by_place.setdefault(self.maker.place_of(name), []).append((role, name))
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
            member = self._keep(Member(name, self.maker.sampler(name, model, life=1)))
            self._samplers[name] = member
            where = await start(member)
            # One without weights gets them from the learner before anything samples (`hold`).
            member.state = State.HEALTHY if where.has_weights else State.STALE
            held = model if where.has_weights else None
            samplers.append(PooledSampler(member, home=role, role=role, model=held))
        return samplers

    async def start_workers(self) -> list[Member]:
        """Start the reward workers; the caller holds the deadline."""
        names = [f"reward/worker-{k}" for k in range(self._settings.reward.num_workers)]
        workers = [self._keep(Member(n, self.maker.reward_worker(n, life=1))) for n in names]
        await asyncio.gather(*(start(worker) for worker in workers))
        return workers

    async def make_ranks(self, config: Config, attempt: int) -> list[Member]:
        """Make the ranks of a learner in place of those of the attempt before, if there was one.

        Where there is no place for all of them any more, there are as many as a power of two has
        places for. Raises DeadlineError where there is none for one.
        """
        num_ranks = await self._placed_ranks()
        names = [f"learner/rank-{k}" for k in range(num_ranks)]
        return [
            self._keep(
                Member(name, self.maker.learner(k, num_ranks, config, attempt), life=attempt)
            )
            for k, name in enumerate(names)
        ]

    async def _placed_ranks(self) -> int:
        """Return how many ranks have places, within `deadline.placement` for each number tried."""
        num_ranks = self._layout.num_ranks
        while True:
            if self._places.num_ranks not in (0, num_ranks):
                self._places.resize_learner(num_ranks)
            first = self._places.ready(self.maker.place_of("learner/rank-0"))
            what = f"places for {num_ranks} learner ranks"
            try:
                await within(self._settings.deadline.placement, what, first)
            except DeadlineError:
                if num_ranks == 1 or not self._places.num_ranks:
                    raise
                num_ranks = 1 << ((num_ranks - 1).bit_length() - 1)
                logger.warning("no places for all learner ranks; trying %d", num_ranks)
            else:
                return num_ranks

    async def reason_to_regroup(self, ranks: Sequence[Member]) -> str:
        """Return why a learner should be made anew before its next phase, and ask for the places of
        all ranks: a node of theirs drains, or there is room for those that had none. Empty where
        its ranks are well where they are."""
        if not self._places.num_ranks:  # they share the places of engines
            return ""
        try:
            draining = await draining_nodes()
        except DeadlineError as error:
            logger.warning("%s; the learner stays where it is", error)
            return ""
        leaving = [rank for rank in ranks if rank.node_id in draining]
        wanted = self._layout.num_ranks
        if leaving:
            reason = f"the node {leaving[0].node} of {leaving[0].name} drains"
        elif len(ranks) < wanted and self._places.has_room_for_ranks(wanted - len(ranks)):
            reason = f"there is room for {wanted} ranks"
        else:
            return ""
        self._places.resize_learner(wanted)
        return reason

    async def renew_worker(self, worker: Member) -> None:
        """Put a new reward worker into the place of one that has died (`watch.Renew`)."""
        await self.placed(worker)
        worker.life += 1
        worker.actor = self.maker.reward_worker(worker.name, worker.life)
        await within(self._settings.deadline.start, f"a new {worker.name} to start", start(worker))
        self.watch.set(worker, State.HEALTHY, "a new actor")

    async def renew_engine(self, sampler: Member, model: Path) -> bool:
        """Put a new sampler into its place, which is STALE then. Returns whether it holds the
        weights in the folder `model`: its node may not see that."""
        sampler.life += 1
        sampler.actor = self.maker.sampler(sampler.name, model, sampler.life)
        started = start(sampler)
        deadline_s = self._settings.deadline.start
        where = await within(deadline_s, f"a new {sampler.name} to start", started)
        self.watch.set(sampler, State.STALE, "a new engine")
        return where.has_weights

    def expect_engine(self, name: str, life: int) -> Member:
        """Ask for a place for one engine more; `life` counts those of this name that have left.

        The member is made by `renew_engine`, like one that takes another's place.
        """
        demand = engine_demand(self._settings.sampler, self._layout, name)
        self.maker.expect(demand)
        self._places.ask(demand)
        member = self._keep(Member(name, None, State.JOINING, life))
        self._samplers[name] = member
        return member

    async def stop_engine(self, sampler: Member) -> None:
        """Have an engine end in order, if it lives."""
        if sampler.is_up:
            await asyncio.wait([asyncio.create_task(_stop(sampler))], timeout=_SHUTDOWN_S)

    def give_up(self, sampler: Member) -> None:
        """Forget an engine that has ended, or never began, and give its place back."""
        self._places.give_back(self.maker.place_of(sampler.name))
        del self._members[sampler.name], self._samplers[sampler.name]

    async def move_worker(self, worker: Member, reason: str) -> None:
        """Have a reward worker replaced by one in another place."""
        self._places.ask_again(self.maker.place_of(worker.name))
        self.watch.move(worker, reason)

    async def placed(self, member: Member) -> None:
        """Wait until there is a place for a member: its node may have died. That has no deadline of
        its own, for the others go on; whoever cannot do without the member has one. It is told
        more and more seldom: an engine more than a cluster has room for may wait for hours."""
        place, waited_s = self.maker.place_of(member.name), 0.0
        patience_s = self._settings.deadline.placement
        while True:
            try:
                return await asyncio.wait_for(self._places.ready(place), patience_s)
            except TimeoutError:
                waited_s += patience_s
                patience_s = min(2 * patience_s, _LONGEST_SILENCE_S)
                logger.warning(
                    "%s has waited %.0f s for a place: no node has room for it",
                    member.name,
                    waited_s,
                )

    async def stacks(self) -> dict[str, str]:
        """Return what each actor is doing, by its name."""
        states = {name: member.state for name, member in self._members.items()}
        found = await self._ask_all(lambda actor: actor.stacks.remote())
        return {
            name: f"{states.get(name, 'it has just come')}, no answer" if stack is None else stack
            for name, stack in found.items()
        }

    async def shortages(self) -> list[tuple[str, str]]:
        """Return what is short on a node: what, and a line that tells how much there is left."""
        found = await self._ask_all(lambda actor: actor.vitals.remote())
        nodes: dict[str, Vitals] = {v.node: v for v in found.values() if v is not None}
        return [
            (f"{what} of {node}", f"node {node} has {left:.1%} of its {what} left")
            for node, vitals in nodes.items()
            for what, left in (("memory", vitals.memory), ("/dev/shm", vitals.shared_memory))
            if left < _SHORT
        ]

    async def _ask_all(self, question: Callable[[Any], Any]) -> dict[str, Any]:
        """Return each actor's answer by its name; None of one that gives none in time."""

        async def ask(member: Member) -> Any:
            with suppress(Exception):  # it is dead, or hangs: that is `watch`'s to find out
                return await asyncio.wait_for(_answer(question(member.actor)), _ANSWER_S)

        members = list(self._members.values())
        answers = await asyncio.gather(*(ask(member) for member in members))
        return {member.name: answer for member, answer in zip(members, answers, strict=True)}

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
        self.watch.close()
        stops = [asyncio.create_task(_stop(sampler)) for sampler in self._samplers.values()]
        if stops:
            await asyncio.wait(stops, timeout=_SHUTDOWN_S)
        for member in self._members.values():
            kill(member)
        self._places.close()

    def works(self) -> list[Work]:
        """Return what each actor is at."""
        return [member.work for member in self._members.values()]

    def _keep(self, member: Member) -> Member:
        before = self._members.get(member.name)
        if before is not None:
            member.work = before.work  # its calls may still be failing
        self._members[member.name] = member
        return member


async def start(member: Member) -> Whereabouts:
    """Wait until a member has started, and note where it runs."""
    actor: Any = member.actor
    where: Whereabouts = await actor.start.remote()
    member.found_at(where)
    return where


async def _stop(sampler: Member) -> None:
    """Have an engine end in order. One that has died, or cannot, is ended without."""
    actor: Any = sampler.actor
    try:
        await actor.stop.remote()
    except Exception as error:
        logger.info("%s did not end in order: %s", sampler.name, error)


async def _answer(reference: Any) -> Any:
    return await reference
