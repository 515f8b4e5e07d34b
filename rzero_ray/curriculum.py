"""Which candidates become the Solver's training questions (paper, section 3.3)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence

from rzero_ray.config import CurriculumConfig
from rzero_ray.types import Ballot, Candidate, CurriculumItem

MALFORMED = "malformed"
HELD_OUT = "held out"
REPEATED = "repeated"
UNANSWERED = "mostly unanswered"
TOO_HARD = "agreement below the band"
TOO_EASY = "agreement above the band"


def drop_reason(
    question: str | None, ballot: Ballot, config: CurriculumConfig, heldout: Collection[str]
) -> str | None:
    """Return why a voted question is not trained on, or None when it is kept.

    `question` is in normal form and so is every entry of `heldout`. The band is inclusive and
    counts answered votes only, as in the paper; the official code also counts "None" answers.
    """
    if question is None:
        return MALFORMED
    if question in heldout:
        return HELD_OUT
    if ballot.label is None or ballot.answered < config.min_answered:
        return UNANSWERED
    if ballot.agreement < config.min_agreement:
        return TOO_HARD
    if ballot.agreement > config.max_agreement:
        return TOO_EASY
    return None


def kept_items(candidates: Sequence[Candidate]) -> list[CurriculumItem]:
    """Return the kept questions with their pseudo-labels, in the order of the candidates."""
    return [
        CurriculumItem(question=c.question, label=c.label, agreement=c.agreement)
        for c in candidates
        if c.dropped is None and c.question is not None and c.label is not None
    ]


def count_dropped(candidates: Sequence[Candidate]) -> dict[str, int]:
    """Return how many candidates were dropped for which reason."""
    return dict(Counter(c.dropped for c in candidates if c.dropped is not None))
