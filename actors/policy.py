"""`protocols.Policy` on a cluster: samplers sample, the learner learns, weights move between."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from actors.learning.group import LearnerGroup
from actors.learning.options import PhaseOptions
from actors.sampling.pool import PooledSampler, SamplerPool
from actors.turns import Turns
from actors.waiting import within
from actors.weights.probe import compare_probes
from rzero_ray.config.config import Config, probe_bound
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
        probes: Sequence[NDArray[np.int32]],
        clock: Clock,
        on_sync: Callable[[SyncReport], None],
    ) -> None:
        """`probes` are token ids of the prompts by which a weight sync is verified."""
        self._role: Role = role
        self._config = config
        self._options = options
        self._pool = pool
        self._learner = learner
        self._turns = turns
        self._probes = probes
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
        await self._load(phase, samplers)
        await self._publish(phase.version(phase.num_finished_steps), samplers)

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
        phase = Phase(
            iteration=0,
            role=self._role,
            initial_model=model,
            checkpoint=None,
            num_finished_steps=0,
            final_model=model,
        )
        await self._load(phase, samplers)
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

    async def _load(self, phase: Phase, samplers: Sequence[PooledSampler]) -> None:
        """Load a phase's policy into the learner, whose weights then go to `samplers`."""
        for sampler in samplers:
            sampler.model = None
        await self._turns.learner()
        with self._clock.stage("learner_start"):
            await self._learner.start_phase(phase, self._options)

    async def _publish(self, version: Weights, samplers: Sequence[PooledSampler]) -> SyncReport:
        """Publish the learner's weights into `samplers` and verify them there."""
        await self._turns.handover(samplers)
        with self._clock.stage("weight_sync"):
            transfer = await self._learner.publish(version, samplers)
            probe = await self._verify(version, samplers)
        report = SyncReport(version=version, transfer=transfer, probe=probe)
        self._on_sync(report)
        return report

    async def _verify(self, version: Weights, samplers: Sequence[PooledSampler]) -> ProbeReport:
        """Compare the learner, while it holds its parameters, with the engines after it."""
        expected = await self._learner.prompt_logprobs(version, self._probes)
        await self._turns.samplers()
        found = await within(
            self._config.deadline.sync,
            f"the probe of weights {version.name}",
            asyncio.gather(*(s.actor.prompt_logprobs.remote(self._probes) for s in samplers)),
        )
        names = [sampler.name for sampler in samplers]
        return compare_probes(
            expected,
            dict(zip(names, found, strict=True)),
            version,
            self._config.model.dtype,
            probe_bound(self._config),
        )
