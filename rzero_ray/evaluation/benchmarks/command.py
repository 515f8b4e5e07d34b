"""The command `python -m rzero_ray evaluate`: measures models on benchmarks. `HELP` says how."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from rzero_ray.config.command import run_command
from rzero_ray.config.config import to_yaml
from rzero_ray.config.evaluation import (
    EvaluationConfig,
    load_evaluation_config,
    resolve_output_dir,
    sampling_settings,
)
from rzero_ray.disk.files import read_if_there, write_text_durably
from rzero_ray.disk.folder import check_folder, check_no_folders, held
from rzero_ray.evaluation.benchmarks.jobs import (
    Job,
    JudgeName,
    Subject,
    check_same_settings,
    is_evaluation,
    load_jobs,
    make_subjects,
    unfinished,
)
from rzero_ray.evaluation.benchmarks.judge_model import Opinion, ask_judge
from rzero_ray.evaluation.benchmarks.measuring import measure, say
from rzero_ray.evaluation.benchmarks.report import Report, make_report, write_report
from rzero_ray.evaluation.endpoint import Endpoint, take_key
from rzero_ray.run.display import make_console
from rzero_ray.run.parquet import num_records, write_records
from rzero_ray.tasks.base_model import check_model_files, find_model

HELP = """\
usage: python -m rzero_ray evaluate model=PATH [suite=math] [key=value ...]

Measures a model on benchmarks: greedy, mean@k, pass@k and maj@k, with 95 % intervals over problems.
Every answer is kept in the output folder, and benchmarks that are finished there are not repeated.

  model=PATH             a folder in Hugging Face format, a hub name, tiny or ladder (built in)
  base=PATH              a second model, measured by the same code; differences are model minus base
  suite=math             or general, all, heldout, names with commas between, or a path to a .jsonl
  task=NAME              arithmetic for what was trained from tiny, ladder from ladder; else math
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

_WRITTEN = ("config.yaml", "summary.json", "table.md")
_ROOM = 1 << 28
"""Bytes that must be free before anything is measured: every answer is kept."""
_LOG_WIDTH = 170
"""How many columns the tables have where no terminal says how wide it is."""


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
    check_folder(output, "output_dir", lambda names: is_evaluation(output, names))
    check_no_folders(output, _WRITTEN)
    take_key(config.endpoint.key_env)  # before Ray starts processes that would inherit it
    judge_model = _open_judge(config)
    jobs = load_jobs(config)
    subjects = make_subjects(config, output)
    for subject in subjects:
        found = find_model(sampling_settings(config, subject.path).model)
        if found is not None:
            check_model_files(found)
        check_same_settings(config, subject, found)
        unfinished(subject, jobs)
        if judge_model is not None:
            _unjudged(config, subject, jobs)
    with held(output, "output_dir", _ROOM):
        return _measure_and_report(config, console, output, jobs, subjects, judge_model)


def _measure_and_report(
    config: EvaluationConfig,
    console: Console,
    output: Path,
    jobs: Sequence[Job],
    subjects: Sequence[Subject],
    judge_model: Endpoint | None,
) -> Report:
    write_text_durably(output / "config.yaml", to_yaml(config))
    say(console, f"output folder {output}")
    for subject in subjects:
        waiting = unfinished(subject, jobs)
        if waiting:
            asyncio.run(measure(config, subject, waiting, console))
    if judge_model is not None:
        asyncio.run(_ask_judge(config, subjects, jobs, judge_model, console))
    report = make_report(config, subjects, jobs)
    write_report(config, subjects, report, output)
    for grid in report.grids:
        console.print(grid.to_rich())
    say(console, f"records, summary.json and table.md are in {output}")
    return report


def _open_judge(config: EvaluationConfig) -> Endpoint | None:
    return Endpoint(config.endpoint) if config.endpoint.url else None


async def _ask_judge(
    config: EvaluationConfig,
    subjects: Sequence[Subject],
    jobs: Sequence[Job],
    judge_model: Endpoint,
    console: Console,
) -> None:
    """Have the judge model read what it has not read yet."""
    judge = config.endpoint
    try:
        for subject in subjects:
            for job in _unjudged(config, subject, jobs):
                say(console, f"{subject.label} {job.benchmark.title}: asking {judge.model}")
                opinions = await ask_judge(judge_model, subject.read_answers(job))
                write_records(subject.opinions_path(job), opinions, Opinion)
                if not any(opinion.verdict == "failed" for opinion in opinions):
                    # Without it the next start asks again.
                    marker = json.dumps({"url": judge.url, "model": judge.model})
                    write_text_durably(subject.judged_path(job), marker)
    finally:
        await judge_model.close()


def _unjudged(config: EvaluationConfig, subject: Subject, jobs: Sequence[Job]) -> list[Job]:
    """Return the jobs of which the judge model's opinions are not on disk; UserError where they
    are damaged."""
    waiting = []
    for job in jobs:
        judge = read_if_there(subject.judged_path(job), JudgeName)
        if judge != {"url": config.endpoint.url, "model": config.endpoint.model}:
            waiting.append(job)
        else:
            num_records(subject.opinions_path(job), Opinion)
    return waiting


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(name)s: %(message)s")
    sys.exit(main())
