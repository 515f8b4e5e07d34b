"""Which candidates are kept, by hand."""

from dataclasses import replace

import pytest

from rzero_ray.config.method import CurriculumConfig, VotingConfig
from rzero_ray.method.selection import (
    CROWDED,
    HELD_OUT,
    MALFORMED,
    NO_TRUTH,
    REPEATED,
    TIED,
    TOO_EASY,
    TOO_HARD,
    UNANSWERED,
    WORDS,
    count_dropped,
    drop_crowded,
    has_enough,
    kept_items,
    mark_dropped,
    officially_refused,
    reason_by_votes,
    reason_without_votes,
)
from rzero_ray.types import Candidate

PAPER = CurriculumConfig()
OFFICIAL = CurriculumConfig(num_votes=9, min_agreement=0.3, max_agreement=0.8, filters="official")
ALL_COUNT = VotingConfig(min_answered=0.0)
"""However few votes hold an answer, p is the majority's share of those."""
HALF = VotingConfig(min_answered=0.5)


def candidate(
    question: str | None = "q", num_agree: int = 5, num_votes: int = 10, num_samples: int = 10
) -> Candidate:
    return Candidate(
        text="",
        question=question,
        answers=("7",) * num_samples,
        label="7" if num_agree else None,
        num_agree=num_agree,
        num_votes=num_votes,
        num_tokens=1,
        dropped=None,
        truth="8",
    )


def reason(
    item: Candidate, config: CurriculumConfig = PAPER, voting: VotingConfig = ALL_COUNT
) -> str | None:
    return reason_without_votes(
        item.question, item.question, item.truth, config, {"held"}, set()
    ) or reason_by_votes(item, config, voting)


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        (candidate(None), MALFORMED),
        (candidate("held"), HELD_OUT),
        (candidate(num_agree=0, num_votes=0), UNANSWERED),
        (candidate(num_agree=2), TOO_HARD),
        (candidate(num_agree=3), None),
        (candidate(num_agree=7), None),
        (candidate(num_agree=8), TOO_EASY),
        (candidate(num_agree=3, num_votes=4), None),  # 0.75 of what was answered
    ],
)
def test_the_papers_band_is_three_to_seven_of_ten(item: Candidate, expected: str | None):
    assert reason(item) == expected


def test_the_official_band_is_three_to_seven_of_nine():
    reasons = [reason(candidate(num_agree=n, num_votes=9), OFFICIAL) for n in range(1, 10)]
    assert reasons == [TOO_HARD] * 2 + [None] * 5 + [TOO_EASY] * 2


def test_questions_that_are_mostly_unanswered_are_dropped_where_asked():
    item = candidate(num_agree=2, num_votes=4)
    assert reason(item) is None
    assert reason(item, PAPER, HALF) == UNANSWERED
    assert reason(candidate(num_agree=2, num_votes=5), PAPER, HALF) is None


def test_official_words():
    assert officially_refused("Put it in a box.", "7")
    assert officially_refused("证明 x = y", "7")
    assert officially_refused("How far?", r"7 \text{ m}")
    assert not officially_refused("What text is this?", "box")
    assert officially_refused("A Box of ten.", "7") and officially_refused("How far?", "7 TEXT")
    assert reason(candidate("a box"), OFFICIAL) == WORDS
    assert reason(candidate("a box"), PAPER) is None


def test_labels_are_the_majoritys_or_the_oracles():
    oracle = replace(PAPER, labels="oracle")
    assert [item.label for item in kept_items([candidate()], PAPER)] == ["7"]
    assert [item.label for item in kept_items([candidate()], oracle)] == ["8"]
    assert reason(replace(candidate(), truth=None), oracle) == NO_TRUTH
    assert reason(replace(candidate(), truth=None), PAPER) is None


def test_a_question_asked_before_is_a_repeat_even_of_a_dropped_one():
    earlier = [replace(candidate("A"), dropped=TOO_EASY)]
    offered = [candidate("a"), candidate("b", num_agree=9), candidate("B "), candidate(None)]
    marked = mark_dropped(offered, earlier, PAPER, ALL_COUNT, lambda q: q.strip().lower(), set())
    assert [c.dropped for c in marked] == [REPEATED, TOO_EASY, REPEATED, MALFORMED]


def test_a_reason_that_needs_no_votes_comes_before_those_that_do():
    earlier = [candidate("a")]
    offered = [candidate("a", num_agree=9), candidate("a", num_agree=0, num_votes=0)]
    marked = mark_dropped(offered, earlier, PAPER, ALL_COUNT, str, set())
    assert [c.dropped for c in marked] == [REPEATED, REPEATED]


def test_votes_that_were_not_taken_count_as_unanswered():
    assert reason(candidate(num_agree=2, num_votes=4, num_samples=6), PAPER, HALF) == UNANSWERED
    assert reason(candidate(num_agree=3, num_votes=5, num_samples=6), PAPER, HALF) is None


def test_the_share_of_all_votes_puts_a_mostly_unanswered_question_below_the_band():
    """Two equal answers and eight unanswered: 2 of 10, not 2 of 2."""
    everyone = VotingConfig(share="all", min_answered=0.0)
    two_of_ten = candidate(num_agree=2, num_votes=2)
    assert reason(two_of_ten) == TOO_EASY
    assert reason(two_of_ten, PAPER, everyone) == TOO_HARD
    assert reason(candidate(num_agree=3, num_votes=3), PAPER, everyone) is None
    # Votes that were not taken are votes, too: the share is of the ten that were wanted.
    assert reason(candidate(num_agree=2, num_votes=2, num_samples=4), PAPER, everyone) == TOO_HARD


@pytest.mark.parametrize(("num_agree", "expected"), [(5, TIED), (2, TOO_HARD)])
def test_a_tie_inside_the_band_is_dropped_where_ties_are(num_agree: int, expected: str):
    tied = replace(candidate(num_agree=num_agree), tied=True)
    assert reason(tied, PAPER, replace(ALL_COUNT, ties="drop")) == expected
    assert reason(tied, PAPER, ALL_COUNT) == (None if expected == TIED else expected)
    assert reason(candidate(num_agree=num_agree), PAPER, replace(ALL_COUNT, ties="drop")) == (
        None if expected == TIED else expected
    )


def test_a_cluster_takes_so_many_and_no_more_the_earlier_ones_counted():
    offered = [
        candidate("a"),
        replace(candidate("b"), dropped=TOO_EASY),
        candidate("c"),
        candidate("d"),
        candidate("e"),
    ]
    # Cluster 1 has one question from before and room for one more: "a" takes it.
    marked = drop_crowded(offered, earlier_ids=[1, 2], kept_ids=[1, 1, 3, 1], max_per_cluster=2)
    assert [c.dropped for c in marked] == [None, TOO_EASY, CROWDED, None, CROWDED]
    assert count_dropped(marked) == {TOO_EASY: 1, CROWDED: 2}


def test_enough_is_a_number_and_zero_is_never_enough():
    items = [candidate("a"), candidate("b"), replace(candidate("c"), dropped=TOO_HARD)]
    assert has_enough(items, 2)
    assert not has_enough(items, 3)
    assert not has_enough(items, 0)
