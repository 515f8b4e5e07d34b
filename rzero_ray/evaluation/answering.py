"""Accuracy of the Solver: answers to problems, sampled and graded.

The driver's evaluation after each iteration and the command `evaluate` ask and grade by
the same function, `answer_problem`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rzero_ray.answers.parsing import has_chain_of_thought
from rzero_ray.config.config import Config
from rzero_ray.evaluation.statistics import bootstrap_interval
from rzero_ray.protocols import Cast, Judge, Sampler, Task
from rzero_ray.run.concurrency import gather_all
from rzero_ray.run.rows import mean
from rzero_ray.run.run import Run
from rzero_ray.run.seeds import derive_seed
from rzero_ray.types import BenchmarkProblem, Message, SampleRequest, Sampling, iteration_key

HELDOUT = "heldout"
"""The benchmark of a task's own held-out problems."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProblemScore:
    """A problem's graded answers."""

    question: str
    answer: str
    greedy_correct: bool
    greedy_cot: bool
    """Whether the greedy answer has a chain of thought."""
    correct: tuple[bool, ...]
    """[k] sampled at temperature 1."""
    cot: tuple[bool, ...]
    """[k] whether each sampled answer has a chain of thought."""
    majority_correct: bool
    greedy_text: str
    num_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class AnsweredProblem:
    """A row of a benchmark's Parquet file: a problem, the model's answers, and their marks."""

    question: str
    reference: str
    options: tuple[str, ...]
    category: str
    greedy_text: str
    greedy_answer: str | None
    """The reference itself where it is right, None where the response holds no answer."""
    greedy_truncated: bool
    """Whether the length limit cut it."""
    greedy_num_tokens: int
    texts: tuple[str, ...]
    """[k] sampled at temperature 1."""
    answers: tuple[str | None, ...]
    """[k] as `greedy_answer`."""
    truncated: tuple[bool, ...]
    """[k]"""
    num_tokens: NDArray[np.int32]
    """[k]"""
    majority: str | None
    """What most of the k answers say; the reference itself where that is right."""

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


async def evaluate(config: Config, iteration: int, cast: Cast, run: Run) -> dict[str, object]:
    """Grade greedy and sampled answers to every held-out problem; iteration 0 is the base model.

    Returns what `Run.finish_iteration` records; each problem's answers are in
    `iteration-NN/evaluation.parquet`.

    Seeds do not depend on the iteration: the same random numbers serve every policy, which makes
    differences between iterations less noisy.
    """
    answered = await gather_all(
        answer_problem(
            problem,
            problem_messages(cast.task, problem),
            cast.solver,
            cast.judge,
            seed=problem_seed(config.seed, HELDOUT, index),
            num_samples=config.eval.num_samples,
            max_tokens=config.eval.max_tokens,
        )
        for index, problem in enumerate(heldout_problems(cast.task))
    )
    scores = [_to_score(problem) for problem in answered]
    run.write(f"{iteration_key(iteration)}/evaluation", scores, ProblemScore)
    return summarize(iteration, scores)


def heldout_problems(task: Task) -> list[BenchmarkProblem]:
    """Return the task's held-out problems."""
    return [BenchmarkProblem(question=p.question, answer=p.answer) for p in task.heldout()]


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
    num_samples: int,
    max_tokens: int,
) -> AnsweredProblem:
    """Sample one greedy answer and `num_samples` at temperature 1, and mark them all."""
    greedy_request, sampled_request = (
        SampleRequest(
            messages=messages,
            num_samples=count,
            seed=seed,
            sampling=Sampling(temperature=temperature, top_p=1.0, top_k=-1, max_tokens=max_tokens),
        )
        for count, temperature in ((1, 0.0), (num_samples, 1.0))
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
        greedy_num_tokens=len(greedy.token_ids),
        texts=tuple(texts),
        answers=marks.answers,
        truncated=tuple(not completion.finished for completion in sampled),
        num_tokens=np.array([len(c.token_ids) for c in sampled], dtype=np.int32),
        majority=marks.majority,
    )


def _to_score(answered: AnsweredProblem) -> ProblemScore:
    return ProblemScore(
        question=answered.question,
        answer=answered.reference,
        greedy_correct=answered.greedy_correct,
        greedy_cot=has_chain_of_thought(answered.greedy_text),
        correct=answered.correct,
        cot=tuple(has_chain_of_thought(text) for text in answered.texts),
        majority_correct=answered.majority_correct,
        greedy_text=answered.greedy_text,
        num_tokens=answered.greedy_num_tokens + int(answered.num_tokens.sum()),
    )


def summarize(iteration: int, scores: Sequence[ProblemScore]) -> dict[str, object]:
    """Return the row of `summary.json`; `iteration` 0 is the base model.

    `mean@k` is over sampled answers, its interval a bootstrap over problems; `cot_share` and
    `accuracy_given_cot` are over the same sampled answers.
    """
    k = len(scores[0].correct) if scores else 0
    per_problem = [mean(score.correct) for score in scores]
    with_cot = [
        right
        for score in scores
        for right, cot in zip(score.correct, score.cot, strict=True)
        if cot
    ]
    without_cot = [
        right
        for score in scores
        for right, cot in zip(score.correct, score.cot, strict=True)
        if not cot
    ]
    interval = bootstrap_interval(per_problem, seed=0) if scores else (0.0, 0.0)
    return {
        "iteration": iteration,
        "num_problems": len(scores),
        "greedy": mean([score.greedy_correct for score in scores]),
        f"mean@{k}": mean(per_problem),
        f"mean@{k}_ci95": list(interval),
        f"maj@{k}": mean([score.majority_correct for score in scores]),
        "cot_share": mean([cot for score in scores for cot in score.cot]),
        "greedy_cot_share": mean([score.greedy_cot for score in scores]),
        "accuracy_given_cot": mean(with_cot),
        "accuracy_given_direct": mean(without_cot),
    }
