"""What the Solver did: the steps that trained on a question, and all answers of a step."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from rzero_ray.run.report.serving.reading import Problems, columns
from rzero_ray.run.rows import mean
from rzero_ray.run.stored import StoredRun
from rzero_ray.types import CurriculumItem, Step, iteration_key

PROMPTS_SHOWN = 50
"""On one page."""


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
class AnsweredPrompt:
    """A question of a step, and the answers to it."""

    question: str
    label: str
    answers: list[Trained]

    @property
    def reward(self) -> float:
        """Return the mean reward."""
        return mean([answer.reward for answer in self.answers])


@dataclass(frozen=True, slots=True, kw_only=True)
class AnsweredStep:
    """A part of what the Solver answered in a step."""

    step: Step
    steps: list[Step]
    """All of the phase that have answers."""
    prompts: list[AnsweredPrompt]
    start: int
    """The number of the first of these prompts."""
    num_prompts: int
    """Of the step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Answered:
    """The fields of a `SolverSample` that this is made of."""

    question: str
    label: str
    answer: str | None
    reward: float
    advantage: float


@dataclass(frozen=True, slots=True, kw_only=True)
class _Prompted(_Answered):
    """The same with the number of the prompt."""

    prompt_index: int


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
            yield _trained(found, row)


def _trained(found: dict[str, list[Any]], row: int) -> Trained:
    return Trained(
        row=row,
        label=found["label"][row],
        answer=found["answer"][row],
        reward=found["reward"][row],
        advantage=found["advantage"][row],
    )


def answered_in(run: StoredRun, step: Step, start: int) -> AnsweredStep:
    """Return `PROMPTS_SHOWN` of a step's questions with the answers to them, from number `start`
    on. Raises DamagedFileError where they cannot be read."""
    found = columns(run.root / step.key / "rollouts.parquet", _Prompted)
    rows: dict[int, list[int]] = defaultdict(list)
    for row, prompt in enumerate(found["prompt_index"]):
        rows[prompt].append(row)
    shown = sorted(rows)[start : start + PROMPTS_SHOWN]
    return AnsweredStep(
        step=step,
        steps=run.sampled_steps("solver", step.iteration),
        prompts=[
            AnsweredPrompt(
                question=found["question"][rows[prompt][0]],
                label=found["label"][rows[prompt][0]],
                answers=[_trained(found, row) for row in rows[prompt]],
            )
            for prompt in shown
        ],
        start=start,
        num_prompts=len(rows),
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
