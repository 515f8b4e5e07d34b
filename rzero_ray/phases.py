"""The three phases of an iteration: train the Challenger, build a curriculum, train the Solver.

Each phase streams: a question goes to the Solver the moment it is complete, and its votes are
counted the moment the last of them is. `run` skips what is finished and keeps what is sampled,
so a resumed run walks the same lines. Shape suffixes: P prompts, G group, M votes.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from rzero_ray.advantages import (
    advantages_per_prompt,
    advantages_whole_batch,
    center_group,
    normalize_group,
)
from rzero_ray.concurrency import gather_all
from rzero_ray.config import ChallengerConfig, Config, SamplingConfig
from rzero_ray.curriculum import REPEATED, drop_reason, kept_items
from rzero_ray.parsing import parse_challenge
from rzero_ray.protocols import Judge, Policy, Task
from rzero_ray.rewards import MALFORMED_REWARD, challenger_reward, solver_reward
from rzero_ray.runstate import Run
from rzero_ray.seeds import derive_seed
from rzero_ray.step_metrics import (
    challenger_metrics,
    curriculum_metrics,
    solver_metrics,
    update_metrics,
)
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
class Cast:
    """Who takes part in a run."""

    challenger: Policy
    solver: Policy
    judge: Judge
    task: Task


@dataclass(frozen=True, slots=True)
class Attempt:
    """What the Challenger wrote, and what the Solver made of it."""

    completion: Completion
    question: str | None
    """None when malformed; then nobody voted."""
    ballot: Ballot


_NO_BALLOT = Ballot(answers=(), label=None, num_agree=0, num_votes=0)


async def train_challenger(config: Config, iteration: int, cast: Cast, run: Run) -> None:
    """Teach the Challenger to ask what the frozen Solver answers right about half the time."""
    for phase in run.learning_phase(iteration, "challenger"):
        await cast.challenger.start_phase(phase)
        for step in run.steps(iteration, "challenger", config.challenger.num_steps):
            samples = await run.once(
                f"{step.key}/rollouts",
                ChallengerSample,
                lambda step=step: sample_challenger(config, step, cast),
            )
            report = await cast.challenger.update([to_rollout(s) for s in samples], step)
            run.finish_step(step, challenger_metrics(samples, cast.task) | update_metrics(report))
        await cast.challenger.finish_phase(phase)


async def build_curriculum(
    config: Config, iteration: int, cast: Cast, run: Run
) -> list[CurriculumItem]:
    """Sample candidates from the frozen Challenger, vote, and keep those inside the band."""
    settings = config.curriculum
    num_steps = -(-settings.num_candidates // settings.candidates_per_step)
    for step in run.steps(iteration, "curriculum", num_steps):
        candidates = await run.once(
            f"{step.key}/candidates",
            Candidate,
            lambda step=step: sample_candidates(config, step, cast),
        )
        run.finish_step(step, curriculum_metrics(candidates, cast.task))
    everything = run.load_steps(iteration, "curriculum", num_steps, "candidates", Candidate)
    items = _without_repeats(kept_items(everything), cast.task)
    run.write_curriculum(iteration, items)
    return items


async def train_solver(
    config: Config, iteration: int, cast: Cast, items: list[CurriculumItem], run: Run
) -> None:
    """Teach the Solver the curriculum's pseudo-labels."""
    for phase in run.learning_phase(iteration, "solver"):
        await cast.solver.start_phase(phase)
        for step in run.steps(iteration, "solver", config.solver.num_steps if items else 0):
            samples = await run.once(
                f"{step.key}/rollouts",
                SolverSample,
                lambda step=step: sample_solver(config, step, cast, items),
            )
            report = await cast.solver.update([to_rollout(s) for s in samples], step)
            run.finish_step(step, solver_metrics(samples, cast.task) | update_metrics(report))
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
            num_votes=settings.num_votes,
        )
        for prompt in range(settings.num_prompts)
    )
    shares_PG = await _repetition_shares(settings, attempts_PG, cast.judge)
    rewards_PG = [
        [
            MALFORMED_REWARD
            if attempt.question is None
            else challenger_reward(attempt.ballot.agreement, share, settings.repetition_weight)
            for attempt, share in zip(attempts, shares, strict=True)
        ]
        for attempts, shares in zip(attempts_PG, shares_PG, strict=True)
    ]
    of_batch = (
        advantages_whole_batch if settings.advantage == "whole_batch" else advantages_per_prompt
    )
    advantages_PG = of_batch(
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


async def sample_candidates(config: Config, step: Step, cast: Cast) -> list[Candidate]:
    """Sample one step's candidates with their votes, each marked kept or dropped."""
    settings, task = config.curriculum, cast.task
    already = (step.index - 1) * settings.candidates_per_step
    groups = await gather_all(
        _pose_and_vote(
            config,
            cast,
            (step, index),
            settings.sampling,
            num_questions=1,
            num_votes=settings.num_votes,
        )
        for index in range(min(settings.candidates_per_step, settings.num_candidates - already))
    )
    heldout = {task.normalize(problem.question) for problem in task.heldout()}
    candidates: list[Candidate] = []
    seen: set[str] = set()
    for (attempt,) in groups:
        normal = None if attempt.question is None else task.normalize(attempt.question)
        dropped = drop_reason(normal, attempt.ballot, settings, heldout)
        if dropped is None and normal is not None and normal in seen:
            dropped = REPEATED
        seen.add(normal or "")
        candidates.append(
            Candidate(
                text=attempt.completion.text,
                question=attempt.question,
                answers=attempt.ballot.answers,
                label=attempt.ballot.label,
                num_agree=attempt.ballot.num_agree,
                num_votes=attempt.ballot.num_votes,
                num_tokens=len(attempt.completion.token_ids),
                dropped=dropped,
                truth=None if attempt.question is None else task.solve(attempt.question),
            )
        )
    return candidates


async def sample_solver(
    config: Config, step: Step, cast: Cast, items: list[CurriculumItem]
) -> list[SolverSample]:
    """Sample one step's answers to curriculum questions, grade and compare them."""
    batch_P = pick_items(items, config.solver.num_prompts, step, config.seed)
    groups_PG = await gather_all(
        _answer_and_grade(config, cast, item, derive_seed(config.seed, step.key, prompt))
        for prompt, item in enumerate(batch_P)
    )
    rewards_PG = [
        [solver_reward(answer, item.label) for _, answer in group]
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


def pick_items(
    items: Sequence[CurriculumItem], count: int, step: Step, seed: int
) -> list[CurriculumItem]:
    """Return the questions of a step: shuffled epochs over the curriculum, cut into steps.

    A curriculum smaller than a step is seen several times in it; nothing is ever too small.
    """
    picked: list[CurriculumItem] = []
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
    num_votes: int,
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
        _vote(config, cast, completion, num_votes, (step.key, prompt, g))
        for g, completion in enumerate(completions)
    )


async def _vote(
    config: Config,
    cast: Cast,
    completion: Completion,
    num_votes: int,
    place: tuple[str, int, int],
) -> Attempt:
    challenge = parse_challenge(completion.text)
    if challenge is None:
        return Attempt(completion, None, _NO_BALLOT)
    votes_M = await cast.solver.sample(
        to_request(
            cast.task.solver_messages(challenge.question),
            num_votes,
            derive_seed(config.seed, *place, "votes"),
            config.voting.sampling,
        )
    )
    ballot = await cast.judge.vote([vote.text for vote in votes_M])
    return Attempt(completion, challenge.question, ballot)


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
    """Return [P][G] cluster shares among the well-formed questions; 0 for malformed ones."""
    posed = [a.question for attempts in attempts_PG for a in attempts if a.question is not None]
    shares = iter(await judge.repetition_shares(posed, settings.repetition_threshold))
    return [
        [0.0 if attempt.question is None else next(shares) for attempt in attempts]
        for attempts in attempts_PG
    ]


def _without_repeats(items: list[CurriculumItem], task: Task) -> list[CurriculumItem]:
    """Drop questions that came up again in a later curriculum step."""
    return list({task.normalize(item.question): item for item in reversed(items)}.values())[::-1]


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
