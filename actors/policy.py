"""`protocols.Policy` on a cluster: samplers sample, the learner learns, weights move between."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from actors.fleet.member import State
from actors.fleet.work import all_at
from actors.learning.group import LearnerGroup
from actors.learning.options import PhaseOptions
from actors.sampling.pool import PooledSampler, SamplerPool
from actors.sampling.renewal import EngineRenewal
from actors.turns import Turns
from actors.waiting import within
from actors.weights.delivery import Bucket, KeptWeights
from actors.weights.probe import Probe
from rzero_ray.config.config import Config
from rzero_ray.method.finite import check_finite
from rzero_ray.protocols import Clock
from rzero_ray.types import (
    Completion,
    FinishedModel,
    LearnerLostError,
    LearningReport,
    Message,
    Phase,
    ProbeReport,
    Role,
    Rollout,
    SampleRequest,
    Step,
    SyncReport,
    UpdateReport,
    Vocabulary,
    Weights,
)

T = TypeVar("T")


class ClusterPolicy:
    """One role. All share the pool and the learner; one is in training at a time.

    Where the learner dies, what the role was learning is gone with it: `LearnerLostError` reaches
    the phase, which begins again from its checkpoint. What is done outside of phases is repeated
    here. Engines that die are replaced without anybody's doing (`sampling.renewal`), apart from
    the weights in training, which only the role that trains can give them (`_readmit`).
    """

    def __init__(
        self,
        role: Role,
        config: Config,
        options: PhaseOptions,
        pool: SamplerPool,
        learner: LearnerGroup,
        turns: Turns,
        probe: Probe,
        clock: Clock,
        on_sync: Callable[[SyncReport], None],
        renewal: EngineRenewal | None = None,
    ) -> None:
        """`probe` verifies each publication; all roles of a run have the same. Without `renewal`
        no engine is replaced."""
        self._role: Role = role
        self._config = config
        self._options = options
        self._pool = pool
        self._learner = learner
        self._turns = turns
        self._probe = probe
        self._clock = clock
        self._on_sync = on_sync
        self._renewal = renewal
        self._phase: Phase | None = None
        self._version: Weights | None = None
        """What the learner holds, or is about to publish."""
        self._attempt = 0
        """The learner that holds it."""

    async def sample(self, request: SampleRequest) -> list[Completion]:
        """See `protocols.Policy`."""
        await self._turns.samplers()
        with self._clock.stage("sampling"):
            completions = await self._pool.sample(self._role, request)
        self._clock.count_tokens(sum(c.num_tokens for c in completions))
        return completions

    async def start_phase(self, phase: Phase) -> None:
        """See `protocols.Policy`."""
        self._phase = phase
        begins = phase.checkpoint is None
        async with self._learner.alone(self._role):
            await self._learner.regroup()
            samplers = self._pool.assign(self._role)  # an engine may have come meanwhile
            equal = {s.name for s in samplers if begins and s.model == phase.initial_model}
            await self._load(partial(self._learner.start_phase, phase, self._options), samplers)
            await self._publish(phase.version(phase.num_finished_steps), samplers, equal)

    async def update(
        self, rollouts: Sequence[Rollout], step: Step, vocabulary: Vocabulary | None = None
    ) -> UpdateReport:
        """See `protocols.Policy`."""
        learn = self._learner.update
        if vocabulary is not None:
            learn = partial(learn, allowed_tokens=await self._allowed_tokens(vocabulary))
        return await self._learn(learn, rollouts, step)

    async def _allowed_tokens(self, vocabulary: Vocabulary) -> NDArray[np.int32]:
        return await self._ask(
            "to say which tokens are allowed",
            lambda actor: actor.allowed_tokens.remote(vocabulary),
        )

    async def imitate(self, demonstrations: Sequence[Rollout], step: Step) -> UpdateReport:
        """See `protocols.Policy`."""
        return await self._learn(self._learner.imitate, demonstrations, step)

    async def tokenize(
        self, exchanges: Sequence[tuple[tuple[Message, ...], str]]
    ) -> list[tuple[NDArray[np.int32], NDArray[np.int32]]]:
        """See `protocols.Policy`."""
        return await self._ask("to tokenize", lambda actor: actor.tokenize.remote(exchanges))

    async def _ask(self, what: str, call: Callable[[Any], Awaitable[T]]) -> T:
        """Have one of the role's samplers answer something that it needs no turn for."""
        deadline_s = self._config.deadline.sample

        async def ask(sampler: PooledSampler) -> T:
            return await within(deadline_s, f"{sampler.name} {what}", call(sampler.actor))

        return await self._pool.ask(self._role, ask)

    async def _learn(
        self,
        learn: Callable[[Sequence[Rollout]], Awaitable[LearningReport]],
        rollouts: Sequence[Rollout],
        step: Step,
    ) -> UpdateReport:
        """Have the learner learn, save the checkpoint of the step, publish the weights."""
        assert self._phase is not None
        async with self._learner.alone(self._role):
            self._check_attempt()
            await self._turns.learner()
            with self._clock.stage("learning"):
                learning = await learn(rollouts)
            check_finite(learning, step)
            if step.checkpoint is not None and self._turns.are_taken:
                # Before the engines take the learner's place on the device.
                await self._save(step.checkpoint)
            version = self._phase.version(step.index)
            sync = await self._publish(version, self._pool.samplers_of(self._role))
            saving = None
            if step.checkpoint is not None and not self._turns.are_taken:
                saving = self._learner.meanwhile(self._save(step.checkpoint))
        self._pool.watch.progress()
        return UpdateReport(learning=learning, sync=sync, saving=saving)

    async def _save(self, checkpoint: Path) -> None:
        with self._clock.stage("checkpoint"):
            await self._learner.save_checkpoint(checkpoint)

    async def finish_phase(self, phase: Phase) -> None:
        """See `protocols.Policy`."""
        async with self._learner.alone(self._role):
            self._check_attempt()
            await self._turns.learner()
            with self._clock.stage("checkpoint"):
                await self._learner.save_model(phase.final_model)
            for sampler in self._pool.samplers_of(self._role):
                sampler.model = phase.final_model
            if self._renewal is not None and self._renewal.kept is not None:
                self._renewal.kept = replace(self._renewal.kept, model=phase.final_model)

    async def average(self, older: Path, newer: Path, decay: float, folder: Path) -> None:
        """See `protocols.Policy`."""

        async def average() -> None:
            await self._turns.learner()
            with self._clock.stage("checkpoint"):
                await self._learner.average(older, newer, decay, folder)

        await self._outside_phases(average)

    async def hold(self, model: Path) -> None:
        """See `protocols.Policy`. The learner loads the model and publishes it as it is."""
        if all(sampler.model == model for sampler in self._pool.call_home(self._role)):
            return

        async def publish_model() -> None:
            samplers = [s for s in self._pool.call_home(self._role) if s.model != model]
            await self._load(partial(self._learner.load_model, model), samplers)
            await self._publish(FinishedModel(folder=model), samplers)
            for sampler in self._pool.call_home(self._role):
                if sampler.model is None:  # also one that has come meanwhile
                    sampler.model = model

        await self._outside_phases(publish_model)

    async def score(
        self, sequences: Sequence[tuple[NDArray[np.int32], NDArray[np.int32]]]
    ) -> list[NDArray[np.float32]]:
        """See `protocols.Policy`. There are as many parts as samplers, each every n-th sequence."""
        await self._turns.samplers()
        num_parts = len(self._pool.samplers_of(self._role))
        deadline_s = self._config.deadline.sample

        def score(part: int) -> Awaitable[list[NDArray[np.float32]]]:
            share = sequences[part::num_parts]

            async def ask(sampler: PooledSampler) -> list[NDArray[np.float32]]:
                with sampler.member.work.at("scoring", self._role):
                    what = f"{sampler.name} to score {len(share)} texts"
                    return await within(deadline_s, what, sampler.actor.score.remote(share))

            return self._pool.ask(self._role, ask)

        with self._clock.stage("scoring"):
            parts = await asyncio.gather(*(score(part) for part in range(num_parts)))
        return [parts[k % num_parts][k // num_parts] for k in range(len(sequences))]

    async def _outside_phases(self, work: Callable[[], Awaitable[None]]) -> None:
        """Have the learner do something that it can do again from the beginning."""
        while True:
            try:
                async with self._learner.alone(self._role):
                    return await work()
            except LearnerLostError:  # there is a new one; how often, `alone` decides
                continue

    def _check_attempt(self) -> None:
        """Raise LearnerLostError where the learner is not the one that the phase has begun with."""
        if self._learner.attempt != self._attempt:
            raise LearnerLostError("the learner holds nothing of this phase")

    async def _load(
        self, load: Callable[[], Awaitable[None]], samplers: Sequence[PooledSampler]
    ) -> None:
        """Have the learner load what then goes to `samplers`."""
        for sampler in samplers:
            sampler.model = None
        self._attempt, self._version = self._learner.attempt, None
        self._drop_kept()
        if self._renewal is not None:
            self._renewal.probe = self._probe
            self._renewal.attempt = self._attempt
            self._renewal.publish = self._readmit
        await self._turns.learner()
        with self._clock.stage("learner_start"):
            await load()

    async def _readmit(self, sampler: PooledSampler) -> None:
        """Publish the weights in training into an engine that has none, unless it has got them
        meanwhile, or they are not in training any more."""
        async with self._turns.undisturbed(self._pool):
            try:
                async with self._learner.alone(self._role, in_passing=True):
                    if sampler.member.state is not State.STALE or sampler.model is not None:
                        return
                    self._check_attempt()
                    if self._version is None:  # the phase is about to publish to all
                        raise LearnerLostError("the learner holds nothing yet")
                    await self._turns.learner()
                    # Once: if it dies, whoever puts it into its place is the one that waits here.
                    lives = [sampler.member.life]
                    with self._pool.publishing():
                        report = await self._deliver(self._version, [sampler])
                    self._report(report, [sampler], lives)
            finally:
                await self._turns.samplers()  # whatever has become of it, others sample again

    async def _publish(
        self,
        version: Weights,
        samplers: Sequence[PooledSampler],
        equal: Collection[str] = (),
    ) -> SyncReport:
        """Publish the learner's weights into `samplers` and verify them there.

        The samplers named in `equal` have the same weights already (`actors.weights.probe`). Those
        that die meanwhile are left out, and get them when they are back; there must be one.
        """
        self._version = version
        self._drop_kept()
        with self._pool.publishing():
            return await self._publish_to_all(version, samplers, equal)

    async def _publish_to_all(
        self,
        version: Weights,
        samplers: Sequence[PooledSampler],
        equal: Collection[str],
    ) -> SyncReport:
        while True:
            present = await self._present(samplers)
            lives = [sampler.member.life for sampler in present]
            try:
                report = await self._deliver(version, present, equal)
            except Exception as error:
                watch = self._pool.watch
                alive = [await watch.is_alive(sampler.member, str(error)) for sampler in present]
                if all(alive):
                    raise
                await self._turns.learner()
            else:
                break
        # Those that were left out, or have come meanwhile, will hold these weights, too.
        for sampler in {*samplers, *(s for s in self._pool.samplers if s.role == self._role)}:
            sampler.expected = present[0].expected
        self._report(report, present, lives)
        return report

    def _report(
        self, report: SyncReport, samplers: Sequence[PooledSampler], lives: Sequence[int]
    ) -> None:
        """Tell of a publication, after which the samplers do their work: those that leave, or have
        died since, excepted."""
        reason = f"it holds weights {report.version.name}"
        for sampler, life in zip(samplers, lives, strict=True):
            member = sampler.member
            if member.life == life and member.state in (State.STALE, State.SUSPECT):
                self._pool.watch.set(member, State.HEALTHY, reason)
        self._on_sync(report)

    async def _deliver(
        self,
        version: Weights,
        samplers: Sequence[PooledSampler],
        equal: Collection[str] = (),
    ) -> SyncReport:
        """Publish into `samplers` and verify the weights there."""
        await self._turns.handover(samplers)
        works = [sampler.member.work for sampler in samplers]
        with self._clock.stage("weight_sync"), all_at(works, "weight sync", self._role):
            publication = await self._learner.publish(version, samplers)
            probe = await self._verify(version, samplers, equal)
        self._keep(version, publication.buckets, samplers[0])
        return SyncReport(
            role=self._role, version=version, transfer=publication.report, probe=probe
        )

    def _keep(self, version: Weights, buckets: Sequence[Bucket], sampler: PooledSampler) -> None:
        """Keep what was published for engines that come later. Where devices are shared they get it
        from the learner, in its turn."""
        if self._renewal is None or not buckets or self._turns.are_taken:
            return
        assert sampler.expected is not None, "it was verified"
        self._renewal.kept = KeptWeights(
            version=version,
            attempt=self._attempt,
            buckets=buckets,
            expected=sampler.expected,
            model=version.folder if isinstance(version, FinishedModel) else None,
        )

    def _drop_kept(self) -> None:
        """Free what was published last, before the next takes its place."""
        if self._renewal is not None:
            self._renewal.kept = None

    async def _present(self, samplers: Sequence[PooledSampler]) -> list[PooledSampler]:
        """Return the samplers that can take weights, in the learner's turn; where none can, engines
        get their turn to come back."""
        if not any(sampler.can_load for sampler in samplers):
            await self._turns.samplers()
            await self._pool.loadable(samplers)
            await self._turns.learner()
        return await self._pool.loadable(samplers)

    async def _verify(
        self,
        version: Weights,
        samplers: Sequence[PooledSampler],
        equal: Collection[str] = (),
    ) -> ProbeReport:
        """Compare the learner, while it holds its parameters, with the engines after it."""
        expected = await self._learner.prompt_logprobs(version, self._probe.prompts)
        await self._turns.samplers()
        prompts = self._probe.prompts
        found = await within(
            self._config.deadline.sync,
            f"the probe of weights {version.name}",
            asyncio.gather(*(s.actor.prompt_logprobs.remote(prompts) for s in samplers)),
        )
        names = [sampler.name for sampler in samplers]
        equal = set(equal) & set(names)
        report = self._probe.compare(expected, dict(zip(names, found, strict=True)), version, equal)
        for sampler in samplers:
            sampler.expected = expected
        return report
