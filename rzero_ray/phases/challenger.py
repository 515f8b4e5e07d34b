"""Train the Challenger: it earns what the Solver's disagreement pays (paper, section 3.2).

Shape suffixes: P prompts, G group of one prompt's questions.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from rzero_ray.config.config import Config
from rzero_ray.config.method import ChallengerConfig
from rzero_ray.method.advantages import (
    advantages_per_prompt,
    advantages_whole_batch,
    center_group,
    check_advantages,
    normalize_group,
)
from rzero_ray.method.novelty import NOVELTY_RULES, recall
from rzero_ray.method.rewards import CHALLENGER_REWARDS, Posed
from rzero_ray.phases.asking import (
    QUESTION_PARSERS,
    GatherAttempts,
    pose_and_vote,
    step_seeds,
    vocabulary_of,
    vote_in_full,
)
from rzero_ray.phases.learning import learn_from_samples
from rzero_ray.phases.metrics import challenger_metrics
from rzero_ray.protocols import Cast, Judge, Task
from rzero_ray.run.parts import gather_in_parts
from rzero_ray.run.run import Run
from rzero_ray.types import Attempt, ChallengerSample, Step

ADVANTAGES = {"per_prompt": advantages_per_prompt, "whole_batch": advantages_whole_batch}
"""The advantages of each value of `challenger.advantage`."""


async def train_challenger(config: Config, iteration: int, cast: Cast, run: Run) -> None:
    """Teach the Challenger to ask what the frozen Solver answers right about half the time."""
    if config.challenger.frozen:
        return
    await cast.solver.hold(run.stored.voter())

    async def sample(step: Step) -> list[ChallengerSample]:
        remembered = await asyncio.to_thread(_remembered, config.challenger.memory, run)
        gather = partial(gather_in_parts, run.stored.root / step.key, Attempt)
        return await sample_challenger(config, step, cast, remembered, gather)

    await learn_from_samples(
        cast.challenger,
        "challenger",
        iteration,
        run,
        ChallengerSample,
        num_steps=config.challenger.num_steps,
        staleness=config.pipeline.staleness,
        sample=sample,
        describe=lambda samples, step: challenger_metrics(samples, cast.task),
        vocabulary_of=partial(vocabulary_of, config),
    )


async def sample_challenger(
    config: Config, step: Step, cast: Cast, remembered: Sequence[str], gather: GatherAttempts
) -> list[ChallengerSample]:
    """Sample one step's questions, have the Solver vote on each, reward and compare them.

    `remembered` are questions of earlier steps, against which novelty is measured.
    """
    settings = config.challenger

    async def pose(prompt: int) -> list[Attempt]:
        return await pose_and_vote(
            cast,
            prompt,
            step_seeds(config.seed, step.key, prompt),
            settings.sampling,
            num_questions=settings.samples_per_prompt,
            parse=QUESTION_PARSERS[settings.question_format],
            learns=True,
            vote=vote_in_full(cast, config.voting, settings.num_votes),
            vocabulary=vocabulary_of(config, step),
        )

    attempts_PG = await gather(settings.num_prompts, pose)
    shares_PG = await repetition_shares(settings, attempts_PG, cast.judge)
    # Seconds for a large memory, in which others are answered.
    posed_PG = await asyncio.to_thread(_posed, attempts_PG, shares_PG, remembered, cast.task)
    reward, renew = CHALLENGER_REWARDS[settings.reward], NOVELTY_RULES[settings.novelty]
    rewards_PG = [
        [renew(reward(posed, settings, config.voting), posed.recall) for posed in group]
        for group in posed_PG
    ]
    advantages_PG = ADVANTAGES[settings.advantage](
        rewards_PG, normalize_group if settings.normalize_std else center_group
    )
    check_advantages(advantages_PG, step)
    return [
        ChallengerSample(
            prompt_index=prompt,
            prompt_ids=attempt.prompt_ids,
            token_ids=attempt.token_ids,
            logprobs=attempt.logprobs,
            text=attempt.text,
            weight_version=attempt.weight_version,
            weight_num_steps=attempt.weight_num_steps,
            question=attempt.question,
            answers=attempt.answers,
            label=attempt.label,
            num_agree=attempt.num_agree,
            num_votes=attempt.num_votes,
            repetition_share=shares_PG[prompt][g],
            reward=rewards_PG[prompt][g],
            advantage=advantages_PG[prompt][g],
            too_long=attempt.too_long,
            num_ambiguous=attempt.num_ambiguous,
        )
        for prompt, attempts in enumerate(attempts_PG)
        for g, attempt in enumerate(attempts)
    ]


@dataclass(frozen=True, slots=True)
class _Question:
    """The column of `rollouts.parquet` that a memory holds."""

    question: str | None


def _remembered(count: int, run: Run) -> list[str]:
    """Return the last `count` well-formed questions of the Challenger's finished steps."""
    found: list[str] = []
    if count == 0:
        return found
    for step in reversed(run.stored.sampled_steps("challenger")):
        if len(found) >= count:
            break
        rows = run.stored.read(f"{step.key}/rollouts", _Question)
        found = [row.question for row in rows if row.question is not None] + found
    return found[-count:]


def _posed(
    attempts_PG: Sequence[Sequence[Attempt]],
    shares_PG: Sequence[Sequence[float]],
    remembered: Sequence[str],
    task: Task,
) -> list[list[Posed]]:
    """Return [P][G] questions as their rewards see them; nobody remembers a malformed one."""
    questions = [a.question for group in attempts_PG for a in group if a.question is not None]
    recalls = iter(recall(questions, remembered, task.words, task.skeleton))
    return [
        [
            Posed(None, share)
            if attempt.question is None
            else Posed(attempt.ballot, share, next(recalls))
            for attempt, share in zip(attempts, shares, strict=True)
        ]
        for attempts, shares in zip(attempts_PG, shares_PG, strict=True)
    ]


async def repetition_shares(
    settings: ChallengerConfig, attempts_PG: Sequence[Sequence[Attempt]], judge: Judge
) -> list[list[float]]:
    """Return [P][G] cluster shares among the well-formed questions; 0 for malformed ones.

    By the official rule the batch is all questions, malformed ones as clusters of their own.
    """
    is_official = settings.repetition_rule == "official"
    questions_PG = [
        ["" if a.question is None and is_official else a.question for a in attempts]
        for attempts in attempts_PG
    ]
    batch = [q for questions in questions_PG for q in questions if q is not None]
    shares = iter(
        await judge.repetition_shares(
            batch, settings.repetition_threshold, settings.repetition_rule
        )
    )
    return [
        [0.0 if question is None else next(shares) for question in questions]
        for questions in questions_PG
    ]
