"""Engines come and go while a run goes on.

Each role has between `least` and `most` engines. It starts with `least` and wants `most` while
more requests wait than it has engines; one that was asked nothing for `idle_s` is given back. An
engine that is wanted asks for a place of its own, a placement group: until a node has room for it,
that is the demand that Ray's autoscaler sees. On a node that drains, engines finish what they have
and others take their places elsewhere.

Nobody waits for an engine that comes or goes: it is given requests once it holds its role's weights
(`renewal`), and it goes once it has answered those that it has.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from actors.fleet.fleet import Fleet
from actors.fleet.member import Member, State
from actors.nodes import draining_nodes, living_nodes
from actors.sampling.pool import PooledSampler, SamplerPool
from actors.sampling.renewal import EngineRenewal
from rzero_ray.config.layout import Layout
from rzero_ray.config.rules import MOST_ACTORS
from rzero_ray.types import Role, ScaleChange, ScaleRequest, UserError

logger = logging.getLogger(__name__)

_PERIOD_S = 1.0
"""Time between two looks at who has too many engines, and who too few."""
_LOOK_S = 0.1


@dataclass(slots=True)
class Wanted:
    """How many engines a role is to have."""

    least: int
    most: int
    busy_at: float = -math.inf
    """When its engines had more requests than they are, for the last time (monotonic seconds)."""


class Scaling:
    """Has engines of a role join and leave; see the module."""

    def __init__(
        self,
        fleet: Fleet,
        pool: SamplerPool,
        renewal: EngineRenewal,
        workers: Sequence[Member],
        layout: Layout,
        idle_s: float,
    ) -> None:
        """`workers` are the reward workers, which leave nodes that drain, too."""
        self._fleet = fleet
        self._pool = pool
        self._renewal = renewal
        self._workers = workers
        self._layout = layout
        self._idle_s = idle_s
        self._wanted: dict[Role, Wanted] = {
            role: Wanted(least, layout.most_engines.get(role, least))
            for role, least in layout.num_engines.items()
        }
        self._lives: dict[str, int] = {}
        """By name: how many actors there were of an engine that has left."""
        self._going: dict[str, asyncio.Task[None]] = {}
        """By name: who sees to the end of an engine that is not wanted any more."""
        self._on_scale: Callable[[ScaleChange], None] = lambda change: None
        self._task: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """Begin to look after how many engines there are, where they may come and go."""
        if self._layout.is_elastic and self._task is None:
            self._task = asyncio.create_task(self._look_after())

    def tell(self, on_scale: Callable[[ScaleChange], None]) -> None:
        """Tell `on_scale` of each change of what is wanted, from now on."""
        self._on_scale = on_scale

    async def close(self) -> None:
        """Have nobody join or leave any more."""
        tasks = [*self._going.values(), *([self._task] if self._task else [])]
        tasks = [task for task in tasks if not task.done()]  # with its event loop, for one
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def scale(self, request: ScaleRequest) -> ScaleChange:
        """Want another number of engines of a role from now on.

        Raises UserError where the role has none of its own, or none may come and go.
        """
        if not self._layout.is_elastic:
            raise UserError(
                f"this run's roles share their devices ({self._layout.describe()}): the number of "
                "its engines is fixed; layout=disaggregated has engines that come and go"
            )
        role, least, most = request.role, request.least, request.most
        if role not in self._wanted:
            raise UserError(
                f"{role} has no engines of its own in this run; it has those of "
                f"{', '.join(self._wanted)}"
            )
        if not 1 <= least <= most <= MOST_ACTORS:
            raise UserError(
                f"{role}={least}..{most} must be a number from 1 to {MOST_ACTORS:,}, or two of "
                "them in order"
            )
        self._wanted[role] = Wanted(least, most, self._wanted[role].busy_at)
        return self._tell(role, "rzero scale")

    async def _look_after(self) -> None:
        while True:
            await asyncio.sleep(_PERIOD_S)
            try:
                draining = await draining_nodes()
                for role in self._wanted:
                    self._leave_nodes(role, draining)
                    self._adjust(role)
                await self._move_workers(draining)
            except Exception:  # the run goes on with the engines that it has
                logger.exception("engines could not be looked after")

    def _leave_nodes(self, role: Role, draining: set[str]) -> None:
        for sampler in self._present(role):
            if sampler.member.node_id in draining and sampler.member.is_up:
                self._leave(sampler, f"its node {sampler.member.node} drains")

    async def _move_workers(self, draining: set[str]) -> None:
        if not draining or not {node.id for node in living_nodes()} - draining:
            return  # there is nowhere else
        for worker in self._workers:
            if worker.node_id in draining and worker.state is State.HEALTHY:
                await self._fleet.move_worker(worker, f"its node {worker.node} drains")

    def _adjust(self, role: Role) -> None:
        """Have one engine join or leave for each that a role has too few or too many."""
        wanted, present, now = self._wanted[role], self._present(role), time.monotonic()
        num_up = sum(sampler.member.is_up for sampler in present)
        if self._pool.num_waiting[role] > num_up:
            wanted.busy_at = now
        if now - wanted.busy_at < self._idle_s:
            target = wanted.most
        else:
            target = max(wanted.least, min(wanted.most, num_up))
        for _ in range(target - len(present)):
            self._join(role)
        for sampler in self._least_needed(present)[: max(0, len(present) - target)]:
            self._leave(sampler, f"no more than {target} are wanted")
        present = self._least_needed(self._present(role))
        idle = [self._is_idle(sampler, now) for sampler in present]  # a look notes who is busy
        # Those that came last may go, however little later they fell idle than the others: they
        # are on the nodes that an autoscaler has brought for them.
        for sampler, is_idle in zip(present[: -wanted.least], idle, strict=False):
            if is_idle:
                self._leave(sampler, f"it was asked nothing for {self._idle_s:g} s")

    def _is_idle(self, sampler: PooledSampler, now: float) -> bool:
        """Return whether nobody has asked an engine in its own role for too long."""
        # What waits for its place, or for its weights, may be asked once it has them.
        may_be_asked = sampler.member.state is State.HEALTHY and sampler.role == sampler.home
        if sampler.outstanding_tokens or not may_be_asked:
            sampler.last_used = now
        return now - sampler.last_used > self._idle_s

    def _present(self, role: Role) -> list[PooledSampler]:
        """Return the role's own engines, but for those that leave: also one that is made anew."""
        return [s for s in self._pool.own(role) if s.name not in self._going]

    def _least_needed(self, present: Sequence[PooledSampler]) -> list[PooledSampler]:
        """Return engines, those first that do the least: that wait for a place, or to start."""
        return sorted(present, key=lambda s: (s.member.is_up, s.outstanding_tokens, -_number(s)))

    def _join(self, role: Role) -> None:
        """Ask for a place for one engine more, and have it started there."""
        taken = {sampler.name for sampler in self._pool.own(role)}
        names = (f"{role}/sampler-{k}" for k in range(MOST_ACTORS + 1))
        name = next(name for name in names if name not in taken)
        if not self._fleet.watch.may_restart(name):  # it has died too often
            return
        peer = self._pool.own(role)[0]
        member = self._fleet.expect_engine(name, self._lives.get(name, 0))
        # What its peers are given from now on, it is given too.
        self._pool.samplers.append(
            PooledSampler(
                member, home=role, role=peer.role, model=peer.model, expected=peer.expected
            )
        )
        self._fleet.watch.join(member, self._renewal.renew, "a place was asked for")
        self._tell(role, f"{name} is asked for")

    def _leave(self, sampler: PooledSampler, reason: str) -> None:
        """Have an engine finish what it has, and end."""
        task = asyncio.create_task(self._go(sampler, reason))
        self._going[sampler.name] = task
        task.add_done_callback(lambda done: self._going.pop(sampler.name, None))

    async def _go(self, sampler: PooledSampler, reason: str) -> None:
        member = sampler.member
        while not self._has_other(sampler):  # a node drains under the only one
            await asyncio.sleep(_LOOK_S)
        if member.is_up:
            self._fleet.watch.let_go(member, reason)
            # Also a publication that has begun goes on with it.
            while member.is_up and (sampler.outstanding_tokens or self._pool.is_publishing):
                await asyncio.sleep(_LOOK_S)
            await self._fleet.stop_engine(member)
        await self._fleet.watch.dismiss(member, f"it has left: {reason}")
        self._fleet.give_up(member)
        self._lives[member.name] = member.life
        self._pool.samplers.remove(sampler)  # its name may be given again
        self._tell(sampler.home, f"{member.name} has left: {reason}")

    def _has_other(self, sampler: PooledSampler) -> bool:
        """Return whether the role has an engine beside this one that does its work."""
        others = (s for s in self._present(sampler.home) if s is not sampler)
        return any(other.member.state is State.HEALTHY for other in others)

    def _tell(self, role: Role, reason: str) -> ScaleChange:
        wanted, present = self._wanted[role], self._present(role)
        change = ScaleChange(
            role=role,
            least=wanted.least,
            most=wanted.most,
            present=sum(sampler.member.is_up for sampler in present),
            asked=sum(sampler.member.state is State.JOINING for sampler in present),
            reason=reason,
        )
        self._on_scale(change)
        return change


def _number(sampler: PooledSampler) -> int:
    return int(sampler.name.rpartition("-")[2])
