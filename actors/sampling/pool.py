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
import time
from collections import Counter, defaultdict, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
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
_ROUNDS = 2
"""How many times what it decodes at once an engine is given beforehand, so that it never waits for
requests. The others wait here, where an engine that joins takes its share of them."""
_MOST_FAILURES = 3
"""How often a request may fail on samplers that live, before the failure is the request's own."""
_LOOK_S = 0.1


@dataclass(slots=True, eq=False)
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
    outstanding_samples: int = 0
    """The samples that it was asked for and has not ended."""
    is_loading: bool = False
    """Whether it takes weights that were published before it came."""
    last_used: float = field(default_factory=time.monotonic)
    """When it ended a request last, or came."""

    @property
    def name(self) -> str:
        """Its name in the dashboard."""
        return self.member.name

    @property
    def actor(self) -> ActorHandle:
        """The actor that lives at present."""
        assert self.member.actor is not None, "who has no actor is asked nothing"
        return self.member.actor

    @property
    def can_load(self) -> bool:
        """Whether weights can be published into it."""
        is_stale = self.member.state is State.STALE and not self.is_loading
        return is_stale or self.member.state is State.HEALTHY


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
        max_num_seqs: int = 1_000_000,
    ) -> None:
        """`deadline_s` is how long an engine may end nothing, `start_s` how long a role may be
        without any, `max_num_seqs` what one decodes at once. With `lends` off only a role without
        engines of its own gets those of others."""
        self.samplers = samplers
        self.watch = watch or Watch(RecoveryConfig())
        self.watch.on_announce = self._wake_lines
        self._num_publishing = 0
        """How many publications are under way."""
        self._most_samples = _ROUNDS * max_num_seqs
        self._lines: dict[Role, deque[asyncio.Future[None]]] = defaultdict(deque)
        """By role: requests that wait until an engine can take one more, the oldest first."""
        self._start_s = start_s
        self._lends = lends
        self.num_waiting: Counter[Role] = Counter()
        """By role: requests that have no answer yet."""
        self._num_quiet = 0
        """How many want nobody to sample."""
        self._requests = RequestGatherer(deadline_s)

    def samplers_of(self, role: Role) -> list[PooledSampler]:
        """Return those that sample for the role."""
        return [sampler for sampler in self.samplers if sampler.role == role]

    @property
    def is_publishing(self) -> bool:
        """Whether weights are on their way into engines."""
        return self._num_publishing > 0

    @contextmanager
    def publishing(self) -> Iterator[None]:
        """Have no engine leave in the block, in which weights may be on their way into it."""
        self._num_publishing += 1
        try:
            yield
        finally:
            self._num_publishing -= 1
            self.watch.announce()

    def own(self, role: Role) -> list[PooledSampler]:
        """Return those that are the role's own, whoever has them now."""
        return [sampler for sampler in self.samplers if sampler.home == role]

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

        A sampler has what it decodes and as much again, and keeps its own queue; the rest waits
        here. How requests travel, and what ends them early, is in `gathering`.
        """
        cost = request.num_samples * request.sampling.max_tokens

        async def ask(sampler: PooledSampler) -> list[Completion]:
            sampler.outstanding_tokens += cost
            sampler.outstanding_samples += request.num_samples
            self._call_next(role)
            sampler.member.work.begin("sampling", role)
            try:
                return unpack(await self._requests.ask(sampler.name, sampler.actor, request))
            finally:
                sampler.member.work.end("sampling", role)
                sampler.outstanding_tokens -= cost
                sampler.outstanding_samples -= request.num_samples
                sampler.last_used = time.monotonic()
                self._call_next(role)

        self.num_waiting[role] += 1
        try:
            return await self.ask(role, ask, self._with_room)
        finally:
            self.num_waiting[role] -= 1

    async def ask(
        self,
        role: Role,
        question: Callable[[PooledSampler], Awaitable[T]],
        choose: Callable[[Role], Awaitable[PooledSampler]] | None = None,
    ) -> T:
        """Have one sampler of the role answer, that with the least to do unless `choose` knows
        better; another one, where it dies before it has.

        One that does not answer in time is ended: whoever hangs at one request hangs at others.
        """
        num_failures = 0
        while True:
            sampler = await (choose or self.available)(role)
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

    async def _with_room(self, role: Role) -> PooledSampler:
        """Return the sampler of the role with the least to do, once one can take a request."""
        if self._lines[role]:
            await self._stand_in_line(role)
        while True:
            await self.available(role)
            if with_room := self._roomy(role):
                return min(with_room, key=lambda sampler: sampler.outstanding_tokens)
            await self._stand_in_line(role)

    def _roomy(self, role: Role) -> list[PooledSampler]:
        return [s for s in self._ready(role) if s.outstanding_samples < self._most_samples]

    async def _stand_in_line(self, role: Role) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._lines[role].append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():  # it was called; the next one goes instead
                self._call_next(role)
            raise

    def _call_next(self, role: Role) -> None:
        """Have the oldest request of a line go, if an engine can take it."""
        line = self._lines[role]
        while line and self._roomy(role):
            turn = line.popleft()
            if not turn.done():
                turn.set_result(None)
                return

    def _wake_lines(self) -> None:
        """Have all requests look again: engines have come, or gone."""
        for line in self._lines.values():
            while line:
                turn = line.popleft()
                if not turn.done():
                    turn.set_result(None)

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
