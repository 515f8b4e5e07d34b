"""Which candidates become the Solver's training questions (paper, section 3.3).

A candidate is dropped for the first reason that applies, those before that need no votes, and every
reason is counted. The paper has the band only; the official code adds `officially_refused`; repeats
and crowded clusters are ours.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace

from rzero_ray.answers.voting import MAJORITY_SHARES
from rzero_ray.config.method import ChallengerConfig, CurriculumConfig, VotingConfig
from rzero_ray.types import Candidate, CurriculumItem, ShareRule

MALFORMED = "malformed"
TOO_LONG = "too long"
"""The question leaves the Solver no room to answer; whoever asked for the votes has found out."""
HELD_OUT = "held out"
WORDS = "refused words"
UNANSWERED = "mostly unanswered"
TIED = "two answers tied"
NO_TRUTH = "no true answer"
TOO_HARD = "agreement below the band"
TOO_EASY = "agreement above the band"
REPEATED = "repeated"
CROWDED = "cluster is full"
UNCONFIRMED = "label not confirmed"


@dataclass(frozen=True, slots=True)
class Band:
    """The part of the settings on which the outcome of a vote depends."""

    num_votes: int
    min_answered: float
    min_agreement: float
    max_agreement: float
    share: ShareRule

    @classmethod
    def of(cls, curriculum: CurriculumConfig, voting: VotingConfig) -> Band:
        """Return the band of a configuration."""
        return cls(
            num_votes=curriculum.num_votes,
            min_answered=voting.min_answered,
            min_agreement=curriculum.min_agreement,
            max_agreement=curriculum.max_agreement,
            share=voting.share,
        )


_OFFICIAL_QUESTION_WORDS = ("证明", "box")
_OFFICIAL_ANSWER_WORDS = ("text",)
"""Parts of a text for which the official code drops a question: proofs (the first word means
"prove") and leftovers of formatting."""


def reason_without_votes(
    question: str | None,
    normal: str | None,
    truth: str | None,
    config: CurriculumConfig,
    heldout: Collection[str],
    seen: Collection[str],
) -> str | None:
    """Return why a question is not trained on whatever the votes on it are, or None.

    `normal` is the question in normal form, as is every entry of `heldout` and of `seen`, the
    questions asked before: asking again until the votes fall inside the band does not help.
    """
    if question is None:
        return MALFORMED
    if normal in heldout:
        return HELD_OUT
    if config.labels == "oracle" and truth is None:
        return NO_TRUTH
    return REPEATED if normal in seen else None


def reason_by_votes(
    candidate: Candidate, config: CurriculumConfig, voting: VotingConfig
) -> str | None:
    """Return why the votes on a well-formed question are against it, or None when it is kept.

    The band is inclusive and is about the majority's share of the votes (`voting.share`). Votes
    that were not taken (`early_stopping`) count as unanswered. A tie inside the band has no
    majority, so its label would be a matter of the alphabet: `voting.ties` says whether it is kept.
    """
    assert candidate.question is not None
    reason = band_reason(candidate.num_agree, candidate.num_votes, Band.of(config, voting))
    if reason == UNANSWERED or candidate.label is None:
        return UNANSWERED
    if reason is None and candidate.tied and voting.ties == "drop":
        return TIED
    if config.filters == "official" and officially_refused(candidate.question, candidate.label):
        return WORDS
    return reason


def band_reason(num_agree: int, num_answered: int, band: Band) -> str | None:
    """Return why a question is outside the band, or None inside it: `num_agree` of `num_answered`
    answers are the majority's, of `band.num_votes` samples."""
    if num_answered == 0 or num_answered / band.num_votes < band.min_answered:
        return UNANSWERED
    agreement = MAJORITY_SHARES[band.share](num_agree, num_answered, band.num_votes)
    if agreement < band.min_agreement:
        return TOO_HARD
    return TOO_EASY if agreement > band.max_agreement else None


def officially_refused(question: str, label: str) -> bool:
    """Say whether the official code drops a question for words in it or in its majority answer,
    whatever their case."""
    return any(word in question.lower() for word in _OFFICIAL_QUESTION_WORDS) or any(
        word in label.lower() for word in _OFFICIAL_ANSWER_WORDS
    )


def mark_dropped(
    candidates: Sequence[Candidate],
    earlier: Sequence[Candidate],
    config: CurriculumConfig,
    voting: VotingConfig,
    normalize: Callable[[str], str],
    heldout: Collection[str],
) -> list[Candidate]:
    """Return the candidates with the reason why each is dropped; one that is too long stays so.

    A repeat has the normal form of a candidate before it or of one of `earlier`, the candidates of
    the steps before, kept or not.
    """
    seen = normal_forms(earlier, normalize)
    marked = []
    for candidate in candidates:
        if candidate.dropped == TOO_LONG:
            marked.append(candidate)
            continue
        normal = None if candidate.question is None else normalize(candidate.question)
        reason = reason_without_votes(
            candidate.question, normal, candidate.truth, config, heldout, seen
        ) or reason_by_votes(candidate, config, voting)
        if normal is not None:
            seen.add(normal)
        marked.append(replace(candidate, dropped=reason))
    return marked


def normal_forms(candidates: Sequence[Candidate], normalize: Callable[[str], str]) -> set[str]:
    """Return the normal forms of the well-formed questions."""
    return {normalize(c.question) for c in candidates if c.question is not None}


def drop_crowded(
    candidates: Sequence[Candidate],
    earlier_ids: Sequence[int],
    kept_ids: Sequence[int],
    max_per_cluster: int,
) -> list[Candidate]:
    """Drop kept candidates whose cluster has `max_per_cluster` kept questions before them.

    `kept_ids` are the clusters of the kept ones among `candidates`, in order; `earlier_ids` those
    of the questions that the steps before have kept.
    """
    sizes = Counter(earlier_ids)
    ids = iter(kept_ids)
    marked = []
    for candidate in candidates:
        if candidate.dropped is None:
            cluster = next(ids)
            if sizes[cluster] >= max_per_cluster:
                candidate = replace(candidate, dropped=CROWDED)
            else:
                sizes[cluster] += 1
        marked.append(candidate)
    return marked


def kept_questions(candidates: Sequence[Candidate]) -> list[str]:
    """Return the questions that are not dropped."""
    return [c.question for c in candidates if c.dropped is None and c.question is not None]


def kept_items(candidates: Sequence[Candidate], config: CurriculumConfig) -> list[CurriculumItem]:
    """Return the kept questions with their labels, in the order of the candidates.

    Labels are the majority's answers, or the oracle's where `config.labels` says so.
    """
    labelled = [(c, c.truth if config.labels == "oracle" else c.label) for c in candidates]
    return [
        CurriculumItem(question=c.question, label=label, agreement=c.agreement)
        for c, label in labelled
        if c.dropped is None and c.question is not None and label is not None
    ]


def has_spent(candidates: Sequence[Candidate], max_voted: int) -> bool:
    """Say whether `max_voted` questions have votes; 0 is no limit."""
    return 0 < max_voted <= sum(bool(c.answers) for c in candidates)


def replayed(
    items: Sequence[CurriculumItem],
    earlier: Sequence[CurriculumItem],
    share: float,
    rng: random.Random,
) -> list[CurriculumItem]:
    """Return the items and so many of `earlier`, drawn with replacement, that these are `share` of
    all; nothing where there are no items, for then there is nothing new to learn."""
    count = round(len(items) * share / (1.0 - share)) if earlier else 0
    return [*items, *(rng.choice(earlier) for _ in range(count))]


def has_enough(candidates: Sequence[Candidate], num_wanted: int) -> bool:
    """Say whether `num_wanted` questions are kept; 0 is never enough."""
    return 0 < num_wanted <= len(kept_questions(candidates))


def count_dropped(candidates: Sequence[Candidate]) -> dict[str, int]:
    """Return how many candidates were dropped for which reason."""
    return dict(Counter(c.dropped for c in candidates if c.dropped is not None))


def most_clustered(challenger: ChallengerConfig, curriculum: CurriculumConfig) -> int:
    """Return how many questions are clustered at once at the most: those of a Challenger step, or
    those that a curriculum has kept with those of its next step."""
    asked = challenger.num_prompts * challenger.samples_per_prompt
    if not curriculum.max_per_cluster:
        return asked
    kept = curriculum.num_wanted or curriculum.num_candidates
    return max(asked, min(kept + curriculum.candidates_per_step, curriculum.num_candidates))
