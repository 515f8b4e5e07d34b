"""What an evaluation came to: scores, differences and tables, from the answers on disk."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rzero_ray.config.evaluation import EvaluationConfig
from rzero_ray.disk.files import write_text_durably
from rzero_ray.evaluation.benchmarks.jobs import Job, Subject
from rzero_ray.evaluation.benchmarks.judge_model import Opinion, summarize_opinions
from rzero_ray.evaluation.benchmarks.published import rows_for
from rzero_ray.evaluation.benchmarks.tables import (
    Grid,
    average_grid,
    judge_grid,
    published_grid,
    score_grid,
)
from rzero_ray.evaluation.scores import BenchmarkScore, Difference, difference, score, to_plain
from rzero_ray.run.parquet import read_records


@dataclass(frozen=True, slots=True)
class Report:
    """The figures of an evaluation and the tables that show them."""

    scores: dict[str, dict[str, BenchmarkScore]]
    """The scores by the model's label, then by benchmark."""
    differences: dict[str, Difference]
    """Model minus base by benchmark; empty where no base is measured."""
    opinions: dict[tuple[str, str], dict[str, int | float]]
    """What the judge model says, counted, by (the benchmark's title, the model's label)."""
    grids: tuple[Grid, ...]


def make_report(
    config: EvaluationConfig, subjects: Sequence[Subject], jobs: Sequence[Job]
) -> Report:
    """Score what is on disk."""
    answered = {
        subject.label: {job.benchmark.name: subject.read_answers(job) for job in jobs}
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
            read_records(subject.opinions_path(job), Opinion)
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


def write_report(
    config: EvaluationConfig, subjects: Sequence[Subject], report: Report, output: Path
) -> None:
    """Write `summary.json` and `table.md` of the output folder."""
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
