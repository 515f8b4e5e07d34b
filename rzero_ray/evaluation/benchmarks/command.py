"""The command `python -m rzero_ray evaluate`: measures models on benchmarks. `HELP` says how."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePath
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from rzero_ray.config.command import run_command
from rzero_ray.config.config import to_yaml
from rzero_ray.config.evaluation import (
    EvaluationConfig,
    load_evaluation_config,
    resolve_output_dir,
    sampling_settings,
)
from rzero_ray.evaluation.answering import (
    AnsweredProblem,
    answer_problem,
    problem_messages,
    problem_seed,
)
from rzero_ray.evaluation.benchmarks.judge_model import Opinion, ask_judge, summarize_opinions
from rzero_ray.evaluation.benchmarks.published import rows_for
from rzero_ray.evaluation.benchmarks.sources import (
    Benchmark,
    find_suite,
    load_problems,
    pick_problems,
)
from rzero_ray.evaluation.benchmarks.tables import (
    Grid,
    average_grid,
    judge_grid,
    published_grid,
    score_grid,
)
from rzero_ray.evaluation.endpoint import Endpoint
from rzero_ray.evaluation.scores import BenchmarkScore, Difference, difference, score, to_plain
from rzero_ray.protocols import Judge, Sampler, Task
from rzero_ray.run.clock import StageClock
from rzero_ray.run.concurrency import gather_limited
from rzero_ray.run.display import make_console, printable
from rzero_ray.run.parquet import read_records, write_records, write_text_durably
from rzero_ray.tasks.base_model import find_model, obtain_model
from rzero_ray.tasks.registry import make_task
from rzero_ray.types import BenchmarkProblem, SampleRequest, Sampling, UserError

HELP = """\
usage: python -m rzero_ray evaluate model=PATH [suite=math] [key=value ...]

Measures a model on benchmarks: greedy, mean@k, pass@k and maj@k, with 95 % intervals over problems.
Every answer is kept in the output folder, and benchmarks that are finished there are not repeated.

  model=PATH             a folder in Hugging Face format, a hub name, or tiny (the built-in model)
  base=PATH              a second model, measured by the same code; differences are model minus base
  suite=math             or general, all, heldout, names with commas between, or a path to a .jsonl
  task=arithmetic        for a model that was trained from tiny; the others have task=math
  data_dir=FOLDER        where the benchmarks' files are: NAME.jsonl, .json, .csv or .parquet
  download=true          fetch a benchmark that is missing from the hub
  output_dir=FOLDER      instead of evaluations/MODEL-seedN
  seed=N                 the seed of the sampled answers
  num_samples=K          sampled answers per problem instead of each benchmark's own number
  max_problems=N         measure a part of each benchmark, drawn by the seed
  max_tokens=N           the longest answer
  sampler.num_solver=N   the number of engines, each on sampler.gpus_per_engine=1.0 GPUs
  endpoint.url=URL       with endpoint.model=NAME: a judge model's opinion of every greedy answer

All keys and their defaults: rzero_ray/config/evaluation.py. conf=NAME is one of conf/evaluation/.
Output: table.md, summary.json, config.yaml, and the answers in model/NAME.parquet (and base/).
Exit codes: 0 done, 1 the evaluation failed, 2 the command, the configuration or a file is wrong."""

_LOG_WIDTH = 170
"""Columns of the tables where no terminal says how wide it is."""
_ROUNDS_UNDER_WAY = 4
"""Sequences under way, in engine batches: enough to fill every step, few enough that none waits in
a queue for the length of a large benchmark."""
_PROMPTS_PER_CALL = 1000


@dataclass(frozen=True, slots=True)
class Subject:
    """A model that is measured."""

    label: str
    """In tables."""
    path: str
    """As given."""
    folder: Path
    """Of its records."""


@dataclass(frozen=True, slots=True)
class Job:
    """A benchmark with its problems."""

    benchmark: Benchmark
    problems: tuple[BenchmarkProblem, ...]
    num_samples: int

    def fingerprint(self) -> str:
        """Return what tells whether answers on disk belong to these problems."""
        text = json.dumps([[asdict(p) for p in self.problems], self.num_samples])
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Report:
    """What an evaluation came to."""

    scores: dict[str, dict[str, BenchmarkScore]]
    """By label, then by benchmark."""
    differences: dict[str, Difference]
    opinions: dict[tuple[str, str], dict[str, int | float]]
    """Counts of the judge model by (benchmark's title, label)."""
    grids: tuple[Grid, ...]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    return run_command(
        arguments,
        lambda: HELP,
        lambda given: run_evaluation(load_evaluation_config(given), make_console(_LOG_WIDTH)),
        "the same command goes on",
    )


def run_evaluation(config: EvaluationConfig, console: Console) -> Report:
    """Measure, write the output folder and print the tables.

    Everything that can be wrong with the command is found before an engine starts.
    """
    output = resolve_output_dir(config)
    judge_model = _open_judge(config)
    jobs = load_jobs(config)
    subjects = _subjects(config, output)
    for subject in subjects:
        found = find_model(sampling_settings(config, subject.path).model)
        _check_same_settings(config, subject, found)
    write_output_config(config, output)
    _say(console, f"output folder {output}")
    for subject in subjects:
        waiting = _unfinished(config, subject, jobs)
        if waiting:
            asyncio.run(_measure(config, subject, waiting, console))
    if judge_model is not None:
        asyncio.run(_ask_judge(config, subjects, jobs, judge_model, console))
    report = make_report(config, subjects, jobs)
    _write_report(config, subjects, report, output)
    for grid in report.grids:
        console.print(grid.to_rich())
    _say(console, f"records, summary.json and table.md are in {output}")
    return report


def load_jobs(config: EvaluationConfig) -> list[Job]:
    """Return the benchmarks of the suite with their problems."""
    task = make_task(config.task)
    jobs = []
    for benchmark in find_suite(config.suite):
        problems = load_problems(benchmark, config.suite, task, config.data_dir, config.download)
        picked = pick_problems(problems, config.max_problems, config.seed)
        num_samples = config.num_samples or benchmark.num_samples
        jobs.append(Job(benchmark, tuple(picked), num_samples))
    return jobs


def write_output_config(config: EvaluationConfig, output: Path) -> None:
    """Write `config.yaml` of the output folder, which is made where it is missing."""
    try:
        output.mkdir(parents=True, exist_ok=True)
        write_text_durably(output / "config.yaml", to_yaml(config))
    except OSError as error:
        raise UserError(f"output_dir={output} cannot be written: {error.strerror}") from None


async def answer_benchmark(
    job: Job,
    sampler: Sampler,
    judge: Judge,
    task: Task,
    *,
    seed: int,
    max_tokens: int,
    limit: int,
    on_answer: Callable[[], object] = lambda: None,
) -> list[AnsweredProblem]:
    """Have every problem of a benchmark answered, at most `limit` at a time."""

    async def answer(index: int, problem: BenchmarkProblem) -> AnsweredProblem:
        answered = await answer_problem(
            problem,
            problem_messages(task, problem),
            sampler,
            judge,
            seed=problem_seed(seed, job.benchmark.name, index),
            num_samples=job.num_samples,
            max_tokens=max_tokens,
        )
        on_answer()
        return answered

    return await gather_limited(
        (answer(index, problem) for index, problem in enumerate(job.problems)), limit
    )


def make_report(
    config: EvaluationConfig, subjects: Sequence[Subject], jobs: Sequence[Job]
) -> Report:
    """Score what is on disk."""
    answered = {
        subject.label: {
            job.benchmark.name: read_records(_records(subject, job), AnsweredProblem)
            for job in jobs
        }
        for subject in subjects
    }
    scores = {
        label: {name: score(name, rows, config.seed) for name, rows in by_name.items()}
        for label, by_name in answered.items()
    }
    differences: dict[str, Difference] = {}
    if len(subjects) == 2:
        base, model = (answered[subject.label] for subject in subjects)
        differences = {
            name: difference(name, model[name], base[name], config.seed) for name in model
        }
    opinions = {
        (job.benchmark.title, subject.label): summarize_opinions(
            read_records(_opinions(subject, job), Opinion)
        )
        for job in jobs
        for subject in subjects
        if config.endpoint.url
    }
    benchmarks = [job.benchmark for job in jobs]
    grids = [score_grid(benchmarks, scores, differences)]
    average = average_grid(benchmarks, scores)
    grids += [average] if average is not None else []
    published = rows_for((config.model, config.base), config.published)
    known = {benchmark.name for benchmark in benchmarks if benchmark.group != "own"}
    if any(row.figures.keys() & known for row in published):
        grids.append(published_grid(benchmarks, scores, published))
    grids += [judge_grid(opinions)] if opinions else []
    return Report(scores, differences, opinions, tuple(grids))


def _subjects(config: EvaluationConfig, output: Path) -> list[Subject]:
    """Return the base, where there is one, and the model."""
    name, base = (PurePath(path.rstrip("/")).name for path in (config.model, config.base))
    model = Subject(name, config.model, output / "model")
    return [Subject(f"{base} (base)", config.base, output / "base"), model] if base else [model]


def _open_judge(config: EvaluationConfig) -> Endpoint | None:
    return Endpoint(config.endpoint) if config.endpoint.url else None


def _unfinished(config: EvaluationConfig, subject: Subject, jobs: Sequence[Job]) -> list[Job]:
    """Return the jobs that have no records yet.

    Raises UserError when there are records of other problems.
    """
    waiting = []
    for job in jobs:
        done = _read_json(_done(subject, job))
        if done is None:
            waiting.append(job)
        elif done["problems"] != job.fingerprint():
            raise UserError(
                f"{_done(subject, job)}: these answers are to other problems or of another k; give "
                "another output_dir, or remove the file to measure again"
            )
    return waiting


async def _measure(
    config: EvaluationConfig, subject: Subject, jobs: Sequence[Job], console: Console
) -> None:
    """Have a model answer benchmarks on engines of its own, one benchmark after the other."""
    from actors import cluster  # imports Ray, which a mistyped key need not wait for

    settings = sampling_settings(config, subject.path)
    if os.environ.get("RAY_ADDRESS") == "local":
        cluster.check_machine_for_sampling(settings)
    address = cluster.connect_ray()
    cluster.check_machine_for_sampling(settings)
    model = obtain_model(settings.model)
    _check_same_settings(config, subject, model)
    subject.folder.mkdir(parents=True, exist_ok=True)
    known = json.dumps(_settings(config, subject, model), indent=1)
    write_text_durably(subject.folder / ".settings.json", known)
    _say(console, f"{subject.label}: starting engines (Ray at {address})")
    task = make_task(config.task)
    running = await cluster.start_sampling(settings, model, StageClock())
    try:
        for job in jobs:
            await _check_prompts(config, running.prompt_lengths, task, job)
        for job in jobs:
            await _measure_benchmark(config, subject, job, running, task, console)
    finally:
        await running.close()


async def _measure_benchmark(
    config: EvaluationConfig,
    subject: Subject,
    job: Job,
    running: Any,
    task: Task,
    console: Console,
) -> None:
    sequences = _ROUNDS_UNDER_WAY * running.num_engines * config.sampler.max_num_seqs
    start = time.monotonic()
    with _progress(console) as progress:
        bar = progress.add_task(f"{subject.label} {job.benchmark.title}", total=len(job.problems))
        answered = await answer_benchmark(
            job,
            running,
            running.judge,
            task,
            seed=config.seed,
            max_tokens=config.max_tokens,
            limit=max(1, sequences // (job.num_samples + 1)),
            on_answer=lambda: progress.advance(bar),
        )
    seconds = time.monotonic() - start
    write_records(_records(subject, job), answered, AnsweredProblem)
    done = {"problems": job.fingerprint(), "seconds": round(seconds, 1)}
    write_text_durably(_done(subject, job), json.dumps(done))
    of = score(job.benchmark.name, answered, config.seed)
    figures = f"greedy {of.greedy.value:.1%}, mean@{of.num_samples} {of.mean_at_k.value:.1%}"
    name = f"{subject.label} {job.benchmark.title}"
    _say(console, f"{name}: {of.num_problems} problems, {figures}, {seconds:.0f} s")


async def _check_prompts(
    config: EvaluationConfig,
    prompt_lengths: Callable[[Sequence[SampleRequest]], Any],
    task: Task,
    job: Job,
) -> None:
    """Raise UserError when prompts leave no room for an answer: none is dropped in silence."""
    sampling = Sampling(temperature=0.0, top_p=1.0, top_k=-1, max_tokens=1)
    requests = [
        SampleRequest(
            messages=problem_messages(task, problem), num_samples=1, seed=0, sampling=sampling
        )
        for problem in job.problems
    ]
    lengths: list[int] = []
    for first in range(0, len(requests), _PROMPTS_PER_CALL):
        lengths += await prompt_lengths(requests[first : first + _PROMPTS_PER_CALL])
    num_too_long = sum(length >= config.max_model_len for length in lengths)
    if num_too_long:
        raise UserError(
            f"{job.benchmark.name}: {num_too_long} of {len(lengths)} prompts fill max_model_len="
            f"{config.max_model_len}; the longest has {max(lengths)} tokens: raise max_model_len "
            "above it, with room for an answer"
        )


def _settings(config: EvaluationConfig, subject: Subject, model: Path | None) -> dict[str, Any]:
    """Return what answers on disk depend on; `model` is None while it is not on this machine."""
    names = ("task", "seed", "max_tokens", "max_model_len", "dtype", "tiny_seed")
    settings = {"model": subject.path, **{name: getattr(config, name) for name in names}}
    return settings if model is None else {**settings, "weights": _weights_fingerprint(model)}


def _check_same_settings(config: EvaluationConfig, subject: Subject, model: Path | None) -> None:
    """Raise UserError when the folder holds answers of another model or with other settings."""
    before = _read_json(subject.folder / ".settings.json")
    if before is None:
        return
    for name, value in _settings(config, subject, model).items():
        if before.get(name) != value:
            raise UserError(
                f"{subject.folder} holds answers with {name}={before.get(name)}, not {value}; give "
                "another output_dir"
            )


def _weights_fingerprint(model: Path) -> str:
    """Return what changes when the weights in a folder are replaced."""
    files = sorted([*model.glob("*.safetensors"), *model.glob("*.bin")])
    stats = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return hashlib.sha256(json.dumps(stats).encode()).hexdigest()[:16]


async def _ask_judge(
    config: EvaluationConfig,
    subjects: Sequence[Subject],
    jobs: Sequence[Job],
    judge_model: Endpoint,
    console: Console,
) -> None:
    """Have the judge model read what it has not read yet."""
    name = {"url": config.endpoint.url, "model": config.endpoint.model}
    try:
        for subject in subjects:
            for job in jobs:
                marker = _opinions(subject, job).with_suffix(".json")
                if _read_json(marker) == name:
                    continue
                answered = read_records(_records(subject, job), AnsweredProblem)
                _say(console, f"{subject.label} {job.benchmark.title}: asking {name['model']}")
                opinions = await ask_judge(judge_model, answered)
                write_records(_opinions(subject, job), opinions, Opinion)
                if not any(opinion.verdict == "failed" for opinion in opinions):
                    write_text_durably(marker, json.dumps(name))  # else the next start asks again
    finally:
        await judge_model.close()


def _write_report(
    config: EvaluationConfig, subjects: Sequence[Subject], report: Report, output: Path
) -> None:
    summary = {
        "models": {subject.label: subject.path for subject in subjects},
        "seed": config.seed,
        "scores": {
            label: {name: to_plain(of) for name, of in by_name.items()}
            for label, by_name in report.scores.items()
        },
        "differences": {name: to_plain(gap) for name, gap in report.differences.items()},
        "judge": [
            {"benchmark": title, "model": label, **counts}
            for (title, label), counts in report.opinions.items()
        ],
    }
    write_text_durably(output / "summary.json", json.dumps(summary, indent=1))
    write_text_durably(output / "table.md", "\n".join(grid.to_markdown() for grid in report.grids))


def _records(subject: Subject, job: Job) -> Path:
    return subject.folder / f"{job.benchmark.name}.parquet"


def _done(subject: Subject, job: Job) -> Path:
    return subject.folder / f"{job.benchmark.name}.json"


def _opinions(subject: Subject, job: Job) -> Path:
    return subject.folder / f"{job.benchmark.name}.judge.parquet"


def _read_json(path: Path) -> Mapping[str, Any] | None:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def _progress(console: Console) -> Progress:
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


def _say(console: Console, text: str) -> None:
    console.print(Text(printable(text)), soft_wrap=True)


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(name)s: %(message)s")
    sys.exit(main())
