"""`protocols.Policy` on a cluster: samplers sample, the learner learns, weights move between."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from actors.learning.group import LearnerGroup
from actors.learning.options import PhaseOptions
from actors.sampling.pool import PooledSampler, SamplerPool
from actors.turns import Turns
from actors.waiting import within
from actors.weights.probe import Probe
from rzero_ray.config.config import Config
from rzero_ray.method.finite import check_finite
from rzero_ray.protocols import Clock
from rzero_ray.types import (
    Completion,
    FinishedModel,
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


class ClusterPolicy:
    """One role. Both share the pool and the learner; one is in training at a time."""

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
    ) -> None:
        """`probe` verifies each publication; all roles of a run have the same."""
        self._role: Role = role
        self._config = config
        self._options = options
        self._pool = pool
        self._learner = learner
        self._turns = turns
        self._probe = probe
        self._clock = clock
        self._on_sync = on_sync
        self._phase: Phase | None = None

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
        samplers = self._pool.assign(self._role)
        begins = phase.checkpoint is None
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
        sampler = self._pool.samplers_of(self._role)[0]
        return await within(
            self._config.deadline.sample,
            f"{sampler.name} to say which tokens are allowed",
            sampler.actor.allowed_tokens.remote(vocabulary),
        )

    async def imitate(self, demonstrations: Sequence[Rollout], step: Step) -> UpdateReport:
        """See `protocols.Policy`."""
        return await self._learn(self._learner.imitate, demonstrations, step)

    async def tokenize(
        self, exchanges: Sequence[tuple[tuple[Message, ...], str]]
    ) -> list[tuple[NDArray[np.int32], NDArray[np.int32]]]:
        """See `protocols.Policy`."""
        sampler = self._pool.samplers_of(self._role)[0]
        return await within(
            self._config.deadline.sample,
            f"{sampler.name} to tokenize",
            sampler.actor.tokenize.remote(exchanges),
        )

    async def _learn(
        self,
        learn: Callable[[Sequence[Rollout]], Awaitable[LearningReport]],
        rollouts: Sequence[Rollout],
        step: Step,
    ) -> UpdateReport:
        """Have the learner learn, save the checkpoint of the step, publish the weights."""
        assert self._phase is not None
        await self._turns.learner()
        with self._clock.stage("learning"):
            learning = await learn(rollouts)
        check_finite(learning, step)
        # Before the weights go to the engines, which may take the learner's place on the device.
        if step.checkpoint is not None:
            with self._clock.stage("checkpoint"):
                await self._learner.save_checkpoint(step.checkpoint)
        version = self._phase.version(step.index)
        sync = await self._publish(version, self._pool.samplers_of(self._role))
        return UpdateReport(learning=learning, sync=sync)

    async def finish_phase(self, phase: Phase) -> None:
        """See `protocols.Policy`."""
        await self._turns.learner()
        with self._clock.stage("checkpoint"):
            await self._learner.save_model(phase.final_model)
        for sampler in self._pool.samplers_of(self._role):
            sampler.model = phase.final_model

    async def average(self, older: Path, newer: Path, decay: float, folder: Path) -> None:
        """See `protocols.Policy`."""
        await self._turns.learner()
        with self._clock.stage("checkpoint"):
            await self._learner.average(older, newer, decay, folder)

    async def hold(self, model: Path) -> None:
        """See `protocols.Policy`. The learner loads the model and publishes it as it is."""
        samplers = [s for s in self._pool.call_home(self._role) if s.model != model]
        if not samplers:
            return
        await self._load(partial(self._learner.load_model, model), samplers)
        await self._publish(FinishedModel(folder=model), samplers)
        for sampler in samplers:
            sampler.model = model

    async def score(
        self, sequences: Sequence[tuple[NDArray[np.int32], NDArray[np.int32]]]
    ) -> list[NDArray[np.float32]]:
        """See `protocols.Policy`. Each sampler takes every n-th sequence."""
        await self._turns.samplers()
        samplers = self._pool.samplers_of(self._role)
        names = ", ".join(sampler.name for sampler in samplers)
        with self._clock.stage("scoring"):
            parts: list[list[NDArray[np.float32]]] = await within(
                self._config.deadline.sample,
                f"{names} to score {len(sequences)} texts",
                asyncio.gather(
                    *(
                        sampler.actor.score.remote(sequences[k :: len(samplers)])
                        for k, sampler in enumerate(samplers)
                    )
                ),
            )
        return [parts[k % len(samplers)][k // len(samplers)] for k in range(len(sequences))]

    async def _load(
        self, load: Callable[[], Awaitable[None]], samplers: Sequence[PooledSampler]
    ) -> None:
        """Have the learner load what then goes to `samplers`."""
        for sampler in samplers:
            sampler.model = None
        await self._turns.learner()
        with self._clock.stage("learner_start"):
            await load()

    async def _publish(
        self,
        version: Weights,
        samplers: Sequence[PooledSampler],
        equal: Collection[str] = (),
    ) -> SyncReport:
        """Publish the learner's weights into `samplers` and verify them there.

        The samplers named in `equal` have the same weights already (`actors.weights.probe`).
        """
        await self._turns.handover(samplers)
        with self._clock.stage("weight_sync"):
            transfer = await self._learner.publish(version, samplers)
            probe = await self._verify(version, samplers, equal)
        report = SyncReport(version=version, transfer=transfer, probe=probe)
        self._on_sync(report)
        return report

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
        return self._probe.compare(expected, dict(zip(names, found, strict=True)), version, equal)
