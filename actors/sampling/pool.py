"""All samplers, which role each one holds, and where a request goes.

A sampler is an actor, an engine what runs in it: vLLM with one set of weights.

How an engine gets its weights:

- It starts from a folder: the model that its home role has when the driver starts.
- In a phase of learning the learner publishes into the engines of the role that learns: at the
  start and after every update. A role may have another's engines for its phase (`config.roles`).
- Outside, `ClusterPolicy.hold` sends every engine home and publishes a finished model into those of
  the role that hold another one: borrowed engines of a frozen Challenger, or the Solver's when both
  roles are one model, which the Challenger's phase has changed.

`PooledSampler.model` is what this comes to: the folder whose weights an engine holds.

A sampler that dies takes nothing with it: its unfinished requests go to another one, or wait for
the one that takes its place (`renewal`). Their seeds make the answers the same.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from ray.actor import ActorHandle

from actors.fleet.member import Member, State
from actors.fleet.watch import Watch
from actors.sampling.gathering import RequestGatherer
from actors.sampling.packing import unpack
from actors.waiting import ActorLostError, DeadlineError, EngineFailedError
from rzero_ray.config.cluster import RecoveryConfig
from rzero_ray.config.roles import ROLES
from rzero_ray.types import Completion, Role, SampleRequest

T = TypeVar("T")

_LENDS_TO = {role.name: role.lends_to for role in ROLES}
_MOST_FAILURES = 3
"""How often a request may fail on samplers that live, before the failure is the request's own."""
_LOOK_S = 0.1


@dataclass(slots=True)
class PooledSampler:
    """A sampler as the driver knows it."""

    member: Member
    home: Role
    """The role it was started for."""
    role: Role
    """The role that it samples for now."""
    model: Path | None
    """The folder of the weights it holds, or is to hold when it is back; None while they are in
    training."""
    expected: Sequence[NDArray[np.float32]] | None = None
    """The learner's log-probabilities of the probe under these weights, once they have come from
    it."""
    outstanding_tokens: int = 0
    """Upper bound on the tokens it still has to sample."""

    @property
    def name(self) -> str:
        """Its name in the dashboard."""
        return self.member.name

    @property
    def actor(self) -> ActorHandle:
        """The actor that lives at present."""
        return self.member.actor

    @property
    def can_load(self) -> bool:
        """Whether weights can be published into it."""
        return self.member.state in (State.HEALTHY, State.STALE)


class SamplerPool:
    """Routes each request to the sampler of the role with the fewest outstanding tokens."""

    def __init__(
        self,
        samplers: list[PooledSampler],
        deadline_s: float,
        *,
        watch: Watch | None = None,
        start_s: float = 600.0,
        lends: bool = True,
    ) -> None:
        """`deadline_s` is how long an engine may end nothing, `start_s` how long a role may be
        without any. With `lends` off only a role without engines of its own gets those of
        others."""
        self.samplers = samplers
        self.watch = watch or Watch(RecoveryConfig())
        self._start_s = start_s
        self._lends = lends
        self._num_quiet = 0
        """How many want nobody to sample."""
        self._requests = RequestGatherer(deadline_s)

    def samplers_of(self, role: Role) -> list[PooledSampler]:
        """Return those that sample for the role."""
        return [sampler for sampler in self.samplers if sampler.role == role]

    def assign(self, training: Role) -> list[PooledSampler]:
        """Give samplers their roles for a learning phase; return those that need its weights.

        Each is in its home role, unless that lends its engines to the role that learns
        (`RoleSpec.lends_to`): while the Solver learns, nothing asks the Challenger.
        """
        self.send_home()
        if self._lends or not self.samplers_of(training):
            for sampler in self.samplers:
                if training in _LENDS_TO[sampler.home]:
                    sampler.role = training
        return self.samplers_of(training)

    def call_home(self, role: Role) -> list[PooledSampler]:
        """Send all home; return the role's own, or, where it has none, those that it borrows."""
        self.send_home()
        return self.samplers_of(role) or self.assign(role)

    def send_home(self) -> None:
        """Give each its home role; what it holds may be another role's weights."""
        for sampler in self.samplers:
            sampler.role = sampler.home

    async def sample(self, role: Role, request: SampleRequest) -> list[Completion]:
        """Have one sampler of the role answer the request, all its samples together.

        Nothing waits for its turn here: a sampler gets every request at once and keeps its own
        queue. How requests travel, and what ends them early, is in `gathering`.
        """
        cost = request.num_samples * request.sampling.max_tokens

        async def ask(sampler: PooledSampler) -> list[Completion]:
            sampler.outstanding_tokens += cost
            try:
                return unpack(await self._requests.ask(sampler.name, sampler.actor, request))
            finally:
                sampler.outstanding_tokens -= cost

        return await self.ask(role, ask)

    async def ask(self, role: Role, question: Callable[[PooledSampler], Awaitable[T]]) -> T:
        """Have one sampler of the role answer; another one, where it dies before it has.

        One that does not answer in time is ended: whoever hangs at one request hangs at others.
        """
        num_failures = 0
        while True:
            sampler = await self.available(role)
            life = sampler.member.life
            try:
                return await question(sampler)
            except DeadlineError as error:
                if sampler.member.life == life:
                    self.watch.condemn(sampler.member, str(error))
            except (ActorLostError, EngineFailedError) as error:
                if sampler.member.life != life:
                    continue
                if await self.watch.is_alive(sampler.member, str(error)):
                    num_failures += 1
                    if num_failures == _MOST_FAILURES:
                        raise

    async def available(self, role: Role) -> PooledSampler:
        """Return the sampler of the role with the least to do, as soon as there is one.

        Raises RunError where those of the role are dead for good.
        """
        while not (ready := self._ready(role)):
            await self._change_among(self.samplers_of(role), f"an engine of the {role}")
        return min(ready, key=lambda sampler: sampler.outstanding_tokens)

    async def loadable(self, samplers: Sequence[PooledSampler]) -> list[PooledSampler]:
        """Return those into which weights can be published, as soon as there is one, and nobody
        knows of another one whether it lives.

        Raises RunError where all are dead for good.
        """
        while True:
            await self.settle(samplers)
            found = [sampler for sampler in samplers if sampler.can_load]
            if found:
                return found
            await self._change_among(samplers, "an engine that takes weights")

    async def settle(self, samplers: Sequence[PooledSampler]) -> None:
        """Wait until it is known of each whether it lives: one that is left out while it is
        suspected would come back with what it held before."""
        while suspects := [s.member for s in samplers if s.member.state is State.SUSPECT]:
            await self.watch.is_alive(suspects[0])

    @asynccontextmanager
    async def quiet(self) -> AsyncIterator[None]:
        """Have nobody sample in the block: requests wait until it ends."""
        self._num_quiet += 1
        try:
            while any(sampler.outstanding_tokens for sampler in self.samplers):
                await asyncio.sleep(_LOOK_S)
            yield
        finally:
            self._num_quiet -= 1
            self.watch.announce()

    def _ready(self, role: Role) -> list[PooledSampler]:
        if self._num_quiet:
            return []
        return [s for s in self.samplers_of(role) if s.member.state is State.HEALTHY]

    async def _change_among(self, samplers: Sequence[PooledSampler], what: str) -> None:
        members = [sampler.member for sampler in samplers]
        await self.watch.change_among(members, what, self._start_s)
