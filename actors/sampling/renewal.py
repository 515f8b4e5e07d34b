"""A new engine, in the place of one that has died or beside the others: it samples once it has its
role's weights."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from actors.fleet.fleet import Fleet
from actors.fleet.member import Member, State
from actors.sampling.pool import PooledSampler, SamplerPool
from actors.turns import Turns
from actors.waiting import ActorLostError, within
from actors.weights.delivery import KeptWeights, deliver
from actors.weights.probe import Probe
from actors.weights.saved import saved_buckets
from rzero_ray.types import FinishedModel, LearnerLostError, RunError

logger = logging.getLogger(__name__)


class EngineRenewal:
    """Gives new engines what they need to sample (`watch.Renew`).

    An engine starts from the folder that its role samples from, and is verified. While the role's
    weights are in training there is none: it starts from any folder, and is given what the learner
    has published last, which does not concern the learner (`delivery.KeptWeights`). Where that was
    not kept, the learner publishes into it as soon as it is free.
    """

    def __init__(
        self,
        fleet: Fleet,
        pool: SamplerPool,
        turns: Turns,
        start_from: Path,
        deadline_s: float,
        dtype: str = "float32",
        bucket_bytes: int = 0,
    ) -> None:
        """`start_from` is a folder from which an engine can start, whatever its weights, `dtype`
        the type of what it samples with. `bucket_bytes` is how much engines are given from the
        object store at a time; 0 where they take their weights another way."""
        self._fleet = fleet
        self._pool = pool
        self._turns = turns
        self._start_from = start_from
        self._deadline_s = deadline_s
        self._dtype = dtype
        self._bucket_bytes = bucket_bytes
        self.probe: Probe | None = None
        """Verifies weights; None where no learner is there to say what they should give."""
        self.publish: Callable[[PooledSampler], Awaitable[None]] | None = None
        """Publishes the weights that the learner holds into a STALE sampler, unless it has them."""
        self.attempt = 0
        """The learner whose weights engines hold, or one before it."""
        self.kept: KeptWeights | None = None
        """What was published last; None while something is being published."""

    async def renew(self, member: Member) -> None:
        """Have a new engine started in a member's place, and give it its role's weights."""
        (sampler,) = (s for s in self._pool.samplers if s.member is member)
        holds = sampler.model
        await self._fleet.placed(member)
        async with self._turns.at_samplers():
            if not await self._fleet.renew_engine(member, holds or self._start_from):
                holds = None
        # What its role samples from may be another model meanwhile, or again.
        while member.state is State.STALE:
            if holds is not None and sampler.model == holds:
                await self._admit_with(sampler, holds)
            elif self.kept is not None and self.kept.model == sampler.model:
                await self._load_kept(sampler, self.kept)
            elif self._pool.is_publishing:  # what is on its way to the others will be kept
                await self._fleet.watch.next_change()
            elif sampler.model is None:
                await self._ask_learner(sampler)
            elif self._bucket_bytes:
                holds = await self._load_folder(sampler, sampler.model)
            elif holds is None:
                raise RunError(
                    f"node {member.node} does not see {sampler.model}, whose weights {member.name} "
                    "needs, and the learner is busy with others: share that folder with the node, "
                    "or set weights.backend=object_store"
                )
            else:  # it starts once more, from that folder
                return

    async def _load_kept(self, sampler: PooledSampler, kept: KeptWeights) -> None:
        """Give an engine what was published last, unless something else is published meanwhile:
        that goes to it afterwards."""
        try:
            with self._loading(sampler):
                await deliver(
                    kept.each(), kept.version, sampler.actor, kept.attempt, self._deadline_s
                )
                await self._verify(sampler, kept.expected)
                if self._is_kept(kept):  # else it lacks what was published meanwhile
                    sampler.expected = kept.expected
                    self._admit(sampler, f"it holds weights {kept.version.name}")
        except ActorLostError:
            raise
        except Exception as error:  # the learner that has published them may be gone, and they too
            logger.warning("%s takes its weights elsewhere: %s", sampler.name, error)
            if self._is_kept(kept):
                self.kept = None

    async def _admit_with(self, sampler: PooledSampler, folder: Path) -> None:
        """Verify an engine that has loaded a folder, and have it sample, unless its role has other
        weights by then."""
        with self._loading(sampler):
            await self._verify(sampler, sampler.expected)
            if sampler.model == folder:
                self._admit(sampler, "it holds the weights of its role")

    @contextmanager
    def _loading(self, sampler: PooledSampler) -> Iterator[None]:
        """Have a publication that begins in the block leave a sampler out."""
        sampler.is_loading = True
        try:
            with sampler.member.work.at("weight sync", sampler.role):
                yield
        finally:
            sampler.is_loading = False
            self._fleet.watch.announce()  # somebody may wait until it can load

    def _is_kept(self, kept: KeptWeights) -> bool:
        return self.kept is not None and self.kept.buckets is kept.buckets

    async def _load_folder(self, sampler: PooledSampler, folder: Path) -> Path:
        """Give an engine the weights of a model's folder; returns it."""
        buckets = saved_buckets(folder, self._dtype, self._bucket_bytes, self._deadline_s)
        version = FinishedModel(folder=folder)
        with self._loading(sampler):
            await deliver(buckets, version, sampler.actor, self.attempt, self._deadline_s)
        return folder

    async def _ask_learner(self, sampler: PooledSampler) -> None:
        assert self.publish is not None, "weights are in training, so somebody publishes them"
        try:
            await self.publish(sampler)
        except LearnerLostError:  # whoever trains begins anew, and publishes to all
            await self._fleet.watch.next_change()

    async def _verify(
        self, sampler: PooledSampler, expected: Sequence[NDArray[np.float32]] | None
    ) -> None:
        """Compare what the engine has loaded with what the learner had."""
        if self.probe is None or expected is None:
            return
        found = await within(
            self._deadline_s,
            f"the probe of {sampler.name}",
            sampler.actor.prompt_logprobs.remote(self.probe.prompts),
        )
        version = FinishedModel(folder=sampler.model or self._start_from)
        self.probe.compare(expected, {sampler.name: found}, version)

    def _admit(self, sampler: PooledSampler, reason: str) -> None:
        self._fleet.watch.set(sampler.member, State.HEALTHY, reason)
