"""Majority vote over the sampled answers to one question.

Source: R-Zero (arXiv 2508.05004) section 3: m = 10 answers y_j are sampled, the pseudo-label is the
majority answer, and p = (1/m) sum_j 1{y_j = majority} is the Solver's confidence.

Where we differ from the official code, and why: there an answer that could not be read is the
string "None" and votes, so a question that makes the Solver fail to box half of its answers earns
the largest uncertainty reward; and equality is tested greedily against the first member of each
cluster, so the result depends on the order of the samples. Here unreadable answers are counted
apart, and in a cluster every two answers are equal; which cluster an answer joins that equals
members of several is decided by the number of votes, which no order changes.
`majority_vote_official` keeps the official semantics for comparison.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rzero_ray.answers.forms import canonical, is_nothing, plain_number
from rzero_ray.types import Ballot, ShareRule, VotingRule

Equivalence = Callable[[str, str], bool]
"""A symmetric "same answer" relation; `equality.BudgetedEquality.equivalent` in production."""

OFFICIAL_UNANSWERED = "None"
"""What the official code's box reader returns when there is no box."""


def majority_vote(answers: Sequence[str | None], equivalent: Equivalence) -> Ballot:
    """Vote, independently of the order of `answers`. None, and answers without content
    (`forms.is_nothing`), do not vote.

    Answers with one canonical form are one group. Groups are taken by their votes, the largest
    first, and each joins the first cluster of which it equals every member (`equivalent` need not
    be transitive: `5` equals `5 cm` and `5 m`, which differ). The largest cluster wins, ties go to
    the smallest canonical form in text order. The label is the winner's most frequent surface form,
    ties again to the smallest. `equivalent` sees one surface form per group and never two plain
    numbers without units, so an ordinary vote on numbers costs no comparison; at worst it is called
    once for every pair.
    """
    surfaces = Counter(
        answer.strip() for answer in answers if answer is not None and not is_nothing(answer)
    )
    groups = _groups(surfaces)
    clusters, num_ambiguous = _clusters(groups, equivalent)

    ranked = []
    for members in clusters:
        forms = sorted(surface for group in members for surface in group.surfaces)
        forms.sort(key=lambda surface: -surfaces[surface])
        counts = tuple(surfaces[surface] for surface in forms)
        ranked.append((-sum(counts), min(group.form for group in members), forms[0], counts))
    ranked.sort()
    return Ballot(
        answers=tuple(answers),
        label=ranked[0][2] if ranked else None,
        num_agree=-ranked[0][0] if ranked else 0,
        num_votes=surfaces.total(),
        num_ambiguous=num_ambiguous,
        clusters=tuple((label, -negative_count) for negative_count, _, label, _ in ranked),
        form_counts=tuple(counts for *_, counts in ranked),
        may_move=any(len(members) > 1 for members in clusters),
    )


@dataclass(frozen=True, slots=True)
class _Group:
    """Answers with one canonical form."""

    form: str
    surfaces: tuple[str, ...]
    num_votes: int
    is_number: bool

    def equals(self, other: "_Group", equivalent: Equivalence) -> bool:
        if self.is_number and other.is_number:
            return False  # the canonical form of a number is its value, and these two differ
        return equivalent(*sorted((self.surfaces[0], other.surfaces[0])))


def _groups(surfaces: Counter[str]) -> list[_Group]:
    """Return the groups with the most votes first, equally large ones in text order."""
    by_form: dict[str, list[str]] = defaultdict(list)
    for surface in sorted(surfaces):
        by_form[canonical(surface)].append(surface)
    groups = [
        _Group(
            form,
            tuple(members),
            sum(surfaces[surface] for surface in members),
            is_number=plain_number(members[0]) is not None,
        )
        for form, members in by_form.items()
    ]
    return sorted(groups, key=lambda group: (-group.num_votes, group.form))


def _clusters(groups: list[_Group], equivalent: Equivalence) -> tuple[list[list[_Group]], int]:
    """Return clusters of which every two members are equal, and the number of votes that equal a
    member of a cluster that they are not in."""
    clusters: list[list[_Group]] = []
    ambiguous: set[str] = set()
    for group in groups:
        equals = [[group.equals(member, equivalent) for member in members] for members in clusters]
        home = next((at for at, equal in enumerate(equals) if all(equal)), None)
        for at, (members, equal) in enumerate(zip(clusters, equals, strict=True)):
            if at != home and any(equal):
                ambiguous.add(group.form)
                ambiguous |= {
                    member.form for member, same in zip(members, equal, strict=True) if same
                }
        if home is None:
            clusters.append([group])
        else:
            clusters[home].append(group)
    return clusters, sum(group.num_votes for group in groups if group.form in ambiguous)


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
