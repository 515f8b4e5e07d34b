"""Has a model answer problems, and marks its answers.

A run's evaluation after each iteration (`heldout.py`) and the command `evaluate` (`benchmarks/`)
ask and mark by the same function, `answer_problem`, and keep the same record, `AnsweredProblem`.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rzero_ray.config.audits import EvalConfig
from rzero_ray.protocols import Judge, Sampler, Task
from rzero_ray.run.seeds import derive_seed
from rzero_ray.types import BenchmarkProblem, Message, SampleRequest, Sampling

HELDOUT = "heldout"
"""The name of the benchmark that consists of a task's own held-out problems."""
STRATA = "strata"
"""The name of those beside them (`protocols.Task.strata`)."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class AnsweredProblem:
    """A problem, the model's answers to it, and their marks: one row of a Parquet file."""

    question: str
    reference: str
    options: tuple[str, ...]
    category: str
    greedy_text: str
    greedy_answer: str | None
    """The reference itself where the answer is right, None where the response holds no answer."""
    greedy_truncated: bool
    """Whether the length limit cut the greedy response."""
    greedy_num_tokens: int
    texts: tuple[str, ...]
    """[k] responses, sampled at temperature 1."""
    answers: tuple[str | None, ...]
    """[k] what the responses answer, in the form of `greedy_answer`."""
    truncated: tuple[bool, ...]
    """[k] whether the length limit cut the response."""
    num_tokens: NDArray[np.int32]
    """[k] lengths of the responses."""
    majority: str | None
    """What most of the k answers say; the reference itself where that is right."""

    def __post_init__(self) -> None:
        """Raise ValueError where the lists are not of one k: a file may hold anything."""
        lengths = {len(of) for of in (self.texts, self.answers, self.truncated, self.num_tokens)}
        if len(lengths) != 1 or 0 in lengths:
            raise ValueError("the sampled answers to a problem are none, or of different numbers")

    @property
    def greedy_correct(self) -> bool:
        """Whether the greedy answer is right."""
        return self.greedy_answer == self.reference

    @property
    def correct(self) -> tuple[bool, ...]:
        """[k] which sampled answers are right."""
        return tuple(answer == self.reference for answer in self.answers)

    @property
    def majority_correct(self) -> bool:
        """Whether the majority is right."""
        return self.majority == self.reference


def heldout_problems(task: Task) -> list[BenchmarkProblem]:
    """Return the task's held-out problems, over which the headline is."""
    return [BenchmarkProblem(question=p.question, answer=p.answer) for p in task.heldout()]


def strata_problems(task: Task) -> list[BenchmarkProblem]:
    """Return the held-out problems beside those, each with its stratum as its category."""
    return [
        BenchmarkProblem(question=p.question, answer=p.answer, category=name)
        for name, problems in task.strata().items()
        for p in problems
    ]


def problem_seed(seed: int, benchmark: str, index: int) -> int:
    """Return the seed of a problem's answers: sample k is drawn with it plus k."""
    place = () if benchmark == HELDOUT else (benchmark,)
    return derive_seed(seed, "evaluation", *place, index)


def problem_messages(task: Task, problem: BenchmarkProblem) -> tuple[Message, ...]:
    """Return what the model is asked."""
    if problem.options:
        return task.choice_messages(problem.question, problem.options)
    return task.solver_messages(problem.question)


async def answer_problem(
    problem: BenchmarkProblem,
    messages: tuple[Message, ...],
    solver: Sampler,
    judge: Judge,
    *,
    seed: int,
    settings: EvalConfig,
) -> AnsweredProblem:
    """Sample one greedy answer and k at the temperature of the settings, and mark them all."""
    greedy_request, sampled_request = (
        SampleRequest(
            messages=messages,
            num_samples=count,
            seed=seed,
            sampling=Sampling(
                temperature=temperature, top_p=1.0, top_k=-1, max_tokens=settings.max_tokens
            ),
            reads_tokens=False,
        )
        for count, temperature in ((1, 0.0), (settings.num_samples, settings.temperature))
    )
    (greedy,), sampled = await asyncio.gather(
        solver.sample(greedy_request), solver.sample(sampled_request)
    )
    texts = [completion.text for completion in sampled]
    greedy_marks, marks = await asyncio.gather(
        judge.mark([greedy.text], problem), judge.mark(texts, problem)
    )
    return AnsweredProblem(
        question=problem.question,
        reference=problem.answer,
        options=problem.options,
        category=problem.category,
        greedy_text=greedy.text,
        greedy_answer=greedy_marks.answers[0],
        greedy_truncated=not greedy.finished,
        greedy_num_tokens=greedy.num_tokens,
        texts=tuple(texts),
        answers=marks.answers,
        truncated=tuple(not completion.finished for completion in sampled),
        num_tokens=np.array([c.num_tokens for c in sampled], dtype=np.int32),
        majority=marks.majority,
    )
