"""The rows in which a run keeps its figures: lines of its two logs, and evaluations.

Rows are plain objects of JSON. The classes here say what a reader may rely on: a row is checked
against one of them when it is read from a file. Keys that a class does not name hold numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, RootModel, Strict, model_validator

Row = dict[str, Any]
"""A line of a log, or an evaluation."""
_Interval = Annotated[list[float], Field(min_length=2, max_length=2)]


class _Shape(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow")


class _Timed(_Shape):
    """What the clock adds to a row."""

    seconds: dict[str, FiniteFloat] = {}
    seconds_alone: dict[str, FiniteFloat] = {}
    seconds_overhead: FiniteFloat = 0.0
    tokens_sampled: int = Field(0, ge=0)


class _StepShape(_Timed):
    __pydantic_extra__: dict[str, float | None]
    iteration: int = Field(ge=1)
    step: int = Field(ge=1)


class _ChallengerShape(_StepShape):
    phase: Literal["challenger"]
    reward: float


class _CurriculumShape(_StepShape):
    phase: Literal["curriculum"]
    kept: int = Field(ge=0)

    @model_validator(mode="after")
    def _check_counts(self) -> Self:
        for name, number in self.__pydantic_extra__.items():
            if name.startswith("dropped/") and number is None:
                raise ValueError(f"{name} is no number")
        return self


class _VerifierShape(_StepShape):
    phase: Literal["verifier"]


class _RefereeShape(_StepShape):
    phase: Literal["referee"]


class _AuditShape(_StepShape):
    phase: Literal["audit"]
    oracle: str
    num_questions: int
    accuracy: float | None = None
    accuracy_ci95: _Interval | None = None


class _SolverShape(_StepShape):
    phase: Literal["solver"]


class _DriftShape(_StepShape):
    phase: Literal["drift"]
    answer_scripts: dict[str, float] = {}
    question_scripts: dict[str, float] = {}
    limits: list[Annotated[tuple[str, str, float], Strict(False)]] = []
    """Figure, the key of its threshold, and the threshold."""


class StepRow(
    RootModel[
        Annotated[
            _ChallengerShape
            | _CurriculumShape
            | _VerifierShape
            | _AuditShape
            | _RefereeShape
            | _SolverShape
            | _DriftShape,
            Field(discriminator="phase"),
        ]
    ]
):
    """A line of `metrics.jsonl`: one finished step."""


class _Stratum(_Shape):
    __pydantic_extra__: dict[str, float]
    num_problems: int


class EvaluationRow(_Timed):
    """An `evaluation.json`: the Solver on the held-out problems after an iteration; 0 is the base
    model. All of it are measured shares, counts and seconds: none is infinite or no number."""

    model_config = ConfigDict(allow_inf_nan=False)
    __pydantic_extra__: dict[str, float | _Interval | None]
    iteration: int = Field(ge=0)
    num_problems: int = Field(1, ge=0)
    greedy: float
    cot_share: float
    accuracy_given_cot: float
    strata: dict[str, _Stratum] = {}


class EventRow(_Shape):
    """A line of `events.jsonl`."""

    time: float
    event: str
    max_logprob_difference: float | None = None
    """Of a weight sync."""
    probe_bound: float | None = None
    """What the sync was held to."""


def mean(values: Sequence[float]) -> float:
    """Return the mean, or 0.0 of nothing."""
    return float(np.mean(values)) if len(values) else 0.0


def phase_rows(metrics: Sequence[Row], phase: str, iteration: int | None = None) -> list[Row]:
    """Return a phase's rows in order; of all iterations without `iteration`."""
    rows = [
        row for row in metrics if row["phase"] == phase and iteration in (None, row["iteration"])
    ]
    return sorted(rows, key=lambda row: (row["iteration"], row["step"]))


def is_beyond(value: float | None, key: str, limit: float | None) -> bool:
    """Return whether a figure lies beyond the limit whose key begins with `max_` or `min_`.

    One that is missing, or has no limit, does not.
    """
    if value is None or limit is None:
        return False
    return value > limit if key.startswith("max_") else value < limit
