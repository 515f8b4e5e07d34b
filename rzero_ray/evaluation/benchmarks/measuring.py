"""Has a model answer benchmarks on engines of its own: what takes an evaluation its time."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from rzero_ray.config.audits import EvalConfig
from rzero_ray.config.evaluation import EvaluationConfig, sampling_settings
from rzero_ray.evaluation.answering import (
    AnsweredProblem,
    answer_problem,
    problem_messages,
    problem_seed,
)
from rzero_ray.evaluation.benchmarks.jobs import (
    Job,
    Subject,
    check_same_settings,
    write_settings,
)
from rzero_ray.evaluation.scores import score
from rzero_ray.protocols import Judge, Sampler, Task
from rzero_ray.run.clock import StageClock
from rzero_ray.run.concurrency import gather_limited
from rzero_ray.tasks.base_model import obtain_model
from rzero_ray.tasks.registry import make_task
from rzero_ray.text.characters import printable
from rzero_ray.types import BenchmarkProblem, PlacedText

_ROUNDS_UNDER_WAY = 4
"""Sequences under way, in engine batches: enough to fill every step, few enough that none waits in
a queue for the length of a large benchmark."""


async def measure(
    config: EvaluationConfig, subject: Subject, jobs: Sequence[Job], console: Console
) -> None:
    """Start engines with the model, and have it answer the benchmarks one after the other."""
    from actors import cluster  # imports Ray, which a mistyped key need not wait for

    settings = sampling_settings(config, subject.path)
    if os.environ.get("RAY_ADDRESS") == "local":
        cluster.check_machine_for_sampling(settings)
    task = make_task(config.task)
    model = obtain_model(settings.model)
    check_same_settings(config, subject, model)
    check_prompts(config, model, task, jobs)
    address = cluster.connect_ray()
    cluster.check_machine_for_sampling(settings)
    write_settings(config, subject, model)
    say(console, f"{subject.label}: starting engines (Ray at {address})")
    running = await cluster.start_sampling(settings, model, StageClock())
    try:
        for job in jobs:
            await _measure_benchmark(config, subject, job, running, task, console)
    finally:
        await running.close()


async def answer_benchmark(
    job: Job,
    sampler: Sampler,
    judge: Judge,
    task: Task,
    *,
    seed: int,
    settings: EvalConfig,
    limit: int,
    on_answer: Callable[[], object] = lambda: None,
) -> list[AnsweredProblem]:
    """Have every problem of a benchmark answered by `settings`, at most `limit` at a time."""

    async def answer(index: int, problem: BenchmarkProblem) -> AnsweredProblem:
        answered = await answer_problem(
            problem,
            problem_messages(task, problem),
            sampler,
            judge,
            seed=problem_seed(seed, job.benchmark.name, index),
            settings=settings,
        )
        on_answer()
        return answered

    return await gather_limited(
        (answer(index, problem) for index, problem in enumerate(job.problems)), limit
    )


def check_prompts(config: EvaluationConfig, model: Path, task: Task, jobs: Sequence[Job]) -> None:
    """Raise UserError when prompts leave no room for an answer: none is dropped in silence."""
    from actors.cluster import check_texts  # imports the tokenizer, which takes seconds

    texts = [
        PlacedText(
            where=f"{job.benchmark.name}, problem {number}",
            messages=problem_messages(task, problem),
            answer="",
        )
        for job in jobs
        for number, problem in enumerate(job.problems, start=1)
    ]
    check_texts(model, texts, config.max_model_len, "max_model_len")


def say(console: Console, text: str) -> None:
    """Print a line of an evaluation's log, in which no part of the text is markup."""
    console.print(Text(printable(text)), soft_wrap=True)


async def _measure_benchmark(
    config: EvaluationConfig,
    subject: Subject,
    job: Job,
    running: Any,
    task: Task,
    console: Console,
) -> None:
    """Have one benchmark answered and keep the answers; `running` is a `SamplingCluster`."""
    sequences = _ROUNDS_UNDER_WAY * running.num_engines * config.sampler.max_num_seqs
    name = f"{subject.label} {job.benchmark.title}"
    start = time.monotonic()
    with _progress(console) as progress:
        bar = progress.add_task(name, total=len(job.problems))
        answered = await answer_benchmark(
            job,
            running,
            running.judge,
            task,
            seed=config.seed,
            settings=EvalConfig(
                num_samples=job.num_samples,
                temperature=config.temperature,
                max_tokens=config.max_tokens,
            ),
            limit=max(1, sequences // (job.num_samples + 1)),
            on_answer=lambda: progress.advance(bar),
        )
    seconds = time.monotonic() - start
    subject.write_answers(job, answered, seconds)
    of = score(job.benchmark.name, answered, config.seed)
    figures = f"greedy {of.greedy.value:.1%}, mean@{of.num_samples} {of.mean_at_k.value:.1%}"
    say(console, f"{name}: {of.num_problems} problems, {figures}, {seconds:.0f} s")


def _progress(console: Console) -> Progress:
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
