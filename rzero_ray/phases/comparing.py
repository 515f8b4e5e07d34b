"""What phases ask a referee: which of two answers to a request is better, in both orders.

Shape suffix: G answers to one request.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from rzero_ray.config.config import Config
from rzero_ray.method.comparisons import (
    FIRST,
    SECOND,
    draw_pairs,
    outcome,
    read_verdict,
    verdict_requests,
    win_shares,
    without_asking,
)
from rzero_ray.protocols import Cast, OpenTask, Policy
from rzero_ray.run.concurrency import gather_all
from rzero_ray.run.run import Run
from rzero_ray.run.seeds import derive_seed
from rzero_ray.types import Comparison, OpinionRule, SampleRequest, TooLongError

Opinion = Callable[[Sequence[SampleRequest], Policy, random.Random], Awaitable[list[str | None]]]
"""Gives the verdicts on two answers: as they were first shown, and in the other order."""


@dataclass(frozen=True, slots=True)
class Group:
    """The answers to one request, compared."""

    shares_G: list[float]
    """The win share of each."""
    comparisons: list[Comparison]
    """Of the pairs about which somebody had to be asked."""


async def ask_referee(
    requests: Sequence[SampleRequest], referee: Policy, rng: random.Random
) -> list[str | None]:
    """Return the referee's verdicts; `rng` is not drawn from. Answers that are too long to be shown
    together get none."""

    async def ask(request: SampleRequest) -> str | None:
        try:
            (completion,) = await referee.sample(request)
        except TooLongError:
            return None
        return read_verdict(completion.text)

    return await gather_all(ask(request) for request in requests)


async def toss(
    requests: Sequence[SampleRequest], referee: Policy, rng: random.Random
) -> list[str | None]:
    """Return one answer as the better in both orders, by a coin; nobody is asked."""
    return list(rng.choice(((FIRST, SECOND), (SECOND, FIRST))))


OPINIONS: dict[OpinionRule, Opinion] = {"asked": ask_referee, "tossed": toss}
"""Who gives the verdicts, for each value of `referee.opinion`."""


async def hold_referee(cast: Cast, run: Run) -> None:
    """Have the referee's engines sample from the referee that the run has now."""
    await referee_of(cast).hold(run.stored.current_model("referee"))


def referee_of(cast: Cast) -> Policy:
    """Return the referee's policy, which `method=judged` has."""
    assert cast.referee is not None, "a run by method=judged has the referee's policy"
    return cast.referee


async def compare_answers(
    config: Config,
    cast: Cast,
    task: OpenTask,
    prompt: int,
    request: str,
    texts_G: Sequence[str],
    seed: int,
) -> Group:
    """Have pairs of the answers to one request compared, at most `referee.max_comparisons`.

    `prompt` is the request's place in its step; `seed` draws the pairs.
    """
    answers_G = [task.read_answer(text) for text in texts_G]
    most = config.referee.max_comparisons
    told: list[tuple[int, int, float]] = []
    asked: list[tuple[int, int, str, str]] = []
    for i, k in draw_pairs(len(texts_G), most, random.Random(seed)):
        first, second = answers_G[i], answers_G[k]
        wins = without_asking(first, second)
        if wins is None:
            assert first is not None and second is not None
            asked.append((i, k, first, second))
        else:
            told.append((i, k, wins))

    async def compare(i: int, k: int, first: str, second: str) -> Comparison:
        limit = config.referee.sampling.max_tokens
        requests = verdict_requests(task, request, first, second, limit)
        rng = random.Random(derive_seed(seed, i, k))
        verdicts = await OPINIONS[config.referee.opinion](requests, referee_of(cast), rng)
        return Comparison(
            prompt_index=prompt,
            first_index=i,
            second_index=k,
            request=request,
            first=first,
            second=second,
            verdict=verdicts[0],
            verdict_swapped=verdicts[1],
        )

    comparisons = await gather_all(compare(*pair) for pair in asked)
    told += [(c.first_index, c.second_index, outcome(c)) for c in comparisons]
    return Group(win_shares(len(texts_G), told), comparisons)
