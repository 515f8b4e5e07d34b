"""What all phases ask of the two policies: a question of the Challenger, votes of the Solver.

A question goes to the Solver the moment it is complete, and its votes are counted the moment the
last of them is. Shape suffixes: P prompts, G group, M votes.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from rzero_ray.answers.parsing import parse_question, parse_strict_question
from rzero_ray.config.config import Config
from rzero_ray.config.method import SamplingConfig, VotingConfig
from rzero_ray.method.early_stopping import NEXT_VOTES, NO_VOTE_YET
from rzero_ray.method.selection import Band
from rzero_ray.method.vocabulary import FORMAT_TEXTS
from rzero_ray.protocols import Cast
from rzero_ray.run.concurrency import gather_all
from rzero_ray.run.seeds import derive_seed
from rzero_ray.types import (
    Attempt,
    Ballot,
    ChallengerSample,
    Completion,
    Message,
    Rollout,
    SampleRequest,
    Sampling,
    SolverSample,
    Step,
    TooLongError,
    Vocabulary,
    Weights,
    WeightVersion,
)

GatherAttempts = Callable[
    [int, Callable[[int], Coroutine[Any, Any, list[Attempt]]]], Awaitable[list[list[Attempt]]]
]
"""Has the attempts at each of so many prompts made, all under way at once; returns them by prompt.
`parts.gather_in_parts` keeps those that are ready."""


@dataclass(frozen=True, slots=True)
class Votes:
    """The Solver's votes on a question."""

    ballot: Ballot
    texts: tuple[str, ...]
    """[M] what was sampled."""
    num_tokens: int


NO_VOTES = Votes(NO_VOTE_YET, (), 0)

TakeVotes = Callable[[str, int], Awaitable[Votes]]
"""Has the Solver vote on a question, the k-th vote drawn with seed + k."""

QUESTION_PARSERS = {
    "question_and_answer": parse_strict_question,
    "question": parse_question,
}
"""The parser of each value of `challenger.question_format`."""


async def pose_and_vote(
    cast: Cast,
    prompt: int,
    seed_of: Callable[..., int],
    sampling: SamplingConfig,
    *,
    num_questions: int,
    parse: Callable[[str], str | None],
    vote: TakeVotes,
    learns: bool,
    keeps_texts: bool = False,
    vocabulary: Vocabulary | None = None,
) -> list[Attempt]:
    """Sample [G] questions from a step's Challenger prompt number `prompt`, and the votes on each
    well-formed one.

    `vocabulary` is what the questions are drawn from, None all tokens. `learns` says whether the
    Challenger learns from these questions, and so reads their tokens, `keeps_texts` whether
    somebody reads the texts of the votes.
    `seed_of()` is the seed of the questions, `seed_of(g, "votes")` that of the votes on number g.
    """
    request = to_request(
        cast.task.challenger_messages(),
        num_questions,
        seed_of(),
        sampling,
        reads_tokens=learns,
        vocabulary=vocabulary,
    )

    async def attempt(index: int, completion: Completion) -> Attempt:
        question = parse(completion.text)
        if question is None or not cast.task.is_question(question):
            return _to_attempt(prompt, completion, None, NO_VOTES)
        try:
            votes = await vote(question, seed_of(index, "votes"))
        except TooLongError:
            return _to_attempt(prompt, completion, None, NO_VOTES, too_long=True)
        attempt = _to_attempt(prompt, completion, question, votes)
        return replace(attempt, vote_texts=votes.texts) if keeps_texts else attempt

    completions = await cast.challenger.sample(request)
    return await gather_all(attempt(g, completion) for g, completion in enumerate(completions))


def _to_attempt(
    prompt: int,
    completion: Completion,
    question: str | None,
    votes: Votes,
    too_long: bool = False,
) -> Attempt:
    ballot = votes.ballot
    return Attempt(
        prompt_index=prompt,
        prompt_ids=completion.prompt_ids,
        token_ids=completion.token_ids,
        logprobs=completion.logprobs,
        text=completion.text,
        num_tokens=completion.num_tokens,
        weight_version=weight_version(completion),
        weight_num_steps=weight_num_steps(completion),
        question=question,
        too_long=too_long,
        answers=ballot.answers,
        label=ballot.label,
        num_agree=ballot.num_agree,
        num_votes=ballot.num_votes,
        num_ambiguous=ballot.num_ambiguous,
        cluster_forms=tuple(form for form, _ in ballot.clusters),
        cluster_votes=np.array([votes for _, votes in ballot.clusters], np.int32),
        vote_tokens=votes.num_tokens,
    )


def vote_in_full(cast: Cast, voting: VotingConfig, num_votes: int) -> TakeVotes:
    """Return a vote of `num_votes` samples, taken all at once."""

    async def take(question: str, seed: int) -> Votes:
        votes_M = await _sample_votes(cast, voting, question, num_votes, seed)
        return await _count(cast, voting, votes_M)

    return take


def answer_in_full(cast: Cast, voting: VotingConfig, num_answers: int) -> TakeVotes:
    """Return `num_answers` samples that nobody counts: the answers to a question that has no exact
    one, drawn as votes are."""

    async def take(question: str, seed: int) -> Votes:
        sampled = await _sample_votes(cast, voting, question, num_answers, seed)
        texts = tuple(completion.text for completion in sampled)
        return Votes(NO_VOTE_YET, texts, sum(completion.num_tokens for completion in sampled))

    return take


def vote_until_decided(
    cast: Cast,
    voting: VotingConfig,
    band: Band,
) -> TakeVotes:
    """Return a vote in portions, until no further one can matter to the curriculum.

    A vote has the seed that it has in the full vote: those taken are the first of that one.
    """
    num_next_votes = NEXT_VOTES[voting.rule]

    async def take(question: str, seed: int) -> Votes:
        votes = NO_VOTES
        sampled: list[Completion] = []
        while count := num_next_votes(votes.ballot, band):
            sampled += await _sample_votes(cast, voting, question, count, seed + len(sampled))
            votes = await _count(cast, voting, sampled)
        return votes

    return take


def vote_unless(is_hopeless: Callable[[str], bool], vote: TakeVotes) -> TakeVotes:
    """Return a vote that no question gets which `is_hopeless`."""

    async def take(question: str, seed: int) -> Votes:
        return NO_VOTES if is_hopeless(question) else await vote(question, seed)

    return take


def step_seeds(seed: int, step_key: str, prompt: int) -> Callable[..., int]:
    """Return the seeds of one prompt of a step: of the prompt itself, or of a place below it."""
    return lambda *place: derive_seed(seed, step_key, prompt, *place)


def to_request(
    messages: tuple[Message, ...],
    num_samples: int,
    seed: int,
    config: SamplingConfig,
    reads_tokens: bool = True,
    vocabulary: Vocabulary | None = None,
) -> SampleRequest:
    """Return a request with a role's sampling settings."""
    sampling = Sampling(
        temperature=config.temperature,
        top_p=config.top_p,
        top_k=config.top_k,
        max_tokens=config.max_tokens,
        vocabulary=vocabulary,
    )
    return SampleRequest(
        messages=messages,
        num_samples=num_samples,
        seed=seed,
        sampling=sampling,
        reads_tokens=reads_tokens,
    )


def vocabulary_of(config: Config, step: Step) -> Vocabulary | None:
    """Return the tokens that the Challenger may write in a step; None where these are all."""
    if config.challenger.vocabulary_keep == 1.0:
        return None
    return Vocabulary(
        keep=config.challenger.vocabulary_keep,
        seed=derive_seed(config.seed, step.key, "vocabulary"),
        always=FORMAT_TEXTS,
    )


def to_rollout(sample: ChallengerSample | SolverSample) -> Rollout:
    """Return what the learner needs of a sample."""
    return Rollout(
        prompt_ids=sample.prompt_ids,
        token_ids=sample.token_ids,
        logprobs=sample.logprobs,
        advantage=sample.advantage,
        prompt_index=sample.prompt_index,
    )


def weight_version(completion: Completion) -> str:
    """Return the name of the weights that sampled the last token, or nothing without one."""
    weights = _last_weights(completion)
    return "" if weights is None else weights.name


def weight_num_steps(completion: Completion) -> int | None:
    """Return how many steps of their phase those weights had learned from; None outside one."""
    weights = _last_weights(completion)
    return weights.num_steps if isinstance(weights, WeightVersion) else None


def _last_weights(completion: Completion) -> Weights | None:
    return completion.weight_versions[-1][0] if completion.weight_versions else None


async def _sample_votes(
    cast: Cast, voting: VotingConfig, question: str, num_votes: int, seed: int
) -> list[Completion]:
    messages = cast.task.solver_messages(question)
    request = to_request(messages, num_votes, seed, voting.sampling, reads_tokens=False)
    return await cast.solver.sample(request)


async def _count(cast: Cast, voting: VotingConfig, sampled: Sequence[Completion]) -> Votes:
    texts = [completion.text for completion in sampled]
    ballot = await cast.judge.vote(texts, voting.rule)
    return Votes(ballot, tuple(texts), sum(completion.num_tokens for completion in sampled))
