"""The figures of a base model of the ladder, and whether they are those that a study needs.

Such a base carries out single operations without mistakes, masters short questions, masters longer
ones in part, and is at a loss with the longest; its Challenger asks hardly anything in the band.
Bases of other seeds differ in this more than methods do, so a study measures its bases first.

Everything here is pure; `gate` samples.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from pydantic import BaseModel, ConfigDict, field_validator

from rzero_ray.evaluation.answering import AnsweredProblem
from rzero_ray.tasks.ladder import questions as ladder
from rzero_ray.types import Ballot

BAND: Final = (0.25, 0.75)
"""The paper's band: the least and the largest share of votes for the majority's answer."""

_STRATA: Final = ("2-3", "4-5", "6-7")
"""The strata that have a criterion of their own."""
_SHORT: Final = 6
"""Operations of the longest questions whose single steps have to be right."""
_HOPELESS: Final = 8
"""Operations of the shortest questions that the base has to be at a loss with."""
_NEARLY_ALL: Final = 0.99
"""The largest share of votes that are not all."""
# An operation between two running values; the second is the first of the next operation.
_STEP: Final = re.compile(r"(?=([0-9])(\[[^\[\]]*\])([0-9]))")


class GateRow(BaseModel):
    """The figures of one base model. Shares are from 0 to 1."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)

    base: int
    """The base's seed."""
    model: str
    """The name of its folder, which changes with the recipe."""
    steps_short: float
    """Share of right results of single operations in answers to questions of up to 6."""
    steps_long: float
    """The same in answers to longer questions."""
    accuracy: dict[str, float]
    """{stratum: share of right answers}."""
    accuracy_hopeless: float
    """The same over all questions of 8 operations and more."""
    last_majority: int
    """Operations up to which the majority is right on half of the questions of each length."""
    well_formed: float
    """Share of the Challenger's samples that are questions."""
    in_band: float
    """Share of those questions whose majority lies in the band."""
    in_wide_band: float
    """Share of those on which at least a quarter agree, but not all."""

    @field_validator("accuracy")
    @classmethod
    def _has_its_strata(cls, accuracy: dict[str, float]) -> dict[str, float]:
        missing = [name for name in _STRATA if name not in accuracy]
        if missing:
            raise ValueError(f"it has no {missing[0]}")
        return accuracy


@dataclass(frozen=True, slots=True)
class _Criterion:
    name: str
    value: Callable[[GateRow], float]
    low: float
    high: float

    def fault_in(self, row: GateRow) -> str | None:
        value = self.value(row)
        if self.low <= value <= self.high:
            return None
        return f"{self.name} {value:.3g} not in [{self.low:g}, {self.high:g}]"


_CRITERIA: Final = (
    _Criterion("single steps", lambda row: row.steps_short, 0.99, 1),
    _Criterion("2-3", lambda row: row.accuracy["2-3"], 0.9, 1),
    _Criterion("4-5", lambda row: row.accuracy["4-5"], 0.55, 0.8),
    _Criterion("6-7", lambda row: row.accuracy["6-7"], 0.2, 0.4),
    _Criterion("8 and more", lambda row: row.accuracy_hopeless, 0, 0.12),
    _Criterion("last right majority", lambda row: row.last_majority, 5, 6),
    _Criterion("Challenger in the band", lambda row: row.in_band, 0, 0.2),
)


def faults_of(row: GateRow) -> list[str]:
    """Return why a base does not pass, a text for each criterion that it misses."""
    faults = (criterion.fault_in(row) for criterion in _CRITERIA)
    return [fault for fault in faults if fault is not None]


def gate_row(
    base: int,
    model: str,
    answered: Sequence[AnsweredProblem],
    num_asked: int,
    ballots: Sequence[Ballot],
) -> GateRow:
    """Work out a base's figures.

    Args:
        base: the base's seed.
        model: the name of its folder.
        answered: the held-out problems, each with its sampled answers.
        num_asked: samples of the Challenger.
        ballots: the votes on those samples that are questions.
    """
    by_length: dict[int, list[AnsweredProblem]] = {}
    by_stratum: dict[str, list[AnsweredProblem]] = {name: [] for name in _STRATA}
    for problem in answered:
        length = _length(problem)
        by_length.setdefault(length, []).append(problem)
        by_stratum.setdefault(ladder.stratum(length), []).append(problem)
    return GateRow(
        base=base,
        model=model,
        steps_short=_step_accuracy([p for p in answered if _length(p) <= _SHORT]),
        steps_long=_step_accuracy([p for p in answered if _length(p) > _SHORT]),
        accuracy={name: _accuracy(problems) for name, problems in by_stratum.items()},
        accuracy_hopeless=_accuracy([p for p in answered if _length(p) >= _HOPELESS]),
        last_majority=_last_majority(by_length),
        well_formed=len(ballots) / num_asked,
        in_band=_share_within(ballots, *BAND),
        in_wide_band=_share_within(ballots, BAND[0], _NEARLY_ALL),
    )


def gate_table(rows: Sequence[GateRow]) -> str:
    """Return the figures and verdicts of bases as a Markdown table, by seed."""
    head = ["base", "step accuracy k<=6, k>6", *_STRATA, ">= 8", "last k with majority >= .5"]
    head += ["well-formed", "base Challenger in .25-.75", "in .25-.99", "verdict"]
    lines = [head, ["---"] * len(head)]
    for row in sorted(rows, key=lambda row: row.base):
        faults = faults_of(row)
        lines.append(
            [
                str(row.base),
                f"{_figure(row.steps_short, 4)} {_figure(row.steps_long, 4)}",
                *(_figure(row.accuracy[name]) for name in _STRATA),
                _figure(row.accuracy_hopeless),
                str(row.last_majority),
                _figure(row.well_formed),
                _figure(row.in_band),
                _figure(row.in_wide_band),
                f"fails: {'; '.join(faults)}" if faults else "passes",
            ]
        )
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _length(problem: AnsweredProblem) -> int:
    question = ladder.parse(problem.question)
    assert question is not None, problem.question
    return len(question.operations)


def _accuracy(problems: Sequence[AnsweredProblem]) -> float:
    marks = [is_right for problem in problems for is_right in problem.correct]
    return sum(marks) / max(1, len(marks))


def _step_accuracy(problems: Sequence[AnsweredProblem]) -> float:
    """Return the share of right results of the known operations that answers carry out."""
    steps = [step for p in problems for text in p.texts for step in _STEP.findall(text)]
    marks = [
        ladder.TABLES[operation][int(value)] == int(result)
        for value, operation, result in steps
        if operation in ladder.TABLES
    ]
    return sum(marks) / max(1, len(marks))


def _last_majority(by_length: dict[int, list[AnsweredProblem]]) -> int:
    """Return the length before the first at which fewer than half of the majorities are right."""
    for length in sorted(by_length):
        right = [problem.majority_correct for problem in by_length[length]]
        if sum(right) < len(right) / 2:
            return length - 1
    return max(by_length)


def _share_within(ballots: Sequence[Ballot], low: float, high: float) -> float:
    shares = [ballot.num_agree / len(ballot.answers) for ballot in ballots]
    return sum(low <= share <= high for share in shares) / max(1, len(shares))


def _figure(share: float, digits: int = 3) -> str:
    return f"{share:.{digits}f}".removeprefix("0")
