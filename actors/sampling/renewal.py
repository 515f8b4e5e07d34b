"""A new engine in the place of one that has died, which samples once it has its role's weights."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

from actors.fleet.fleet import Fleet
from actors.fleet.member import Member, State
from actors.sampling.pool import PooledSampler, SamplerPool
from actors.turns import Turns
from actors.waiting import within
from actors.weights.probe import Probe
from rzero_ray.types import FinishedModel, LearnerLostError


class EngineRenewal:
    """Puts new engines into the places of dead ones (`watch.Renew`).

    An engine starts from the folder that its role samples from. While the role's weights are in
    training there is none: the engine starts from any folder, and then whoever trains publishes
    into it, as soon as the learner is free.
    """

    def __init__(
        self, fleet: Fleet, pool: SamplerPool, turns: Turns, start_from: Path, deadline_s: float
    ) -> None:
        """`start_from` is a folder from which an engine can start, whatever its weights."""
        self._fleet = fleet
        self._pool = pool
        self._turns = turns
        self._start_from = start_from
        self._deadline_s = deadline_s
        self.probe: Probe | None = None
        """Verifies weights; None where no learner is there to say what they should give."""
        self.publish: Callable[[PooledSampler], Awaitable[None]] | None = None
        """Publishes the weights that the learner holds into a STALE sampler, unless it has them."""

    async def renew(self, member: Member) -> None:
        """Put a new engine into the place of one that has died."""
        (sampler,) = (s for s in self._pool.samplers if s.member is member)
        folder = sampler.model
        await self._fleet.placed(member)
        async with self._turns.at_samplers():
            await self._fleet.renew_engine(member, folder or self._start_from)
        while member.state is State.STALE and sampler.model is None:
            await self._take_weights(sampler)
        if member.state is State.STALE and sampler.model == folder:
            await self._verify(sampler)
            self._fleet.watch.set(member, State.HEALTHY, "it holds the weights of its role")

    async def _take_weights(self, sampler: PooledSampler) -> None:
        assert self.publish is not None, "weights are in training, so somebody publishes them"
        try:
            await self.publish(sampler)
        except LearnerLostError:  # whoever trains begins anew, and publishes to all
            await self._fleet.watch.next_change()

    async def _verify(self, sampler: PooledSampler) -> None:
        """Compare what the engine has loaded from its folder with what the learner had."""
        if self.probe is None or sampler.expected is None or sampler.model is None:
            return
        found = await within(
            self._deadline_s,
            f"the probe of {sampler.name}",
            sampler.actor.prompt_logprobs.remote(self.probe.prompts),
        )
        version = FinishedModel(folder=sampler.model)
        self.probe.compare(sampler.expected, {sampler.name: found}, version)
