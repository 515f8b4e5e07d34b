"""A run's own measure of progress: the Solver's accuracy on the task's held-out problems."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rzero_ray.answers.parsing import has_chain_of_thought
from rzero_ray.config.config import Config
from rzero_ray.evaluation.answering import (
    HELDOUT,
    STRATA,
    AnsweredProblem,
    answer_problem,
    heldout_problems,
    problem_messages,
    problem_seed,
    strata_problems,
)
from rzero_ray.evaluation.scores import score
from rzero_ray.protocols import Cast
from rzero_ray.run.concurrency import gather_all
from rzero_ray.run.parquet import column_names, read_records
from rzero_ray.run.rows import Row, mean
from rzero_ray.run.run import Run
from rzero_ray.types import BenchmarkProblem, UserError, iteration_key


async def evaluate(config: Config, iteration: int, cast: Cast, run: Run) -> Row:
    """Mark greedy and sampled answers to every held-out problem; iteration 0 is the base model.

    Returns what `Run.finish_iteration` records; each problem's answers are in
    `iteration-NN/evaluation.parquet`.

    Seeds do not depend on the iteration: the same random numbers serve every policy, which makes
    differences between iterations less noisy.
    """
    run.add_event("phase", iteration=iteration, phase="evaluation")
    answered = await _answer(config, HELDOUT, heldout_problems(cast.task), cast)
    await run.write(f"{iteration_key(iteration)}/evaluation", answered, AnsweredProblem)
    row = heldout_row(iteration, answered, config.seed)
    # After the others, which are then decoded in the same company as ever.
    beside = await _answer(config, STRATA, strata_problems(cast.task), cast)
    if beside:
        await run.write(f"{iteration_key(iteration)}/strata", beside, AnsweredProblem)
        row["strata"] = strata_figures(beside)
    return row


async def _answer(
    config: Config, benchmark: str, problems: Sequence[BenchmarkProblem], cast: Cast
) -> list[AnsweredProblem]:
    return await gather_all(
        answer_problem(
            problem,
            problem_messages(cast.task, problem),
            cast.solver,
            cast.judge,
            seed=problem_seed(config.seed, benchmark, index),
            settings=config.eval,
        )
        for index, problem in enumerate(problems)
    )


def strata_figures(answered: Sequence[AnsweredProblem]) -> dict[str, Row]:
    """Return greedy and mean@k by stratum; no interval, for the strata are small."""
    by_name: dict[str, list[AnsweredProblem]] = {}
    for problem in answered:
        by_name.setdefault(problem.category, []).append(problem)
    return {
        name: {
            "num_problems": len(problems),
            "greedy": mean([p.greedy_correct for p in problems]),
            f"mean@{len(problems[0].correct)}": mean([mean(p.correct) for p in problems]),
        }
        for name, problems in by_name.items()
    }


def heldout_row(iteration: int, answered: Sequence[AnsweredProblem], seed: int) -> Row:
    """Return the row of `summary.json`; `iteration` 0 is the base model.

    Figures and interval are those of the command `evaluate suite=heldout seed=...` with the same
    seed. Whether an answer has a chain of thought, and how right it is then, is counted over the
    sampled answers, except for `greedy_cot_share`.
    """
    cot = [has_chain_of_thought(text) for problem in answered for text in problem.texts]
    correct = [right for problem in answered for right in problem.correct]
    samples = list(zip(correct, cot, strict=True))
    return {
        "iteration": iteration,
        "num_problems": len(answered),
        **_accuracy(answered, seed),
        "cot_share": mean(cot),
        "greedy_cot_share": mean([has_chain_of_thought(p.greedy_text) for p in answered]),
        "accuracy_given_cot": mean([right for right, has_cot in samples if has_cot]),
        "accuracy_given_direct": mean([right for right, has_cot in samples if not has_cot]),
    }


def _accuracy(answered: Sequence[AnsweredProblem], seed: int) -> Row:
    """Return the row's accuracies, which are all 0 for a task without held-out problems."""
    if not answered:
        return {"greedy": 0.0, "mean@0": 0.0, "mean@0_ci95": [0.0, 0.0], "maj@0": 0.0}
    of = score(HELDOUT, answered, seed)
    k = of.num_samples
    return {
        "greedy": of.greedy.value,
        f"mean@{k}": of.mean_at_k.value,
        f"mean@{k}_ci95": [of.mean_at_k.low, of.mean_at_k.high],
        f"maj@{k}": of.maj_at_k.value,
    }


def read_answered(path: Path) -> list[AnsweredProblem]:
    """Read the `evaluation.parquet` of an iteration, also one that an earlier version wrote.

    Such a file says of each answer whether it is right, but not what it is: a wrong one reads as
    None, sampled texts are empty and lengths are 0, because it holds only their sum.
    Raises UserError for one of a run without exact answers.
    """
    columns = column_names(path)
    if "qualities" in columns:
        raise UserError(
            f"{path} holds qualities and not which answers are right (method=judged); use the "
            "study to compare such runs"
        )
    if "reference" in columns:
        return read_records(path, AnsweredProblem)
    return [_from_marks(row) for row in read_records(path, _MarkedProblem)]


@dataclass(frozen=True, slots=True, kw_only=True)
class _MarkedProblem:
    """What is read of a row of an earlier version's file."""

    question: str
    answer: str
    greedy_correct: bool
    correct: tuple[bool, ...]
    majority_correct: bool
    greedy_text: str


def _from_marks(row: _MarkedProblem) -> AnsweredProblem:
    k = len(row.correct)
    return AnsweredProblem(
        question=row.question,
        reference=row.answer,
        options=(),
        category="",
        greedy_text=row.greedy_text,
        greedy_answer=row.answer if row.greedy_correct else None,
        greedy_truncated=False,
        greedy_num_tokens=0,
        texts=("",) * k,
        answers=tuple(row.answer if right else None for right in row.correct),
        truncated=(False,) * k,
        num_tokens=np.zeros(k, dtype=np.int32),
        majority=row.answer if row.majority_correct else None,
    )
