"""Majority vote over the sampled answers to one question.

Source: R-Zero (arXiv 2508.05004) section 3: m = 10 answers y_j are sampled, the pseudo-label is the
majority answer, and p = (1/m) sum_j 1{y_j = majority} is the Solver's confidence.

Where we differ from the official code, and why: there an answer that could not be read is the
string "None" and votes, so a question that makes the Solver fail to box half of its answers earns
the largest uncertainty reward; and equality is tested greedily against the first member of each
cluster, so the result depends on the order of the samples. Here unreadable answers are counted
apart and clusters are connected components, which no order changes. `majority_vote_official` keeps
the official semantics for comparison.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from fractions import Fraction
from itertools import combinations, pairwise

from rzero_ray.answers.forms import canonical, plain_number
from rzero_ray.types import Ballot, ShareRule, VotingRule

Equivalence = Callable[[str, str], bool]
"""A symmetric "same answer" relation; `equality.equivalent` in production."""

OFFICIAL_UNANSWERED = "None"
"""What the official code's box reader returns when there is no box."""


def majority_vote(answers: Sequence[str | None], equivalent: Equivalence) -> Ballot:
    """Vote, independently of the order of `answers`. None and blank answers do not vote.

    Answers with one canonical form are one group; groups joined by `equivalent` (transitively) are
    one cluster. The largest cluster wins, ties go to the smallest canonical form in text order. The
    label is the winner's most frequent surface form, ties again to the smallest. `equivalent` sees
    one surface form per group, in sorted order, and never two plain numbers without units, so an
    ordinary vote on numbers costs no comparison; at worst it is called for every pair.
    """
    surfaces = Counter(
        answer.strip() for answer in answers if answer is not None and answer.strip()
    )
    groups: dict[str, list[str]] = defaultdict(list)
    for surface in sorted(surfaces):
        groups[canonical(surface)].append(surface)

    clusters = []
    for forms in _connected_components(groups, equivalent):
        members = [surface for form in forms for surface in groups[form]]
        members.sort(key=lambda surface: (-surfaces[surface], surface))
        counts = tuple(surfaces[surface] for surface in members)
        clusters.append((-sum(counts), min(forms), members[0], counts))
    clusters.sort()
    return Ballot(
        answers=tuple(answers),
        label=clusters[0][2] if clusters else None,
        num_agree=-clusters[0][0] if clusters else 0,
        num_votes=surfaces.total(),
        clusters=tuple((label, -negative_count) for negative_count, _, label, _ in clusters),
        form_counts=tuple(counts for *_, counts in clusters),
        may_join=clusters_may_join(list(groups)),
    )


def clusters_may_join(forms: Sequence[str]) -> bool:
    """Say whether further answers might make two of these canonical forms equivalent that are not.

    Equivalence by value is not transitive (`5` equals both `5 cm` and `5 m`), so in general they
    might. They cannot where all forms are plain numbers, apart from two exceptions that are looked
    for: `50%` equals 50 and 0.5, and a symbolic comparison rounds, so that a root may equal two
    decimals close by. That no text equals two clearly different numbers otherwise is a property
    of `equality.equivalent`, tested on the notations that come nearest to it.
    """
    values = [plain_number(form) for form in forms]
    numbers = sorted(value for value in values if value is not None)
    if len(numbers) < len(values):
        return len(values) > 1
    return any(high - low <= _NEAR * max(1, abs(high)) for low, high in pairwise(numbers)) or any(
        _is_percent_chain(a, b) for a, b in combinations(numbers, 2)
    )


_NEAR = Fraction(1, 100)
"""Relative difference of two numbers, absolute below 1: ten times that at which a symbolic
comparison tells them apart."""


def _is_percent_chain(a: Fraction, b: Fraction) -> bool:
    """Say whether the quotient is a power of 100: a chain such as 5000, 5000%, 50, 50%, 0.5."""
    if a == 0 or b == 0 or (a < 0) != (b < 0):
        return False
    large, small = max(abs(a), abs(b)), min(abs(a), abs(b))
    exponent = (len(str(large // small)) - 1) // 2
    return small * 100**exponent == large


def _connected_components(groups: dict[str, list[str]], equivalent: Equivalence) -> list[list[str]]:
    """Partition canonical forms by the transitive closure of `equivalent` on one surface form of
    each."""
    forms = sorted(groups)
    parent = {form: form for form in forms}

    def root(form: str) -> str:
        while parent[form] != form:
            parent[form] = form = parent[parent[form]]
        return form

    is_number = {form: plain_number(form) is not None for form in forms}
    for first, second in combinations(forms, 2):
        if is_number[first] and is_number[second]:
            continue  # the canonical form of a number is its value, and these two differ
        left, right = root(first), root(second)
        if left != right and equivalent(groups[first][0], groups[second][0]):
            parent[right] = left

    components: dict[str, list[str]] = defaultdict(list)
    for form in forms:
        components[root(form)].append(form)
    return list(components.values())


def majority_vote_official(answers: Sequence[str | None], equivalent: Equivalence) -> Ballot:
    """Vote with the official code's semantics, for the `official_code` preset and for measuring the
    difference.

    Unreadable answers vote as "None" and count in the denominator; each answer joins the first
    cluster whose first member it equals (so order matters); any two answers containing "no ", in
    whatever case, are equal; ties go to the cluster seen first. A majority of "None" gives label
    None, with its agreement, as there.
    """
    counts: dict[str, int] = {}
    for answer in answers:
        text = OFFICIAL_UNANSWERED if answer is None or not answer.strip() else answer.strip()
        home = next((first for first in counts if _official_same(text, first, equivalent)), text)
        counts[home] = counts.get(home, 0) + 1
    clusters = tuple(
        sorted(counts.items(), key=lambda cluster: -cluster[1])
    )  # stable: first seen first
    winner = clusters[0] if clusters else (OFFICIAL_UNANSWERED, 0)
    return Ballot(
        answers=tuple(answers),
        label=None if winner[0] == OFFICIAL_UNANSWERED else winner[0],
        num_agree=winner[1],
        num_votes=len(answers),
        clusters=clusters,
    )


def _official_same(a: str, b: str, equivalent: Equivalence) -> bool:
    both_say_no = "no " in a.lower() and "no " in b.lower()
    return a == b or both_say_no or equivalent(a, b) or equivalent(b, a)


VOTING_RULES: dict[VotingRule, Callable[[Sequence[str | None], Equivalence], Ballot]] = {
    "by_value": majority_vote,
    "official": majority_vote_official,
}
"""The vote of each value of `voting.rule`."""


def share_of_answered(num_agree: int, num_answered: int, num_votes: int) -> float:
    """Return the majority's share of the votes that hold an answer, 0 where none does.

    A truncated answer is then neither agreement nor disagreement; a filter or a reward has to look
    at the share of answered votes by itself (`voting.min_answered`).
    """
    return num_agree / num_answered if num_answered else 0.0


def share_of_all(num_agree: int, num_answered: int, num_votes: int) -> float:
    """Return the majority's share of all votes, p = (1/m) sum_j 1{y_j = majority} in the paper
    (section 3.2): a vote without an answer agrees with nothing."""
    return num_agree / num_votes if num_votes else 0.0


MAJORITY_SHARES: dict[ShareRule, Callable[[int, int, int], float]] = {
    "answered": share_of_answered,
    "all": share_of_all,
}
"""The share p of each value of `voting.share`, from the votes that agree, the answered ones, and
all."""
