"""One phase of learning, for both roles and for labelled data: make a batch, learn, repeat.

`run` skips what is finished and keeps what was made, so a resumed run walks the same lines.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from functools import partial
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from rzero_ray.phases.asking import to_rollout
from rzero_ray.phases.metrics import staleness as staleness_metrics
from rzero_ray.phases.metrics import update_metrics
from rzero_ray.protocols import Policy
from rzero_ray.run.concurrency import made_ahead
from rzero_ray.run.run import Run
from rzero_ray.types import (
    ChallengerSample,
    LearnerLostError,
    Role,
    Rollout,
    SolverSample,
    Step,
    UpdateReport,
    Vocabulary,
)

Batch = TypeVar("Batch")
Sample = TypeVar("Sample", ChallengerSample, SolverSample)


def demonstrations(
    tokenized: Iterable[tuple[NDArray[np.int32], NDArray[np.int32]]],
) -> list[Rollout]:
    """Return what `Policy.imitate` takes, of (prompt ids, answer ids): nobody sampled these."""
    return [
        Rollout(
            prompt_ids=prompt_ids,
            token_ids=token_ids,
            logprobs=np.zeros(len(token_ids), dtype=np.float32),
            advantage=1.0,
            prompt_index=index,
        )
        for index, (prompt_ids, token_ids) in enumerate(tokenized)
    ]


async def learn_step_by_step(
    policy: Policy,
    role: Role,
    iteration: int,
    run: Run,
    *,
    num_steps: int,
    staleness: int,
    make: Callable[[Step], Coroutine[Any, Any, Batch]],
    learn: Callable[[Batch, Step], Awaitable[UpdateReport]],
    describe: Callable[[Batch, Step], dict[str, float]],
) -> None:
    """Have a policy learn from what `make` returns of each step, unless the phase is finished.

    Up to `staleness` later steps are made while one is learned (`pipeline.staleness`). `describe`
    gives the phase's own part of a step's row of metrics. Where the learner dies, the phase begins
    again from its last checkpoint, as after a stop: updates since then are done again from what was
    sampled for them.
    """
    while (phase := run.begin_phase(iteration, role)) is not None:
        try:
            run.add_event("loading", iteration=iteration, phase=role)
            await policy.start_phase(phase)
            async with made_ahead(run.steps(iteration, role, num_steps), make, staleness) as made:
                async for step, batch in made:
                    report = await learn(batch, step)
                    row = describe(batch, step) | update_metrics(report)
                    run.finish_step(step, row, is_saved=report.saving is None)
                    if report.saving is not None:
                        report.saving.add_done_callback(partial(_keep_checkpoint, run, step))
            await policy.finish_phase(phase)
            run.finish_phase(phase)
        except LearnerLostError as error:
            run.note(f"iteration {iteration}, {role}: {error}; the phase goes on from disk")


def _keep_checkpoint(run: Run, step: Step, saving: asyncio.Task[None]) -> None:
    """Record a checkpoint that is written. One that is not is the next use of the learner's to
    tell, and the run does without it."""
    if not saving.cancelled() and saving.exception() is None:
        run.keep_checkpoint(step)


async def learn_from_samples(
    policy: Policy,
    role: Role,
    iteration: int,
    run: Run,
    sample_type: type[Sample],
    *,
    num_steps: int,
    staleness: int,
    sample: Callable[[Step], Awaitable[list[Sample]]],
    describe: Callable[[Sequence[Sample], Step], dict[str, float]],
    vocabulary_of: Callable[[Step], Vocabulary | None] = lambda step: None,
) -> None:
    """Have a policy learn by reinforcement from what `sample` draws for each step, which is kept as
    the step's rollouts; `vocabulary_of` says what it was drawn from.

    For the rest see `learn_step_by_step`.
    """

    async def make(step: Step) -> list[Sample]:
        return await run.once(f"{step.key}/rollouts", sample_type, partial(sample, step))

    async def learn(samples: list[Sample], step: Step) -> UpdateReport:
        return await policy.update([to_rollout(s) for s in samples], step, vocabulary_of(step))

    await learn_step_by_step(
        policy,
        role,
        iteration,
        run,
        num_steps=num_steps,
        staleness=staleness,
        make=make,
        learn=learn,
        describe=lambda samples, step: describe(samples, step) | staleness_metrics(samples, step),
    )
