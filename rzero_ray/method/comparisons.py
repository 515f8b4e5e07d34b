r"""Answers compared in pairs, where no exact answer exists: what verdicts come to, and what a
referee is taught.

Sources: J-Zero (arXiv 2608.26582), whose Judge learns from pairs that are ordered by construction
and never by its own scores; Challenger and Solver are paid by it. R-zero-creative pays the Solver
by rank, (G - rank) / (G - 1), which is the win share below where all pairs of a group are compared
and none is undecided. Both from notes about them, not held against code. What is different here:

- The Judge is a language model of the base's own shape that answers with a box, not a reward model,
  so it says which of two answers is better, not how good one is. It is called the referee, because
  `protocols.Judge` is who reads text.
- J-Zero's pairs are a Solver's answer against a Challenger's, and one composed of subtasks against
  one of a single attempt. Here they are an answer against its spoilt form (`Task.spoil`), the form
  of `verifier.negatives=structure`.
- J-Zero's Challenger is paid for low scores, and requests with a high deviation of scores are kept.
  Verdicts on pairs have no level, so here the deviation is what it is paid for: for requests on
  which the referee tells good answers from bad ones.

Shape suffixes: P requests, G answers to one of them.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence

import numpy as np

from rzero_ray.answers.parsing import parse_answer
from rzero_ray.method.verification import Spoil
from rzero_ray.protocols import OpenTask
from rzero_ray.types import Comparison, OrderedPair, PosedRequest, SampleRequest, Sampling

FIRST, SECOND = "1", "2"
"""The verdicts, as they stand in the box."""
_UNDECIDED = 0.5
"""What each of two answers wins where nothing makes one the better."""


def draw_pairs(num_answers: int, most: int, rng: random.Random) -> list[tuple[int, int]]:
    """Return the pairs of places 0 to `num_answers` - 1 that are compared: all, or `most` of them.

    Of fewer than all each answer has as many as any other, or one more or less, as far as that can
    be: the answers stand in a drawn circle, where neighbours come first.
    """
    order = list(range(num_answers))
    rng.shuffle(order)
    pairs = [
        (order[place], order[(place + distance) % num_answers])
        for distance in range(1, num_answers // 2 + 1)
        for place in range(num_answers)
    ]
    distinct = dict.fromkeys((min(pair), max(pair)) for pair in pairs)
    return list(distinct)[:most]


def verdict_requests(
    task: OpenTask, request: str, first: str, second: str, max_tokens: int
) -> tuple[SampleRequest, SampleRequest]:
    """Return what asks a referee which of two answers is better, shown in this order and in the
    other: one greedy text each."""
    sampling = Sampling(temperature=0.0, top_p=1.0, top_k=-1, max_tokens=max_tokens)
    shown, swapped = (
        SampleRequest(
            messages=task.referee_messages(request, *pair),
            num_samples=1,
            seed=0,
            sampling=sampling,
            reads_tokens=False,
        )
        for pair in ((first, second), (second, first))
    )
    return shown, swapped


def read_verdict(text: str) -> str | None:
    r"""Return the verdict that a referee's text boxes, `1` or `2`; None, which is no vote, of
    anything else."""
    verdict = parse_answer(text)
    return verdict if verdict in (FIRST, SECOND) else None


def without_asking(first: str | None, second: str | None) -> float | None:
    """Return what the first of two answers wins where nobody need be asked, else None.

    A text that holds no answer (None) loses against one that does; two that are alike win half.
    """
    if first == second:
        return _UNDECIDED
    if first is None or second is None:
        return float(second is None)
    return None


def outcome(comparison: Comparison) -> float:
    """Return what the first answer wins: the mean over the orders in which the two were shown, so
    that a referee who always says `1` decides nothing. A verdict that says nothing counts half."""
    votes = {FIRST: 1.0, SECOND: 0.0, None: _UNDECIDED}
    swapped = votes[comparison.verdict_swapped]
    return (votes[comparison.verdict] + 1.0 - swapped) / 2


def is_divided(comparison: Comparison) -> bool:
    """Return whether the verdicts in the two orders do not name one answer as the better."""
    return outcome(comparison) not in (0.0, 1.0)


def divided_share(comparisons: Sequence[Comparison]) -> float:
    """Return the share of comparisons that the order of presentation decided, or nobody."""
    return sum(map(is_divided, comparisons)) / max(1, len(comparisons))


def win_shares(num_answers: int, outcomes: Iterable[tuple[int, int, float]]) -> list[float]:
    """Return [G] the mean of what each answer wins over its comparisons, in [0, 1].

    `outcomes` are (first, second, what the first wins); an answer without any has one half.
    """
    won: list[list[float]] = [[] for _ in range(num_answers)]
    for first, second, wins in outcomes:
        won[first].append(wins)
        won[second].append(1.0 - wins)
    return [float(np.mean(of)) if of else _UNDECIDED for of in won]


def spread(shares_G: Sequence[float]) -> float:
    """Return how far apart the win shares of a group lie: their standard deviation over that of a
    group whose answers all have different ranks. 0 where none is better than another, at most 1
    where all pairs were compared."""
    if len(shares_G) < 2:
        return 0.0
    ranks = np.linspace(0.0, 1.0, len(shares_G))
    return min(1.0, float(np.std(shares_G) / np.std(ranks)))


def request_reward(
    shares_G: Sequence[float] | None, repetition_share: float, weight: float
) -> float:
    """Return max(0, spread - weight x share of the batch in the request's cluster).

    `shares_G` is None for a malformed request, which earns 0.
    """
    if shares_G is None:
        return 0.0
    return max(0.0, spread(shares_G) - weight * repetition_share)


def make_pairs(
    posed: Sequence[PosedRequest], per_answer: int, spoil: Spoil, rng: random.Random
) -> list[OrderedPair]:
    """Return each answer against spoilt forms of it, which count as the worse ones."""
    found = []
    for request in posed:
        for answer in request.answers:
            spoilt = {spoil(request.request, answer, rng) for _ in range(per_answer)} - {None}
            found += [
                OrderedPair(request=request.request, better=answer, worse=worse)
                for worse in sorted(text for text in spoilt if text is not None)
            ]
    return found
