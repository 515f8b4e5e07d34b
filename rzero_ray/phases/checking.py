"""A second opinion on the labels of kept questions, for further votes (`curriculum.check`)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

from rzero_ray.method.selection import UNCONFIRMED
from rzero_ray.phases.asking import TakeVotes
from rzero_ray.protocols import Cast
from rzero_ray.run.concurrency import gather_all
from rzero_ray.types import Ballot, Candidate, CheckRule, TooLongError

LabelCheck = Callable[
    [list[Candidate], Cast, TakeVotes, Callable[..., int]], Awaitable[list[Candidate]]
]
"""Drops those of the kept candidates whose labels it does not confirm; takes them all, who is
asked, how a vote is taken, and the seeds of a candidate's further votes."""


async def check_nothing(
    candidates: list[Candidate], cast: Cast, vote: TakeVotes, seed_of: Callable[..., int]
) -> list[Candidate]:
    """Return the candidates as they are."""
    return candidates


async def check_by_halves(
    candidates: list[Candidate], cast: Cast, vote: TakeVotes, seed_of: Callable[..., int]
) -> list[Candidate]:
    """Keep a label where solving the question in two parts gives it, too.

    The first part is voted on, and its majority answer goes into the second, whose majority answer
    must equal the label. A mistake that the Solver makes in long questions, where it agrees with
    itself, is so found without a true answer. A question without halves stays as it is. Ours, from
    the laboratory; two ways of solving that must agree are an old idea.
    """

    async def check(index: int, candidate: Candidate) -> Candidate:
        halves = None if candidate.question is None else cast.task.halve(candidate.question)
        if candidate.dropped is not None or halves is None:
            return candidate
        first, tokens = await _vote(vote, halves.first, seed_of(index, "first half"))
        second = None if first is None or first.label is None else halves.second(first.label)
        votes = 0 if first is None else len(first.answers)
        end = None
        if second is not None:
            end, more = await _vote(vote, second, seed_of(index, "second half"))
            tokens += more
            votes += 0 if end is None else len(end.answers)
        return replace(
            candidate,
            dropped=None if await _confirms(cast, end, candidate.label) else UNCONFIRMED,
            vote_tokens=candidate.vote_tokens + tokens,
            check_votes=votes,
        )

    return await gather_all(check(index, candidate) for index, candidate in enumerate(candidates))


async def _vote(vote: TakeVotes, question: str, seed: int) -> tuple[Ballot | None, int]:
    try:
        return await vote(question, seed)
    except TooLongError:
        return None, 0


async def _confirms(cast: Cast, ballot: Ballot | None, label: str | None) -> bool:
    """Say whether a ballot's majority is the label, by the rules by which answers are graded."""
    if ballot is None or ballot.label is None or label is None:
        return False
    answers: Sequence[str | None] = await cast.judge.grade([rf"\boxed{{{ballot.label}}}"], label)
    return answers[0] == label


LABEL_CHECKS: dict[CheckRule, LabelCheck] = {"none": check_nothing, "halves": check_by_halves}
"""The check of each value of `curriculum.check`."""
