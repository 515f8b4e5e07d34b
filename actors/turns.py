"""Who has the devices: learner and engines that share them take turns.

Whoever is about to work says so; the turn passes when it has to, and nothing happens when it is
theirs already. There are three:

    learner     all engines sleep; the learner has its parameters, gradients and optimizer states
    handover    the learner has its parameters alone; the engines that get them have only weights
    samplers    the learner has nothing; all engines are awake

The host's memory holds whatever is not on the device, so a turn costs two copies over the bus.
Nobody asks for a turn while another works: sampling and learning do not overlap without staleness,
which a shared layout refuses (`rzero_ray.config.layout.resolve_layout`).
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from typing import Any, Literal

from actors.learning.group import LearnerGroup
from actors.sampling.options import PARTS
from actors.sampling.pool import PooledSampler, SamplerPool
from actors.waiting import ActorLostError, within
from rzero_ray.protocols import Clock
from rzero_ray.types import RunError

Holder = Literal["learner", "handover", "samplers"]

_LOOK_S = 0.5


class Turns(ABC):
    """What a `ClusterPolicy` asks before it has anyone work."""

    are_taken: bool
    """Whether devices are shared, so that the learner loses its own when others get theirs."""

    @abstractmethod
    def tell(self, clock: Clock, on_turn: Callable[[Holder], None]) -> None:
        """From now on keep the time of turns on `clock`, and tell `on_turn` of each that begins."""

    @abstractmethod
    async def learner(self) -> None:
        """The learner is about to learn, load or save; no request is under way."""

    @abstractmethod
    async def handover(self, samplers: Sequence[PooledSampler]) -> None:
        """The learner, whose turn it is, is about to publish into `samplers`."""

    @abstractmethod
    async def samplers(self) -> None:
        """Engines are about to sample or to score."""

    @abstractmethod
    def at_samplers(self) -> AbstractAsyncContextManager[None]:
        """Have the block take place in the samplers' turn, as soon as it is theirs."""

    @abstractmethod
    def undisturbed(self, pool: SamplerPool) -> AbstractAsyncContextManager[None]:
        """Have the block take place while nobody samples, where that is needed for the learner to
        have its turn."""


class NoTurns(Turns):
    """Everybody has devices of their own and works at any time."""

    are_taken = False

    def tell(self, clock: Clock, on_turn: Callable[[Holder], None]) -> None:
        pass

    async def learner(self) -> None:
        pass

    async def handover(self, samplers: Sequence[PooledSampler]) -> None:
        pass

    async def samplers(self) -> None:
        pass

    def at_samplers(self) -> AbstractAsyncContextManager[None]:
        return nullcontext()

    def undisturbed(self, pool: SamplerPool) -> AbstractAsyncContextManager[None]:
        return nullcontext()


class SharedDevices(Turns):
    """Engines and learner ranks live on the same devices. At the start the engines are awake, and
    nothing begins before `tell`."""

    are_taken = True

    _clock: Clock
    _on_turn: Callable[[Holder], None]

    def __init__(self, pool: SamplerPool, learner: LearnerGroup, deadline_s: float) -> None:
        self._pool = pool
        self._learner = learner
        self._deadline_s = deadline_s
        self._holder: Holder = "samplers"
        self._with_weights: list[PooledSampler] = []
        """Engines that the handover has woken in part."""
        self._passing = asyncio.Lock()

    def tell(self, clock: Clock, on_turn: Callable[[Holder], None]) -> None:
        self._clock, self._on_turn = clock, on_turn

    async def learner(self) -> None:
        if self._holder == "learner":
            return
        async with self._passing:
            busy = [sampler.name for sampler in self._pool.samplers if sampler.outstanding_tokens]
            if busy:
                raise RunError(
                    f"{', '.join(busy)} still sample while the learner wants their devices: a bug"
                )
            await self._pool.settle(self._pool.samplers)
            with self._clock.stage("turns"):
                await self._sleep()
                self._holder = "learner"  # even where it dies before it is there
                await self._learner.return_to_device()
            self._begin("learner")

    async def handover(self, samplers: Sequence[PooledSampler]) -> None:
        async with self._passing:
            assert self._holder == "learner", "weights come from the learner's turn"
            with self._clock.stage("turns"):
                await self._learner.leave_device(keep_parameters=True)
                await self._wake(samplers, ["weights"])
            self._with_weights = list(samplers)
            self._begin("handover")

    async def samplers(self) -> None:
        if self._holder == "samplers":
            return
        async with self._passing:
            if self._holder == "samplers":  # another request has asked first
                return
            with self._clock.stage("turns"):
                await self._vacate()
                await self._pool.settle(self._pool.samplers)
                asleep = [s for s in self._living() if s not in self._with_weights]
                await self._wake(asleep, PARTS)
                with_weights = [s for s in self._with_weights if s.can_load]
                await self._wake(with_weights, ["kv_cache"])
            self._with_weights = []
            self._begin("samplers")

    @asynccontextmanager
    async def at_samplers(self) -> AsyncIterator[None]:
        while True:
            async with self._passing:
                if self._holder == "samplers":
                    yield
                    return
            await asyncio.sleep(_LOOK_S)

    def undisturbed(self, pool: SamplerPool) -> AbstractAsyncContextManager[None]:
        return pool.quiet()

    def _begin(self, holder: Holder) -> None:
        self._holder = holder
        self._on_turn(holder)

    async def _sleep(self) -> None:
        await self._each(self._living(), "to fall asleep", lambda actor: actor.sleep.remote())

    async def _wake(self, samplers: Sequence[PooledSampler], parts: Sequence[str]) -> None:
        what = f"to wake ({', '.join(parts)})"
        await self._each(samplers, what, lambda actor: actor.wake.remote(list(parts)))

    async def _vacate(self) -> None:
        """Have the learner leave its devices; one that has died has left them."""
        try:
            await self._learner.leave_device(keep_parameters=False)
        except Exception as error:
            if await self._learner.is_whole(str(error)):
                raise

    def _living(self) -> list[PooledSampler]:
        return [sampler for sampler in self._pool.samplers if sampler.can_load]

    async def _each(
        self, samplers: Sequence[PooledSampler], what: str, call: Callable[[Any], Any]
    ) -> None:
        """Call all; the turn passes without one that has died."""

        async def one(sampler: PooledSampler) -> None:
            try:
                with sampler.member.work.at("moving", None):
                    await within(self._deadline_s, f"{sampler.name} {what}", call(sampler.actor))
            except ActorLostError as error:
                if await self._pool.watch.is_alive(sampler.member, str(error)):
                    raise

        await asyncio.gather(*(one(sampler) for sampler in samplers))
