"""Votes are counted as the paper says, whatever the order of the answers."""

import random
from dataclasses import replace
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rzero_ray.answers.equality import BudgetedEquality, equivalent
from rzero_ray.answers.forms import canonical
from rzero_ray.answers.symbolic import SymbolicComparer
from rzero_ray.answers.voting import majority_vote, majority_vote_official
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
        may_move=False,
    )
    assert vote.answered == 3 / 6
    assert vote.agreement == 2 / 3


def test_nothing_answered() -> None:
    for answers in ([], [None], [None, "", "  "]):
        vote = majority_vote(answers, never)
        assert vote == Ballot(
            answers=tuple(answers), label=None, num_agree=0, num_votes=0, may_move=False
        )
        assert vote.agreement == 0.0


def test_label_is_the_most_frequent_surface_form() -> None:
    assert majority_vote(["0.5", r"\frac12", r"\frac12", "1"], never).label == r"\frac12"
    assert majority_vote(["0.5", r"\frac12"], never).label == "0.5"  # a tie: text order


def test_ties_go_to_the_smallest_canonical_form() -> None:
    assert majority_vote(["7", "3", "7", "3", "1"], never).label == "3"


def test_a_cluster_holds_no_two_answers_that_differ() -> None:
    vote = majority_vote(["p3", "p1", "q9", "p2", "q9"], within_one)
    assert vote.clusters == (("p1", 2), ("q9", 2), ("p3", 1))
    assert (vote.label, vote.num_agree) == ("p1", 2)
    assert vote.num_ambiguous == 2  # p2 and p3, which are equal and in two clusters
    assert vote.may_move


def test_what_equals_two_clusters_joins_the_larger() -> None:
    vote = majority_vote(["p1", "p2", "p3", "p3", "q9", "q9"], within_one)
    assert vote.clusters == (("p3", 3), ("q9", 2), ("p1", 1))
    assert vote.num_ambiguous == 2


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
    ("between", "left", "right"),
    [("50%", "50", "0.5"), ("5", "5 cm", "5 m"), ("5", "x=5", "y=5")],
)
def test_answers_that_equal_two_others_join_one(between: str, left: str, right: str) -> None:
    assert equivalent(between, left) and equivalent(between, right)
    assert not equivalent(left, right)
    assert len(majority_vote([left, right], equivalent).clusters) == 2
    ballot = majority_vote([left, right, right, between], equivalent)
    assert ballot.clusters == ((right, 3), (left, 1))
    assert ballot.num_ambiguous == 2  # the one between, and the one that it could have joined


@pytest.mark.parametrize(
    "nothing",
    ["...", r"\text{}", r"\,", "$$", "{}", ".", "..", "~", r"\quad", r"\!", r"\;", r"\mathrm{}",
     r"\left\right", r"\(\)", r"\displaystyle", "\u200b", "\ufeff", r"\ldots", r"\phantom{5}"],
)  # fmt: skip
def test_nothing_does_not_vote(nothing: str) -> None:
    ballot = majority_vote([nothing, nothing, nothing, "7", "8"], never)
    assert (ballot.label, ballot.num_votes, ballot.num_agree) == ("7", 2, 1)


CHAINS = (
    ("5000", r"5000\%", "50", r"50\%", "0.5"),
    ("5", "5 cm", "5 m", "5 kg"),
    ("x+y=5", "5", "a-b=5"),
    ("0", "x-2y=0", "3x+y=0", "x^2+y^2-1=0"),
    ("(1,2)", "1<x<2", r"x\in(1,2)", r"\{1,2\}"),
    ("101", "101_2", "101_3", "5"),
    ("f(x)", "f'(x)", "f''(x)"),
    (r"\frac{1}{2^{60}}", r"\frac{1}{2^{61}}", r"\frac{1}{2^{99}}"),
    ("x=3", "3", "y=3", "5=x"),
    (r"\frac{\sqrt{2}}{2}", r"\frac{1}{\sqrt{2}}", r"0.7071", "x"),
    ("A. 5", "A", "A. 6", "a"),
    ("1, 2", r"\{1,2\}", "(1,2)", r"x=1\text{ or }x=2", "2, 1"),
)


def test_one_outcome_whatever_the_order() -> None:
    """100 lists with chains of answers that equal the next one only, in 20 orders each."""
    rng = random.Random(0)
    for number in range(100):
        chain = CHAINS[number % len(CHAINS)]
        answers = [*rng.choices(chain, k=7), *rng.choices(rng.choice(CHAINS), k=3), None]
        expected = majority_vote(answers, equivalent)
        for _ in range(20):
            rng.shuffle(answers)
            ballot = majority_vote(answers, equivalent)
            assert replace(ballot, answers=expected.answers) == expected


def test_no_cluster_has_two_members_that_differ() -> None:
    rng = random.Random(1)
    for chain in CHAINS:
        answers = rng.choices(chain, k=12)
        num_by_label = dict(majority_vote(answers, equivalent).clusters)
        labels = list(num_by_label)
        for size, label in zip(num_by_label.values(), labels, strict=True):
            assert sum(equivalent(answer, label) for answer in answers) >= size
        # Every two in one cluster are equal, so no cluster is larger than the largest such group.
        largest = max(
            sum(answers.count(member) for member in group)
            for group in _mutually_equal(sorted(set(answers)))
        )
        assert max(num_by_label.values()) <= largest


def _mutually_equal(answers: list[str]) -> list[tuple[str, ...]]:
    return [
        group
        for size in range(1, len(answers) + 1)
        for group in combinations(answers, size)
        if all(equivalent(a, b) for a, b in combinations(group, 2))
    ]


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


def test_a_vote_spends_its_budget_and_compares_the_rest_by_text() -> None:
    hostile = [rf"\int_0^1 \sqrt{{x^{{{k}}}+x+1}}dx" for k in range(3, 9)]
    comparer = SymbolicComparer(cpu_limit_s=0.3)
    rules = BudgetedEquality(cpu_budget_s=1.0, comparer=comparer)
    ballot = majority_vote([*hostile, hostile[0]], rules.equivalent)
    assert (ballot.label, ballot.num_agree) == (hostile[0], 2)
    assert rules.cpu_left_s <= 0
    assert comparer.num_compared <= 4  # one costs a start of another child as well
    assert not rules.equivalent(r"\sqrt{8}+x", r"2\sqrt{2}+x")
    assert BudgetedEquality(comparer=comparer).equivalent(r"\sqrt{8}+x", r"2\sqrt{2}+x")
    comparer.close()


def test_a_remembered_verdict_costs_what_it_cost_at_first() -> None:
    comparer = SymbolicComparer()
    costs = []
    for _ in range(2):
        rules = BudgetedEquality(cpu_budget_s=5.0, comparer=comparer)
        assert rules.equivalent("(x+1)^{3}", "x^3+3x^2+3x+1")
        costs.append(5.0 - rules.cpu_left_s)
    assert costs[0] == costs[1] > 0
    assert comparer.num_compared == 1
    comparer.close()
