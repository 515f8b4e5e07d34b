"""Accuracy of the Solver on the task's held-out problems."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from rzero_ray.concurrency import gather_all
from rzero_ray.config import Config, EvalConfig
from rzero_ray.metrics import bootstrap_interval, mean
from rzero_ray.parsing import has_chain_of_thought
from rzero_ray.protocols import Judge, Policy, Task
from rzero_ray.seeds import derive_seed
from rzero_ray.types import Problem, SampleRequest, Sampling


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


async def evaluate(config: Config, solver: Policy, judge: Judge, task: Task) -> list[ProblemScore]:
    """Grade greedy and sampled answers to every held-out problem.

    Seeds do not depend on the iteration: the same random numbers serve every policy, which makes
    differences between iterations less noisy.
    """
    problems = task.heldout()
    return await gather_all(
        _score(
            config.eval,
            derive_seed(config.seed, "evaluation", index),
            problem,
            solver,
            judge,
            task,
        )
        for index, problem in enumerate(problems)
    )


async def _score(
    config: EvalConfig, seed: int, problem: Problem, solver: Policy, judge: Judge, task: Task
) -> ProblemScore:
    messages = task.solver_messages(problem.question)
    greedy_request, sampled_request = (
        SampleRequest(
            messages=messages,
            num_samples=num_samples,
            seed=seed,
            sampling=Sampling(
                temperature=temperature, top_p=1.0, top_k=-1, max_tokens=config.max_tokens
            ),
        )
        for num_samples, temperature in ((1, 0.0), (config.num_samples, 1.0))
    )
    (greedy,), sampled = await asyncio.gather(
        solver.sample(greedy_request), solver.sample(sampled_request)
    )
    responses = [completion.text for completion in sampled]
    ballot, graded = await asyncio.gather(
        judge.vote(responses), judge.grade([greedy.text, *responses], problem.answer)
    )
    majority = await judge.grade([f"\\boxed{{{ballot.label}}}"], problem.answer)
    return ProblemScore(
        question=problem.question,
        answer=problem.answer,
        greedy_correct=graded[0] == problem.answer,
        greedy_cot=has_chain_of_thought(greedy.text),
        correct=tuple(answer == problem.answer for answer in graded[1:]),
        cot=tuple(has_chain_of_thought(text) for text in responses),
        majority_correct=ballot.label is not None and majority[0] == problem.answer,
        greedy_text=greedy.text,
        num_tokens=sum(len(c.token_ids) for c in (greedy, *sampled)),
    )


def summarize(iteration: int, scores: list[ProblemScore]) -> dict[str, object]:
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
