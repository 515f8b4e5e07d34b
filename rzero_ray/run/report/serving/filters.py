"""What of an iteration's questions a page shows, and in which order.

The address of the page asks for it:

    /iteration-02?search=7%2B5&outcome=dropped&low=.5&high=1&label=wrong&source=curriculum
        &sort=votes&order=falling&page=3
"""

from __future__ import annotations

import heapq
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import urlencode

from rzero_ray.run.report.markup import shorten
from rzero_ray.run.report.serving.questions import (
    ASKED,
    KEPT,
    LONGEST_OUTCOME,
    SOURCES,
    Question,
    questions_at,
    questions_of,
    steps_with_questions,
)
from rzero_ray.run.report.serving.reading import Problems
from rzero_ray.run.report.verdicts import VERDICTS
from rzero_ray.types import Step, UserError

PAGE_SIZE = 50
DROPPED = "dropped"
"""The outcome of every candidate that is not kept, whatever the reason."""
ORDERS = ("rising", "falling")
SORTS: dict[str, Callable[[Question], float | None]] = {
    "place": lambda question: None,
    "agreement": lambda question: question.agreement,
    "reward": lambda question: question.reward,
    "votes": lambda question: question.num_votes,
}
"""What each value of `sort` sorts by; a question without it comes last."""
LONGEST_SEARCH = 200
"""Characters."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """The query of a list's address; an empty text asks for everything."""

    search: str = ""
    """A part of the question, whatever its case."""
    source: str = ""
    outcome: str = ""
    low: float | None = None
    high: float | None = None
    """The agreement lies in [low, high]; without a vote there is none."""
    label: str = ""
    sort: str = "place"
    order: str = "rising"
    page: int = 1

    def allows(self, question: Question) -> bool:
        """Return whether a question belongs on the list."""
        return (
            (not self.search or self.search.lower() in (question.text or "").lower())
            and self._allows_outcome(question)
            and self._allows_agreement(question.agreement)
            and self.label in ("", question.label_is)
        )

    def _allows_outcome(self, question: Question) -> bool:
        if self.outcome == DROPPED:
            return question.outcome not in (KEPT, ASKED)
        return self.outcome in ("", question.outcome)

    def _allows_agreement(self, agreement: float | None) -> bool:
        if self.low is None and self.high is None:
            return True
        if agreement is None:
            return False
        return (self.low or 0.0) <= agreement <= (1.0 if self.high is None else self.high)

    def query(self, **changes: str | int) -> str:
        """Return the query of this list with some values changed; what is as it comes stays out."""
        values = {name: getattr(self, name) for name in _NAMES}
        plain = {name: getattr(Filter(), name) for name in _NAMES}
        values.update(changes)
        return urlencode({k: v for k, v in values.items() if v is not None and v != plain[k]})


_NAMES = ("search", "source", "outcome", "low", "high", "label", "sort", "order", "page")


@dataclass(slots=True)
class Listed:
    """A page of a list of questions."""

    questions: list[Question] = field(default_factory=list)
    num_matching: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    """How many questions of the iteration came to what, whatever the filter."""

    @property
    def num_pages(self) -> int:
        """Return the number of pages, at least 1."""
        return max(1, math.ceil(self.num_matching / PAGE_SIZE))


def read_filter(query: Mapping[str, str]) -> Filter:
    """Return the filter that an address asks for. Raises UserError for a value it cannot have."""
    unknown = [name for name in query if name not in _NAMES]
    if unknown:
        raise UserError(f"{unknown[0]} is nothing to filter by; there are {', '.join(_NAMES)}")
    given = {name: value.strip() for name, value in query.items() if value.strip()}
    texts = {name: given[name] for name in ("search", "outcome") if name in given}
    if any(len(text) > LONGEST_SEARCH for text in texts.values()):
        raise UserError(f"a text of more than {LONGEST_SEARCH} characters is not searched for")
    wanted = Filter(
        search=texts.get("search", ""),
        outcome=shorten(texts.get("outcome", ""), LONGEST_OUTCOME),
        source=_one_of(given, "source", ("", *SOURCES)),
        label=_one_of(given, "label", ("", *VERDICTS)),
        sort=_one_of(given, "sort", tuple(SORTS)),
        order=_one_of(given, "order", ORDERS),
        low=_share(given, "low"),
        high=_share(given, "high"),
    )
    return replace(wanted, page=_page(given))


def _one_of(given: Mapping[str, str], name: str, values: tuple[str, ...]) -> str:
    value = given.get(name, values[0])
    if value not in values:
        raise UserError(f"{name} is one of {', '.join(filter(None, values))}")
    return value


def _share(given: Mapping[str, str], name: str) -> float | None:
    if name not in given:
        return None
    try:
        value = float(given[name])
    except ValueError:
        value = math.nan
    if not 0 <= value <= 1:
        raise UserError(f"{name} is an agreement, a number from 0 to 1")
    return value


def _page(given: Mapping[str, str]) -> int:
    digits = given.get("page", "1")
    if not (digits.isascii() and digits.isdecimal() and len(digits) < 10 and int(digits) > 0):
        raise UserError("page is a number from 1")
    return int(digits)


def list_questions(root: Path, iteration: int, wanted: Filter, problems: Problems) -> Listed:
    """Return a page of the questions of an iteration that the filter allows."""
    listed = Listed()
    steps = [
        step
        for source in SOURCES
        if wanted.source in ("", source)
        for step in steps_with_questions(root, iteration, source)
    ]
    found: list[_Match] = []
    for number, step in enumerate(steps):
        with problems.noted():
            for question in questions_of(root, step):
                listed.outcomes[question.outcome] += 1
                if wanted.allows(question):
                    found.append(_match(question, number, wanted))
    listed.num_matching = len(found)
    start = (wanted.page - 1) * PAGE_SIZE
    shown = heapq.nsmallest(start + PAGE_SIZE, found)[start:]
    listed.questions = _read_again(root, steps, shown, problems)
    return listed


_Match = tuple[bool, float, int, int]
"""What sorts a question: whether it lacks what is sorted by, that, its step's number, its row."""


def _match(question: Question, number: int, wanted: Filter) -> _Match:
    value = SORTS[wanted.sort](question)
    if value is None or math.isnan(value):
        return True, 0.0, number, question.place.row
    return False, -value if wanted.order == "falling" else value, number, question.place.row


def _read_again(
    root: Path, steps: list[Step], shown: list[_Match], problems: Problems
) -> list[Question]:
    """Return the questions of a page, in its order, each step's file read once."""
    rows: dict[int, list[int]] = defaultdict(list)
    for _, _, number, row in shown:
        rows[number].append(row)
    found: dict[tuple[int, int], Question] = {}
    for number, of_step in rows.items():
        with problems.noted():
            for question in questions_at(root, steps[number], of_step):
                found[number, question.place.row] = question
    return [found[place] for *_, number, row in shown if (place := (number, row)) in found]
