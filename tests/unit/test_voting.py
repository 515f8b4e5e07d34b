"""Votes are counted as the paper says, whatever the order of the answers."""

import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rzero_ray.answers.equality import equivalent
from rzero_ray.answers.forms import canonical
from rzero_ray.answers.voting import clusters_may_join, majority_vote, majority_vote_official
from rzero_ray.types import Ballot


def by_form(a: str, b: str) -> bool:
    return canonical(a) == canonical(b)


def never(a: str, b: str) -> bool:
    raise AssertionError(f"compared {a!r} and {b!r}")


def within_one(a: str, b: str) -> bool:
    """Not transitive on purpose: "p1" ~ "p2" ~ "p3", but "p1" is not "p3"."""
    return a[:1] == b[:1] == "p" and abs(int(a[1:]) - int(b[1:])) <= 1


def test_unanswered_samples_are_counted_apart() -> None:
    answers = ("4", None, "4.0", " ", "5", None)
    vote = majority_vote(answers, never)
    assert vote == Ballot(
        answers=answers,
        label="4",
        num_agree=2,
        num_votes=3,
        clusters=(("4", 2), ("5", 1)),
        form_counts=((1, 1), (1,)),
        may_join=False,
    )
    assert vote.answered == 3 / 6
    assert vote.agreement == 2 / 3


def test_nothing_answered() -> None:
    for answers in ([], [None], [None, "", "  "]):
        vote = majority_vote(answers, never)
        assert vote == Ballot(
            answers=tuple(answers), label=None, num_agree=0, num_votes=0, may_join=False
        )
        assert vote.agreement == 0.0


def test_label_is_the_most_frequent_surface_form() -> None:
    assert majority_vote(["0.5", r"\frac12", r"\frac12", "1"], never).label == r"\frac12"
    assert majority_vote(["0.5", r"\frac12"], never).label == "0.5"  # a tie: text order


def test_ties_go_to_the_smallest_canonical_form() -> None:
    assert majority_vote(["7", "3", "7", "3", "1"], never).label == "3"


def test_clusters_are_connected_components() -> None:
    vote = majority_vote(["p3", "p1", "q9", "p2", "q9"], within_one)
    assert (vote.label, vote.num_agree) == ("p1", 3)
    assert vote.clusters == (("p1", 3), ("q9", 2))


def test_numbers_need_no_comparison_and_text_few() -> None:
    majority_vote([str(n) for n in range(100)] + ["1/3", r"\frac{2}{6}"], never)
    calls: list[tuple[str, str]] = []

    def record(a: str, b: str) -> bool:
        calls.append((a, b))
        return False

    majority_vote(["x"] * 5 + ["5"] * 5 + ["5.0"], record)
    assert calls == [("5", "x")]


@settings(derandomize=True, max_examples=200, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.none(),
            st.sampled_from(["1", "1.0", "2", "2/1", "x", "X", "p1", "p2", "p3", "p5", "", "p4"]),
        ),
        max_size=12,
    ),
    st.randoms(use_true_random=False),
)
def test_vote_does_not_depend_on_order(answers: list[str | None], rng: random.Random) -> None:
    def same(a: str, b: str) -> bool:
        return by_form(a, b) or within_one_or_false(a, b)

    def within_one_or_false(a: str, b: str) -> bool:
        return within_one(a, b) if a[:1] == b[:1] == "p" else False

    expected = majority_vote(answers, same)
    shuffled = list(answers)
    rng.shuffle(shuffled)
    assert replace(majority_vote(shuffled, same), answers=expected.answers) == expected
    assert sum(count for _, count in expected.clusters) == expected.num_votes
    assert 0.0 <= expected.agreement <= 1.0
    assert expected.num_agree == max([count for _, count in expected.clusters], default=0)


def test_official_vote_counts_none_as_an_answer() -> None:
    answers = ["4", "4", None, None, None]
    assert majority_vote_official(answers, by_form) == Ballot(
        answers=tuple(answers),
        label=None,
        num_agree=3,
        num_votes=5,
        clusters=(("None", 3), ("4", 2)),
    )
    assert majority_vote(answers, by_form).agreement == 1.0


def test_official_vote_is_greedy_and_first_seen_wins() -> None:
    assert majority_vote_official(["p1", "p2", "p3"], within_one).num_agree == 2
    assert majority_vote_official(["p2", "p1", "p3"], within_one).num_agree == 3
    assert majority_vote_official(["7", "3"], by_form).label == "7"
    assert majority_vote_official(["no root", "no way"], by_form).num_agree == 2
    assert majority_vote_official([], by_form).agreement == 0.0


@pytest.mark.parametrize(
    ("forms", "may_join"),
    [
        ([], False),
        (["12"], False),
        (["x^2"], False),  # one cluster: nothing to join
        (["12", "13"], False),
        (["-7", "7", "1/3", "0"], False),
        (["50", "1/2"], True),  # 50%
        (["5000", "1/2"], True),  # 5000%, 50, 50%
        (["1414/1000", "1415/1000"], True),  # the root of 2, rounded
        (["0", "1/1000"], True),
        (["5 cm", "5 m"], True),  # 5
        (["x=5", "y=5"], True),  # 5
        (["12", "x^2"], True),
    ],
)
def test_only_numbers_far_apart_stay_apart(forms: list[str], may_join: bool) -> None:
    assert clusters_may_join(forms) is may_join


def test_joins_that_are_allowed_for_do_happen() -> None:
    for between, left, right in (("50%", "50", "0.5"), ("5", "5 cm", "5 m"), ("5", "x=5", "y=5")):
        assert equivalent(between, left) and equivalent(between, right)
        assert not equivalent(left, right)
        assert len(majority_vote([left, right], equivalent).clusters) == 2
        assert len(majority_vote([left, right, between], equivalent).clusters) == 1


@pytest.mark.parametrize(
    "text",
    [
        "12, 13",
        r"12 \text{ or } 13",
        r"\{12,13\}",
        "(12,13)",
        "[12,13]",
        "12 = 13",
        r"12\approx 13",
        "12<x<13",
        "x=12, x=13",
        r"12.5 \pm 0.5",
        r"x \in \{12,13\}",
        r"12 \cup 13",
        "12;13",
        "(x-12)(x-13)=0",
        "12=x=13",
        r"\begin{pmatrix}12\\13\end{pmatrix}",
    ],
)
def test_no_notation_equals_two_numbers_far_apart(text: str) -> None:
    assert not (equivalent(text, "12") and equivalent(text, "13"))
