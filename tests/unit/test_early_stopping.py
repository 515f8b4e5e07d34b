"""Votes that are not taken change nothing: checked over all sequences of votes."""

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import product

import pytest

from rzero_ray.answers.equality import equivalent
from rzero_ray.answers.voting import majority_vote
from rzero_ray.config.method import CurriculumConfig, VotingConfig
from rzero_ray.method.early_stopping import (
    NEXT_VOTES,
    NO_VOTE_YET,
    is_decided,
    num_next_votes,
    num_next_votes_in_full,
)
from rzero_ray.method.selection import Band, reason_by_votes
from rzero_ray.types import Ballot, Candidate
from tests.marks import slow

CURRICULUM = CurriculumConfig(num_votes=10)
HALF = VotingConfig(min_answered=0.5)
Rules = tuple[CurriculumConfig, VotingConfig]
PAPER: Rules = (CURRICULUM, HALF)
Answer = str | None
Equivalence = Callable[[str, str], bool]


def ballot_of(answers: Sequence[Answer], same: Equivalence = equivalent) -> Ballot:
    return majority_vote(answers, same)


def outcome(ballot: Ballot, rules: Rules) -> tuple[str | None, str | None]:
    """Return (why dropped, label if kept) by the rules of the curriculum."""
    candidate = Candidate(
        text="",
        question="q",
        answers=ballot.answers,
        label=ballot.label,
        num_agree=ballot.num_agree,
        num_votes=ballot.num_votes,
        num_tokens=0,
        dropped=None,
        truth=None,
        tied=ballot.is_tied,
    )
    reason = reason_by_votes(candidate, *rules)
    return reason, ballot.label if reason is None else None


def take(answers: Sequence[Answer], rules: Rules, same: Equivalence = equivalent) -> Ballot:
    """Take votes in portions, as the curriculum does."""
    ballot = NO_VOTE_YET
    while count := num_next_votes(ballot, Band.of(*rules)):
        ballot = ballot_of(answers[: len(ballot.answers) + count], same)
    return ballot


def within_one(a: str, b: str) -> bool:
    """Not transitive: p1 ~ p2 ~ p3, but p1 is not p3."""
    return a == b or (a[0] == b[0] == "p" and abs(int(a[1:]) - int(b[1:])) <= 1)


def bands(num_votes: int) -> list[Rules]:
    base = CurriculumConfig(num_votes=num_votes)
    everything = replace(base, min_agreement=0.0, max_agreement=1.0)
    narrow = replace(base, min_agreement=0.5, max_agreement=0.6)
    return [
        (base, VotingConfig(min_answered=0.5)),
        (base, VotingConfig(min_answered=0.0)),
        (everything, VotingConfig(min_answered=0.0)),
        (narrow, VotingConfig(min_answered=0.8)),
        (base, VotingConfig(min_answered=0.5, ties="drop")),
        (base, VotingConfig(min_answered=0.0, share="all")),
        (everything, VotingConfig(min_answered=0.3, share="all", ties="drop")),
    ]


@pytest.mark.parametrize("num_votes", [1, 2, 3, 4, 5, slow(6)])
@pytest.mark.parametrize(
    ("alphabet", "same"),
    [
        ((None, "3", "7", "5"), equivalent),  # numbers: nothing joins
        ((None, "3", "3.0", "7"), equivalent),  # two notations of one answer
        ((None, "50", "0.5", "50%"), equivalent),  # joined by the third
        (("p1", "p2", "p3", None), within_one),
    ],
)
def test_no_sequence_of_votes_ends_otherwise_than_in_full(
    num_votes: int, alphabet: tuple[Answer, ...], same: Equivalence
):
    full = lru_cache(None)(lambda answers: ballot_of(sorted(answers, key=str), same))
    for config in bands(num_votes):
        for answers in product(alphabet, repeat=num_votes):
            assert outcome(take(answers, config, same), config) == outcome(
                full(tuple(sorted(answers, key=str))), config
            )


@pytest.mark.parametrize(
    "config", [PAPER, *bands(10), *bands(9), (replace(CURRICULUM, num_votes=25), HALF)]
)
def test_ten_random_votes_end_as_in_full(config: Rules):
    rng = random.Random(0)
    alphabet = ("3", "3.0", "7", "5", "12", None, "50%", "50", "0.5", r"\frac{6}{2}", "6 cm", "6")
    for _ in range(1500):
        some = rng.sample(alphabet, rng.randint(1, 6))
        weights = [rng.random() ** 3 for _ in some]
        answers = rng.choices(some, weights, k=config[0].num_votes)
        assert outcome(take(answers, config), config) == outcome(ballot_of(answers), config)


def test_what_is_undecided_can_end_in_two_ways():
    """No vote is taken in vain: while numbers alone were answered, every vote might matter."""

    def same(a: str, b: str) -> bool:
        return a.lstrip("!") == b.lstrip("!")  # "!7" is another notation of 7, first in text order

    alphabet = (None, "3", "7", "5")
    own = ("11", "13", "17", "19", "23")
    for config in bands(5)[:2]:
        for length in range(5):
            for start in product(alphabet, repeat=length):
                ballot, left = ballot_of(start, same), 5 - length
                if is_decided(ballot.form_counts, ballot.may_move, left, Band.of(*config)):
                    continue
                ends = {
                    outcome(ballot_of([*start, *(x,) * k, *rest[: left - k]], same), config)
                    for x in (*alphabet, "!3", "!7", "!5")
                    for k in range(left + 1)
                    for rest in (own, (None,) * left)
                }
                assert len(ends) > 1, start


def test_portions_by_hand():
    band = Band.of(*PAPER)
    assert num_next_votes(NO_VOTE_YET, band) == 6  # six unanswered leave too few
    assert num_next_votes(ballot_of(["3"] * 6), band) == 2  # eight of ten is above the band
    assert num_next_votes(ballot_of(["3"] * 8), band) == 0
    assert num_next_votes(ballot_of(["3"] * 5 + ["7", "5", "1"]), band) == 0  # 5 to 7 of 10
    assert num_next_votes(ballot_of(["3"] * 5 + ["7"] * 3), band) == 1  # five against five
    assert num_next_votes(ballot_of(["50"] * 5 + ["0.5", "0.5", "1"]), band) == 0  # 50% joins one
    assert num_next_votes(ballot_of([None] * 6), band) == 0
    assert num_next_votes(ballot_of(["3"] * 10), band) == 0


def test_other_numbers_of_votes_need_no_long_search():
    config = Band.of(replace(CURRICULUM, num_votes=64), HALF)
    assert num_next_votes(NO_VOTE_YET, config) == 33
    assert num_next_votes(ballot_of(["3"] * 30 + ["7"] * 10), config) >= 1


def test_under_the_official_rule_all_votes_are_taken():
    ballot = replace(NO_VOTE_YET, answers=("3",) * 8)
    assert NEXT_VOTES["official"] is num_next_votes_in_full
    assert num_next_votes_in_full(ballot, Band.of(*PAPER)) == 2
