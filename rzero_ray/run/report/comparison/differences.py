"""Two runs on the same held-out problems: how much more of them one answers rightly, problem by
problem, and why that cannot be said of other two."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from rzero_ray.disk.files import Stamp, stamp_of
from rzero_ray.evaluation.answering import HELDOUT, AnsweredProblem
from rzero_ray.evaluation.heldout import read_answered
from rzero_ray.evaluation.scores import BenchmarkScore, Difference, difference, score
from rzero_ray.run.report.comparison.runs import ComparedRun
from rzero_ray.types import iteration_key

_KEPT = 2_048
"""Scores and differences that stay in memory: a page that is loaded again takes them from there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedDifference:
    """A run minus the first one after one iteration."""

    iteration: int
    num_problems: int
    of: Difference


@dataclass(slots=True, kw_only=True)
class Differences:
    """A run minus the first one, by iteration."""

    run: ComparedRun
    paired: list[PairedDifference] = field(default_factory=list)
    """Of the iterations that both have finished, in order."""
    refusal: str | None = None
    """Why there are none."""


def differences(first: ComparedRun, other: ComparedRun) -> Differences:
    """Return `other` minus `first`, over the problems that both have answered.

    Raises DamagedFileError for a file that is no evaluation.
    """
    found = Differences(run=other, refusal=_refusal(first, other))
    if found.refusal:
        return found
    for iteration in _common(first, other):
        of = _difference(*_stamped(other, iteration), *_stamped(first, iteration), _seed(first))
        if of is None:
            name = "the base model" if iteration == 0 else f"iteration {iteration}"
            found.refusal = f"they have answered other held-out problems ({name})"
            found.paired = []
            return found
        num = first.evaluations[iteration]["num_problems"]
        found.paired.append(PairedDifference(iteration=iteration, num_problems=num, of=of))
    return found


def _refusal(first: ComparedRun, other: ComparedRun) -> str | None:
    tasks = (first.config.task, other.config.task)
    if tasks[0] != tasks[1]:
        return f"their tasks are {tasks[0]} and {tasks[1]}: no held-out problem is of both"
    if "judged" in (first.config.method, other.config.method):
        return (
            "a run by method=judged holds qualities and not which answers are right; rzero study "
            "compares such runs"
        )
    if not _common(first, other):
        return "no iteration has its graded answers in both"
    return None


def _common(first: ComparedRun, other: ComparedRun) -> list[int]:
    both = sorted(first.evaluations.keys() & other.evaluations.keys())
    return [i for i in both if answers_of(first, i).exists() and answers_of(other, i).exists()]


def answers_of(run: ComparedRun, iteration: int) -> Path:
    """Return the file of an iteration's graded answers."""
    return run.root / iteration_key(iteration) / "evaluation.parquet"


def scores_of(run: ComparedRun, iteration: int) -> BenchmarkScore | None:
    """Return the accuracies of an iteration with their intervals, the same as in its evaluation;
    None where its graded answers are gone, or are no right and wrong ones (`method=judged`)."""
    if run.config.method == "judged" or not answers_of(run, iteration).exists():
        return None
    return _score(*_stamped(run, iteration), _seed(run))


def _stamped(run: ComparedRun, iteration: int) -> tuple[Path, Stamp]:
    path = answers_of(run, iteration)
    return path, stamp_of(path)


def _seed(run: ComparedRun) -> int:
    return run.config.seed


@lru_cache(maxsize=_KEPT)
def _score(path: Path, stamp: Stamp, seed: int) -> BenchmarkScore:
    return score(HELDOUT, read_answered(path), seed)


@lru_cache(maxsize=_KEPT)
def _difference(
    path: Path, stamp: Stamp, base: Path, base_stamp: Stamp, seed: int
) -> Difference | None:
    """Return the difference of two files' answers; None where the problems are not the same."""
    answered, answered_by_base = read_answered(path), read_answered(base)
    if _problems(answered) != _problems(answered_by_base):
        return None
    return difference(HELDOUT, answered, answered_by_base, seed)


def _problems(answered: Sequence[AnsweredProblem]) -> list[tuple[str, str]]:
    return [(problem.question, problem.reference) for problem in answered]
