"""The three phases of an iteration: train the Challenger, build a curriculum, train the Solver.

Each phase streams: a question goes to the Solver the moment it is complete, and its votes are
counted the moment the last of them is. `run` skips what is finished and keeps what is sampled,
so a resumed run walks the same lines. Shape suffixes: P prompts, G group, M votes.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from rzero_ray.answers.parsing import parse_question, parse_strict_question
from rzero_ray.config.config import ChallengerConfig, Config, CurriculumConfig, SamplingConfig
from rzero_ray.method.advantages import (
    advantages_per_prompt,
    advantages_whole_batch,
    center_group,
    normalize_group,
)
from rzero_ray.method.early_stopping import NEXT_VOTES, NO_VOTE_YET
from rzero_ray.method.rewards import CHALLENGER_REWARDS, SOLVER_REWARDS
from rzero_ray.method.selection import (
    drop_crowded,
    has_enough,
    kept_items,
    kept_questions,
    mark_dropped,
    normal_forms,
    reason_without_votes,
)
from rzero_ray.phases.metrics import (
    challenger_metrics,
    curriculum_metrics,
    solver_metrics,
    staleness,
    update_metrics,
)
from rzero_ray.protocols import Cast, Judge
from rzero_ray.run.concurrency import gather_all, made_ahead
from rzero_ray.run.run import Run
from rzero_ray.run.seeds import derive_seed
from rzero_ray.types import (
    Ballot,
    Candidate,
    ChallengerSample,
    Completion,
    CurriculumItem,
    Message,
    Rollout,
    SampleRequest,
    Sampling,
    SolverSample,
    Step,
)


@dataclass(frozen=True, slots=True)
class Attempt:
    """What the Challenger wrote, and what the Solver made of it."""

    completion: Completion
    question: str | None
    """None when malformed; then nobody voted."""
    ballot: Ballot
    vote_tokens: int
    """Tokens of the votes."""


Item = TypeVar("Item")

TakeVotes = Callable[[str, int], Awaitable[tuple[Ballot, int]]]
"""Has the Solver vote on a question, the k-th vote drawn with seed + k; returns the ballot and the
tokens of the votes."""
_QUESTION_PARSERS = {
    "question_and_answer": parse_strict_question,
    "question": parse_question,
}
"""Of each value of `challenger.question_format`."""
_ADVANTAGES = {"per_prompt": advantages_per_prompt, "whole_batch": advantages_whole_batch}
"""Of each value of `challenger.advantage`."""


async def train_challenger(config: Config, iteration: int, cast: Cast, run: Run) -> None:
    """Teach the Challenger to ask what the frozen Solver answers right about half the time."""
    if config.challenger.frozen:
        return
    for phase in run.learning_phase(iteration, "challenger"):
        await cast.challenger.start_phase(phase)

        def sampled(step: Step) -> Coroutine[Any, Any, list[ChallengerSample]]:
            make = partial(sample_challenger, config, step, cast)
            return run.once(f"{step.key}/rollouts", ChallengerSample, make)

        steps = run.steps(iteration, "challenger", config.challenger.num_steps)
        async with made_ahead(steps, sampled, config.pipeline.staleness) as batches:
            async for step, samples in batches:
                report = await cast.challenger.update([to_rollout(s) for s in samples], step)
                metrics = challenger_metrics(samples, cast.task) | staleness(samples, step)
                run.finish_step(step, metrics | update_metrics(report))
        await cast.challenger.finish_phase(phase)


async def build_curriculum(
    config: Config, iteration: int, cast: Cast, run: Run
) -> list[CurriculumItem]:
    """Sample candidates from the frozen Challenger, vote, and keep those inside the band.

    Steps go on until enough questions are kept or all candidates are spent.
    """
    settings = config.curriculum
    await cast.challenger.hold(run.current_model("challenger"))
    await cast.solver.hold(run.current_model("solver"))
    num_steps = -(-settings.num_candidates // settings.candidates_per_step)
    earlier = run.load_finished_steps(iteration, "curriculum", "candidates", Candidate)
    for step in run.steps(iteration, "curriculum", num_steps):
        if has_enough(earlier, settings.num_wanted):
            kept = len(kept_questions(earlier))
            run.note(f"iteration {iteration}: {kept} questions kept in {step.index - 1} steps")
            break
        candidates = await run.once(
            f"{step.key}/candidates",
            Candidate,
            lambda step=step: sample_candidates(config, step, cast, earlier),
        )
        run.finish_step(step, curriculum_metrics(candidates, cast.task, settings.num_votes))
        earlier.extend(candidates)
    items = kept_items(earlier, settings)
    run.write_curriculum(iteration, items)
    return items


async def train_solver(
    config: Config, iteration: int, cast: Cast, items: list[CurriculumItem], run: Run
) -> None:
    """Teach the Solver the curriculum's pseudo-labels."""
    for phase in run.learning_phase(iteration, "solver"):
        await cast.solver.start_phase(phase)

        def sampled(step: Step) -> Coroutine[Any, Any, list[SolverSample]]:
            make = partial(sample_solver, config, step, cast, items)
            return run.once(f"{step.key}/rollouts", SolverSample, make)

        steps = run.steps(iteration, "solver", config.solver.num_steps if items else 0)
        async with made_ahead(steps, sampled, config.pipeline.staleness) as batches:
            async for step, samples in batches:
                report = await cast.solver.update([to_rollout(s) for s in samples], step)
                metrics = solver_metrics(samples, cast.task) | staleness(samples, step)
                run.finish_step(step, metrics | update_metrics(report))
        await cast.solver.finish_phase(phase)


async def sample_challenger(config: Config, step: Step, cast: Cast) -> list[ChallengerSample]:
    """Sample one step's questions, have the Solver vote on each, reward and compare them."""
    settings = config.challenger
    attempts_PG = await gather_all(
        _pose_and_vote(
            config,
            cast,
            (step, prompt),
            settings.sampling,
            num_questions=settings.samples_per_prompt,
            vote=partial(_vote_in_full, config, cast, settings.num_votes),
        )
        for prompt in range(settings.num_prompts)
    )
    shares_PG = await _repetition_shares(settings, attempts_PG, cast.judge)
    reward = CHALLENGER_REWARDS[settings.reward]
    rewards_PG = [
        [
            reward(
                None if attempt.question is None else attempt.ballot.agreement,
                share,
                settings.repetition_weight,
            )
            for attempt, share in zip(attempts, shares, strict=True)
        ]
        for attempts, shares in zip(attempts_PG, shares_PG, strict=True)
    ]
    advantages_PG = _ADVANTAGES[settings.advantage](
        rewards_PG, normalize_group if settings.normalize_std else center_group
    )
    return [
        ChallengerSample(
            prompt_index=prompt,
            prompt_ids=attempt.completion.prompt_ids,
            token_ids=attempt.completion.token_ids,
            logprobs=attempt.completion.logprobs,
            text=attempt.completion.text,
            weight_version=_last_version(attempt.completion),
            question=attempt.question,
            answers=attempt.ballot.answers,
            label=attempt.ballot.label,
            num_agree=attempt.ballot.num_agree,
            num_votes=attempt.ballot.num_votes,
            repetition_share=shares_PG[prompt][g],
            reward=rewards_PG[prompt][g],
            advantage=advantages_PG[prompt][g],
        )
        for prompt, attempts in enumerate(attempts_PG)
        for g, attempt in enumerate(attempts)
    ]


async def sample_candidates(
    config: Config, step: Step, cast: Cast, earlier: Sequence[Candidate]
) -> list[Candidate]:
    """Sample one step's candidates with their votes, each marked kept or dropped.

    `earlier` are the candidates of the iteration's steps before.
    """
    settings, task = config.curriculum, cast.task
    already = (step.index - 1) * settings.candidates_per_step
    heldout = {task.normalize(problem.question) for problem in task.heldout()}
    seen = normal_forms(earlier, task.normalize)

    def is_hopeless(question: str) -> bool:
        normal, truth = task.normalize(question), task.solve(question)
        return reason_without_votes(question, normal, truth, settings, heldout, seen) is not None

    if settings.early_stopping:
        vote = partial(_vote_until_decided, config, cast, is_hopeless)
    else:
        vote = partial(_vote_in_full, config, cast, settings.num_votes)
    groups = await gather_all(
        _pose_and_vote(config, cast, (step, index), settings.sampling, num_questions=1, vote=vote)
        for index in range(min(settings.candidates_per_step, settings.num_candidates - already))
    )
    candidates = [
        Candidate(
            text=attempt.completion.text,
            question=attempt.question,
            answers=attempt.ballot.answers,
            label=attempt.ballot.label,
            num_agree=attempt.ballot.num_agree,
            num_votes=attempt.ballot.num_votes,
            num_tokens=len(attempt.completion.token_ids),
            dropped=None,
            truth=None if attempt.question is None else task.solve(attempt.question),
            vote_tokens=attempt.vote_tokens,
        )
        for (attempt,) in groups
    ]
    marked = mark_dropped(candidates, earlier, settings, task.normalize, heldout)
    return await _limit_clusters(settings, marked, earlier, cast.judge)


async def sample_solver(
    config: Config, step: Step, cast: Cast, items: list[CurriculumItem]
) -> list[SolverSample]:
    """Sample one step's answers to curriculum questions, grade and compare them."""
    batch_P = pick_items(items, config.solver.num_prompts, step, config.seed)
    groups_PG = await gather_all(
        _answer_and_grade(config, cast, item, derive_seed(config.seed, step.key, prompt))
        for prompt, item in enumerate(batch_P)
    )
    reward = SOLVER_REWARDS[config.solver.reward]
    rewards_PG = [
        [reward(answer, item.label, completion.text) for completion, answer in group]
        for item, group in zip(batch_P, groups_PG, strict=True)
    ]
    advantages_PG = advantages_per_prompt(
        rewards_PG, normalize_group if config.solver.normalize_std else center_group
    )
    return [
        SolverSample(
            prompt_index=prompt,
            question=batch_P[prompt].question,
            label=batch_P[prompt].label,
            prompt_ids=completion.prompt_ids,
            token_ids=completion.token_ids,
            logprobs=completion.logprobs,
            text=completion.text,
            weight_version=_last_version(completion),
            answer=answer,
            reward=rewards_PG[prompt][g],
            advantage=advantages_PG[prompt][g],
        )
        for prompt, group in enumerate(groups_PG)
        for g, (completion, answer) in enumerate(group)
    ]


def pick_items(items: Sequence[Item], count: int, step: Step, seed: int) -> list[Item]:
    """Return the questions of a step: shuffled epochs over the curriculum, cut into steps.

    A curriculum smaller than a step is seen several times in it; nothing is ever too small.
    """
    picked: list[Item] = []
    position = (step.index - 1) * count
    while len(picked) < count:
        epoch, start = divmod(position + len(picked), len(items))
        order = list(items)
        random.Random(derive_seed(seed, step.iteration, "epoch", epoch)).shuffle(order)
        picked += order[start : start + count - len(picked)]
    return picked


async def _pose_and_vote(
    config: Config,
    cast: Cast,
    place: tuple[Step, int],
    sampling: SamplingConfig,
    *,
    num_questions: int,
    vote: TakeVotes,
) -> list[Attempt]:
    """Sample questions from the prompt at `place` (step, index) and the votes on each."""
    step, prompt = place
    completions = await cast.challenger.sample(
        to_request(
            cast.task.challenger_messages(),
            num_questions,
            derive_seed(config.seed, step.key, prompt),
            sampling,
        )
    )
    return await gather_all(
        _attempt(config, completion, derive_seed(config.seed, step.key, prompt, g, "votes"), vote)
        for g, completion in enumerate(completions)
    )


async def _attempt(config: Config, completion: Completion, seed: int, vote: TakeVotes) -> Attempt:
    question = _QUESTION_PARSERS[config.challenger.question_format](completion.text)
    if question is None:
        return Attempt(completion, None, NO_VOTE_YET, 0)
    return Attempt(completion, question, *await vote(question, seed))


async def _vote_in_full(
    config: Config, cast: Cast, num_votes: int, question: str, seed: int
) -> tuple[Ballot, int]:
    """Take all votes at once (`TakeVotes`)."""
    votes_M = await _sample_votes(config, cast, question, num_votes, seed)
    ballot = await cast.judge.vote([vote.text for vote in votes_M], config.voting.rule)
    return ballot, _count_tokens(votes_M)


async def _vote_until_decided(
    config: Config, cast: Cast, is_hopeless: Callable[[str], bool], question: str, seed: int
) -> tuple[Ballot, int]:
    """Take votes in portions until no further one can matter to the curriculum (`TakeVotes`).

    A vote has the seed that it has in the full vote: those taken are the first of that one.
    """
    ballot, votes = NO_VOTE_YET, []
    if is_hopeless(question):
        return ballot, 0
    num_next_votes = NEXT_VOTES[config.voting.rule]
    while count := num_next_votes(ballot, config.curriculum):
        votes += await _sample_votes(config, cast, question, count, seed + len(votes))
        ballot = await cast.judge.vote([vote.text for vote in votes], config.voting.rule)
    return ballot, _count_tokens(votes)


async def _sample_votes(
    config: Config, cast: Cast, question: str, num_votes: int, seed: int
) -> list[Completion]:
    messages = cast.task.solver_messages(question)
    return await cast.solver.sample(to_request(messages, num_votes, seed, config.voting.sampling))


def _count_tokens(completions: Sequence[Completion]) -> int:
    return sum(len(completion.token_ids) for completion in completions)


async def _answer_and_grade(
    config: Config, cast: Cast, item: CurriculumItem, seed: int
) -> list[tuple[Completion, str | None]]:
    """Return [G] completions, each with its graded answer (`Judge.grade`)."""
    completions = await cast.solver.sample(
        to_request(
            cast.task.solver_messages(item.question),
            config.solver.samples_per_prompt,
            seed,
            config.solver.sampling,
        )
    )
    answers = await cast.judge.grade([completion.text for completion in completions], item.label)
    return list(zip(completions, answers, strict=True))


async def _repetition_shares(
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


def to_request(
    messages: tuple[Message, ...], num_samples: int, seed: int, config: SamplingConfig
) -> SampleRequest:
    """Return a request with a role's sampling settings."""
    sampling = Sampling(
        temperature=config.temperature,
        top_p=config.top_p,
        top_k=config.top_k,
        max_tokens=config.max_tokens,
    )
    return SampleRequest(messages=messages, num_samples=num_samples, seed=seed, sampling=sampling)


def to_rollout(sample: ChallengerSample | SolverSample) -> Rollout:
    """Return what the learner needs of a sample."""
    return Rollout(
        prompt_ids=sample.prompt_ids,
        token_ids=sample.token_ids,
        logprobs=sample.logprobs,
        advantage=sample.advantage,
        prompt_index=sample.prompt_index,
    )


def _last_version(completion: Completion) -> str:
    return completion.weight_versions[-1][0] if completion.weight_versions else ""
