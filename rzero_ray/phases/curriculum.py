"""Build the curriculum: candidates, votes, and what lies inside the band (paper, section 3.3)."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from rzero_ray.config.config import Config, has_verifier
from rzero_ray.config.method import CurriculumConfig
from rzero_ray.method.selection import (
    TOO_LONG,
    Band,
    drop_crowded,
    has_enough,
    has_spent,
    kept_items,
    kept_questions,
    mark_dropped,
    normal_forms,
    reason_without_votes,
    replayed,
)
from rzero_ray.phases.asking import (
    QUESTION_PARSERS,
    GatherAttempts,
    pose_and_vote,
    step_seeds,
    vocabulary_of,
    vote_in_full,
    vote_unless,
    vote_until_decided,
)
from rzero_ray.phases.checking import LABEL_CHECKS
from rzero_ray.phases.metrics import curriculum_metrics
from rzero_ray.protocols import Cast, Judge, Task
from rzero_ray.run.parquet import read_records
from rzero_ray.run.parts import gather_in_parts
from rzero_ray.run.run import Run
from rzero_ray.run.seeds import derive_seed
from rzero_ray.tasks.registry import held_out_forms
from rzero_ray.types import Attempt, Candidate, CurriculumItem, Step, iteration_key


async def build_curriculum(
    config: Config, iteration: int, cast: Cast, run: Run
) -> list[CurriculumItem]:
    """Sample candidates from the frozen Challenger, vote, and keep those inside the band.

    Steps go on until enough questions are kept or all candidates are spent.
    """
    settings = config.curriculum
    if settings.questions_of:
        return await _take_curriculum(config, iteration, cast, run)
    await cast.challenger.hold(run.stored.current_model("challenger"))
    await cast.solver.hold(run.stored.voter())
    num_steps = -(-settings.num_candidates // settings.candidates_per_step)
    earlier = await asyncio.to_thread(
        run.stored.read_steps, "curriculum", iteration, "candidates", Candidate
    )
    for step in run.steps(iteration, "curriculum", num_steps):
        if has_enough(earlier, settings.num_wanted):
            kept = len(kept_questions(earlier))
            run.note(f"iteration {iteration}: {kept} questions kept in {step.index - 1} steps")
            break
        if has_spent(earlier, settings.max_voted):
            break
        gather = partial(gather_in_parts, run.stored.root / step.key, Attempt)
        sample = partial(sample_candidates, config, step, cast, earlier, gather)
        candidates = await run.once(f"{step.key}/candidates", Candidate, sample)
        run.finish_step(step, curriculum_metrics(candidates, cast.task, settings.num_votes))
        earlier.extend(candidates)
    items = kept_items(earlier, settings)
    await run.write_curriculum(iteration, items)
    return items


async def _take_curriculum(
    config: Config, iteration: int, cast: Cast, run: Run
) -> list[CurriculumItem]:
    """Take the questions that another run has kept in this iteration, with their true answers.

    Nothing is asked. What the other run's labels cost shows as the difference to this one.
    """
    source = Path(config.curriculum.questions_of).expanduser() / iteration_key(iteration)
    path = source / "curriculum.parquet"
    theirs = await asyncio.to_thread(read_records, path, CurriculumItem)
    truths = [(item, cast.task.solve(item.question)) for item in theirs]
    items = [replace(item, label=truth) for item, truth in truths if truth is not None]
    await run.write_curriculum(iteration, items)
    return items


def with_replay(iteration: int, items: list[CurriculumItem], run: Run) -> list[CurriculumItem]:
    """Return what the Solver is taught: the items, and some of earlier iterations'
    (`curriculum.replay_share`), the same ones whenever the run is taken up again."""
    config = run.stored.config
    if config.curriculum.replay_share == 0:
        return items
    earlier = [
        item
        for before in range(1, iteration)
        for item in run.stored.read(f"{iteration_key(before)}/curriculum", CurriculumItem)
    ]
    rng = random.Random(derive_seed(config.seed, iteration, "replay"))
    return replayed(items, earlier, config.curriculum.replay_share, rng)


async def sample_candidates(
    config: Config,
    step: Step,
    cast: Cast,
    earlier: Sequence[Candidate],
    gather: GatherAttempts,
) -> list[Candidate]:
    """Sample one step's candidates with their votes, each marked kept or dropped.

    `earlier` are the candidates of the iteration's steps before.
    """
    settings, task = config.curriculum, cast.task
    already = (step.index - 1) * settings.candidates_per_step
    heldout = held_out_forms(task)
    seen = normal_forms(earlier, task.normalize)

    def is_hopeless(question: str) -> bool:
        normal, truth = task.normalize(question), task.solve(question)
        return reason_without_votes(question, normal, truth, settings, heldout, seen) is not None

    in_full = vote_in_full(cast, config.voting, settings.num_votes)
    if settings.early_stopping:
        band = Band.of(settings, config.voting)
        vote = vote_until_decided(cast, config.voting, band)
    else:
        vote = in_full
    if settings.early_stopping or settings.max_voted:
        vote = vote_unless(is_hopeless, vote)

    async def pose(index: int) -> list[Attempt]:
        return await pose_and_vote(
            cast,
            index,
            step_seeds(config.seed, step.key, index),
            settings.sampling,
            num_questions=1,
            parse=QUESTION_PARSERS[_question_format(config)],
            vote=vote,
            learns=False,
            keeps_texts=has_verifier(config),
            vocabulary=vocabulary_of(config, step),
        )

    count = min(settings.candidates_per_step, settings.num_candidates - already)
    groups = await gather(count, pose)
    candidates = [_to_candidate(attempt, task) for (attempt,) in groups]
    marked = mark_dropped(candidates, earlier, settings, config.voting, task.normalize, heldout)
    limited = await _limit_clusters(settings, marked, earlier, cast.judge)
    check = LABEL_CHECKS[settings.check]
    return await check(limited, cast, in_full, partial(derive_seed, config.seed, step.key))


def _question_format(config: Config) -> str:
    """Return the format that candidates must have: in the official code not that of training."""
    wanted = config.curriculum.question_format
    return config.challenger.question_format if wanted == "as_trained" else wanted


def _to_candidate(attempt: Attempt, task: Task) -> Candidate:
    """Return a candidate that nothing has dropped yet, unless it was too long to be voted on."""
    return Candidate(
        text=attempt.text,
        question=attempt.question,
        answers=attempt.answers,
        label=attempt.label,
        num_agree=attempt.num_agree,
        num_votes=attempt.num_votes,
        num_tokens=attempt.num_tokens,
        dropped=TOO_LONG if attempt.too_long else None,
        truth=None if attempt.question is None else task.solve(attempt.question),
        vote_tokens=attempt.vote_tokens,
        tied=attempt.ballot.is_tied,
        num_ambiguous=attempt.num_ambiguous,
        vote_texts=attempt.vote_texts,
    )


async def _limit_clusters(
    settings: CurriculumConfig,
    candidates: list[Candidate],
    earlier: Sequence[Candidate],
    judge: Judge,
) -> list[Candidate]:
    """Drop what is too much of the same, the earlier steps' kept questions counted."""
    if settings.max_per_cluster == 0:
        return candidates
    before, now = kept_questions(earlier), kept_questions(candidates)
    ids = await judge.repetition_clusters([*before, *now], settings.cluster_threshold)
    return drop_crowded(
        candidates, ids[: len(before)], ids[len(before) :], settings.max_per_cluster
    )
