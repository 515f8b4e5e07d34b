"""The questions of an iteration: those of the Challenger's steps, and the curriculum's candidates.

They are read one step's file after the other, and of each only what a list filters, sorts and
shows: no tokens, no votes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from rzero_ray.run.manifest import number_in, phase_key
from rzero_ray.run.report.markup import shorten
from rzero_ray.run.report.serving.reading import columns
from rzero_ray.run.report.verdicts import verdict_on
from rzero_ray.run.stored import by_number
from rzero_ray.types import Step

Source = Literal["challenger", "curriculum"]
"""The phases that ask questions."""
SOURCES: tuple[Source, ...] = get_args(Source)
FILES: dict[Source, str] = {"challenger": "rollouts.parquet", "curriculum": "candidates.parquet"}
"""The file of a step's questions."""
KEPT, ASKED, MALFORMED, TOO_LONG = "kept", "asked", "malformed", "too long"
"""What became of a question; a candidate may also be dropped for a reason of
`method.selection`, and nothing is kept of what the Challenger asks while it learns."""
LONGEST_OUTCOME = 60
"""Characters. The reasons are words of ours, but the file that they are read from may be not."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a question is: a row of a step's file."""

    step: Step
    row: int

    @property
    def url(self) -> str:
        """Return the address of the question's page."""
        return f"/{self.step.key}/{self.row}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A question, as lists show it."""

    place: Place
    text: str | None
    """None where it was malformed."""
    outcome: str
    """`KEPT`, `ASKED`, or why nobody is taught by it."""
    num_agree: int
    num_votes: int
    """Votes that hold an answer."""
    label: str | None
    truth: str | None
    """The exact answer, where the file holds one."""
    reward: float | None
    """What the Challenger was paid; candidates are not paid for."""

    @property
    def agreement(self) -> float | None:
        """Return the majority's share of the answered votes; None without a majority: nobody
        voted, or the run compares answers in place of counting them (`method=judged`)."""
        return self.num_agree / self.num_votes if self.num_agree else None

    @property
    def label_is(self) -> str:
        """Return what is known of the label (`verdicts`)."""
        return verdict_on(self.label, self.truth)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    """The fields of a `ChallengerSample` that lists are made of."""

    prompt_index: int
    question: str | None
    label: str | None
    num_agree: int
    num_votes: int
    reward: float
    too_long: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class _Offered:
    """The fields of a `Candidate` that lists are made of."""

    question: str | None
    label: str | None
    num_agree: int
    num_votes: int
    dropped: str | None
    truth: str | None


_ROWS: dict[Source, type] = {"challenger": _Asked, "curriculum": _Offered}


def iterations(root: Path) -> list[int]:
    """Return the numbers of the iterations that have a folder, in order."""
    return [number_in(path.name) for path in by_number(root, "iteration-*")]


def steps_with_questions(root: Path, iteration: int, source: Source) -> list[Step]:
    """Return a phase's steps whose questions are on disk, also of one that is not finished."""
    folders = by_number(root / phase_key(iteration, source), "step-*")
    return [
        Step(iteration=iteration, phase=source, index=number_in(folder.name))
        for folder in folders
        if (folder / FILES[source]).exists()
    ]


def path_of(root: Path, step: Step) -> Path:
    """Return the file of a step's questions."""
    return root / step.key / FILES[source_of(step)]


def source_of(step: Step) -> Source:
    """Return the phase of a step as one that asks."""
    return "challenger" if step.phase == "challenger" else "curriculum"


def questions_of(root: Path, step: Step) -> Iterator[Question]:
    """Yield the questions of a step, in the order of its file."""
    found = _columns_of(root, step)
    for row in range(_length(found)):
        yield _question(found, step, row)


def questions_at(root: Path, step: Step, rows: Sequence[int]) -> list[Question]:
    """Return the questions in some rows of a step's file."""
    found = _columns_of(root, step)
    return [_question(found, step, row) for row in rows if row < _length(found)]


def siblings(root: Path, place: Place) -> list[Question]:
    """Return the other questions that were sampled from the same prompt of a Challenger's step."""
    found = _columns_of(root, place.step)
    prompts = found.get("prompt_index", [])
    return [
        _question(found, place.step, row)
        for row, prompt in enumerate(prompts)
        if row != place.row and prompt == prompts[place.row]
    ]


def _columns_of(root: Path, step: Step) -> dict[str, list[Any]]:
    return columns(path_of(root, step), _ROWS[source_of(step)])


def _length(found: dict[str, list[Any]]) -> int:
    return len(found["question"])


def _question(found: dict[str, list[Any]], step: Step, row: int) -> Question:
    return Question(
        place=Place(step, row),
        text=found["question"][row],
        outcome=_outcome(found, row),
        num_agree=found["num_agree"][row],
        num_votes=found["num_votes"][row],
        label=found["label"][row],
        truth=found["truth"][row] if "truth" in found else None,
        reward=found["reward"][row] if "reward" in found else None,
    )


def _outcome(found: dict[str, list[Any]], row: int) -> str:
    if "dropped" in found:
        return shorten(found["dropped"][row] or KEPT, LONGEST_OUTCOME)
    if "too_long" in found and found["too_long"][row]:
        return TOO_LONG
    return MALFORMED if found["question"][row] is None else ASKED
