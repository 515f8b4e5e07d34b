"""When the votes on a question may stop: what is still to come cannot change what becomes of it.

In the curriculum phase only the band decides (paper, section 3.3), not the share itself, so a
question whose fate is sealed after 8 of 10 votes needs no ninth. `is_decided` looks at every
outcome that the votes to come could have: whether the question is kept, under which label, and for
which reason it is dropped otherwise (with `curriculum.filters=official`, whether it is dropped).
Where the vote is by value, an outcome depends on how many votes each distinct answer has, not on
their order.

What is assumed of a vote to come: it is unanswered, an answer of its own, or joins one cluster, in
any notation. Two answers that differ never come into one cluster (`voting.majority_vote`), so
clusters do not merge; but where one holds several notations, a vote to come may equal one of them
only and draw it away (`Ballot.may_move`), which is allowed for as well. Assumed in both cases is
that `equivalent` says the same of two canonical forms each time, which a comparison that its time
limit killed might not.

The Challenger's phase rewards the share, so there every vote is taken.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

from rzero_ray.method.selection import Band, band_reason
from rzero_ray.types import Ballot, VotingRule

NO_VOTE_YET = Ballot(answers=(), label=None, num_agree=0, num_votes=0, may_move=False)


def num_next_votes(ballot: Ballot, band: Band) -> int:
    """Return how many more votes to take on a question now; 0 when what is known is enough.

    `ballot` counts the votes taken so far. The number is the least that could decide the outcome,
    so that none is taken in vain, and several are sampled at once where one alone decides nothing.
    """
    left = band.num_votes - len(ballot.answers)
    return _num_next_votes(ballot.form_counts, ballot.may_move, left, band)


def num_next_votes_in_full(ballot: Ballot, band: Band) -> int:
    """Return how many votes are missing: for rules under which nothing is known beforehand."""
    return band.num_votes - len(ballot.answers)


NEXT_VOTES: dict[VotingRule, Callable[[Ballot, Band], int]] = {
    "by_value": num_next_votes,
    "official": num_next_votes_in_full,
}
"""How many votes come next, for each value of `voting.rule` where `curriculum.early_stopping` is
on."""


def is_decided(
    form_counts: tuple[tuple[int, ...], ...],
    may_move: bool,
    num_left: int,
    band: Band,
) -> bool:
    """Say whether all continuations by `num_left` votes have one outcome: kept with one label, or
    dropped for one reason.

    `form_counts` and `may_move` are those of `Ballot`.
    """
    if num_left <= 0:
        return True
    num_now = sum(map(sum, form_counts))
    reasons = set()
    for num_answers in range(num_now, num_now + num_left + 1):
        reasons |= _reasons(form_counts, may_move, num_answers, band)
        if len(reasons) > 1:
            return False
    return reasons != {None} or _is_label_fixed(form_counts, may_move, num_left)


def _reasons(
    form_counts: tuple[tuple[int, ...], ...], may_move: bool, num_answers: int, band: Band
) -> set[str | None]:
    """Return the outcomes that are possible with `num_answers` answers in the end.

    The largest cluster may have any size between two bounds, and the outcome moves one way with it
    (too hard, kept, too easy): equal outcomes at the bounds are all.
    """
    sizes = [sum(counts) for counts in form_counts]
    now, most = sum(sizes), max(sizes, default=0)
    together = max(map(max, form_counts), default=0) if may_move else most
    smallest = max(together, min(num_answers, 1))
    largest = num_answers if may_move and num_answers > now else most + num_answers - now
    return {band_reason(size, num_answers, band) for size in (smallest, largest)}


def _is_label_fixed(
    form_counts: tuple[tuple[int, ...], ...], may_move: bool, num_left: int
) -> bool:
    """Say whether the majority's cluster and its most frequent form stay the same.

    A tie is decided by the order of texts, where a text to come may be the smallest, or drops the
    question (`voting.ties`): so no rival may draw level.
    """
    if not form_counts:
        return False
    sizes = [sum(counts) for counts in form_counts]
    label, *rivals = form_counts[0]
    if may_move:
        return label > sum(sizes) - label + num_left
    return (
        sizes[0] > max(sizes[1:], default=0) + num_left
        and label > max(rivals, default=0) + num_left
    )


@lru_cache(maxsize=65_536)
def _num_next_votes(
    form_counts: tuple[tuple[int, ...], ...], may_move: bool, num_left: int, band: Band
) -> int:
    for count in range(num_left):
        for continuation in _helpful_continuations(form_counts, count):
            if is_decided(continuation, may_move, num_left - count, band):
                return count
    return num_left


def _helpful_continuations(
    form_counts: tuple[tuple[int, ...], ...], count: int
) -> list[tuple[tuple[int, ...], ...]]:
    """Return what `count` votes may make of the counts at best: unanswered all of them, or some for
    the label and the others each an answer of its own."""
    label, rest = form_counts[:1], form_counts[1:]
    longer = [
        ((label[0][0] + same, *label[0][1:]),) if label else ((same,),) if same else ()
        for same in range(count + 1)
    ]
    return [form_counts] + [
        (*first, *rest, *((1,),) * (count - same)) for same, first in enumerate(longer)
    ]
