"""What the Solver did with a question: the steps that trained on it, and its rollouts there."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from rzero_ray.run.report.serving.reading import Problems, columns
from rzero_ray.run.stored import StoredRun
from rzero_ray.types import CurriculumItem, Step, iteration_key


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """One answer that the Solver learned from."""

    row: int
    """In the `rollouts.parquet` of its step."""
    label: str
    answer: str | None
    reward: float
    advantage: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedStep:
    """A step of the Solver, and its answers to a question."""

    step: Step
    answers: list[Trained]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Answered:
    """The fields of a `SolverSample` that this is made of."""

    question: str
    label: str
    answer: str | None
    reward: float
    advantage: float


def training_on(
    run: StoredRun, question: str, iteration: int, problems: Problems
) -> list[TrainedStep]:
    """Return the Solver's finished steps from an iteration on that trained on a question: of that
    iteration, and of later ones where curricula are taught again."""
    last = None if run.config.curriculum.replay_share else iteration
    found = []
    for step in run.sampled_steps("solver", last):
        if step.iteration < iteration:
            continue
        with problems.noted():
            answers = list(_answers_in(run, step, question))
            if answers:
                found.append(TrainedStep(step=step, answers=answers))
    return found


def _answers_in(run: StoredRun, step: Step, question: str) -> Iterator[Trained]:
    found = columns(run.root / step.key / "rollouts.parquet", _Answered)
    for row, text in enumerate(found["question"]):
        if text == question:
            yield Trained(
                row=row,
                label=found["label"][row],
                answer=found["answer"][row],
                reward=found["reward"][row],
                advantage=found["advantage"][row],
            )


def taught(run: StoredRun, question: str, iteration: int) -> CurriculumItem | None:
    """Return the question as the iteration's curriculum has it, or None where it is not in it."""
    path = run.root / iteration_key(iteration) / "curriculum.parquet"
    if not path.exists():
        return None
    found = columns(path, CurriculumItem)
    for row, text in enumerate(found["question"]):
        if text == question:
            return CurriculumItem(**{name: values[row] for name, values in found.items()})
    return None
