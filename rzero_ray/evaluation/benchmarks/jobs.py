"""What an evaluation has to do, and what of it is on disk: models, benchmarks, their answers."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence, Set
from dataclasses import asdict, dataclass
from pathlib import Path, PurePath
from typing import Any

from pydantic import BaseModel, ConfigDict

from rzero_ray.config.evaluation import EvaluationConfig
from rzero_ray.config.renames import RENAMED_KEYS
from rzero_ray.disk.files import (
    DamagedFileError,
    damaged,
    read_if_there,
    read_yaml,
    write_text_durably,
)
from rzero_ray.evaluation.answering import AnsweredProblem
from rzero_ray.evaluation.benchmarks.catalogue import Benchmark
from rzero_ray.evaluation.benchmarks.sources import find_suite, load_problems, pick_problems
from rzero_ray.run.parquet import read_records, write_records
from rzero_ray.tasks.registry import make_task
from rzero_ray.types import BenchmarkProblem, UserError


class _Object(BaseModel):
    model_config = ConfigDict(extra="allow")


class _Done(_Object):
    problems: str


class JudgeName(_Object):
    """Which model has judged the answers to a benchmark."""

    url: str
    model: str


@dataclass(frozen=True, slots=True)
class Job:
    """A benchmark with the problems of it that are asked."""

    benchmark: Benchmark
    problems: tuple[BenchmarkProblem, ...]
    num_samples: int
    """The number of sampled answers per problem, called k."""

    def fingerprint(self) -> str:
        """Return what tells whether answers on disk belong to these problems."""
        text = json.dumps([[asdict(p) for p in self.problems], self.num_samples])
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Subject:
    """A model that is measured, and the folder of its answers."""

    label: str
    """How tables call the model."""
    path: str
    """The model as the user named it: a folder, a hub name, or `tiny`."""
    folder: Path

    def answers_path(self, job: Job) -> Path:
        """Return the file of the model's answers to a benchmark."""
        return self.folder / f"{job.benchmark.name}.parquet"

    def done_path(self, job: Job) -> Path:
        """Return the file that appears once all answers to a benchmark are written."""
        return self.folder / f"{job.benchmark.name}.json"

    def opinions_path(self, job: Job) -> Path:
        """Return the file of the judge model's opinions of a benchmark's greedy answers."""
        return self.folder / f"{job.benchmark.name}.judge.parquet"

    def judged_path(self, job: Job) -> Path:
        """Return the file that appears once every opinion is there; it names the judge model."""
        return self.opinions_path(job).with_suffix(".json")

    def read_answers(self, job: Job) -> list[AnsweredProblem]:
        """Return the model's answers to a benchmark, in the order of its problems."""
        return read_records(self.answers_path(job), AnsweredProblem)

    def write_answers(self, job: Job, answered: Sequence[AnsweredProblem], seconds: float) -> None:
        """Keep the answers to a benchmark, which counts as finished from then on."""
        write_records(self.answers_path(job), answered, AnsweredProblem)
        done = {"problems": job.fingerprint(), "seconds": round(seconds, 1)}
        write_text_durably(self.done_path(job), json.dumps(done))


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


def make_subjects(config: EvaluationConfig, output: Path) -> list[Subject]:
    """Return the base, where there is one, and the model."""
    name, base = (PurePath(path.rstrip("/")).name for path in (config.model, config.base))
    model = Subject(name, config.model, output / "model")
    return [Subject(f"{base} (base)", config.base, output / "base"), model] if base else [model]


def unfinished(subject: Subject, jobs: Sequence[Job]) -> list[Job]:
    """Return the jobs that have no answers yet.

    Raises UserError when there are answers to other problems, or damaged ones.
    """
    waiting = []
    if os.path.lexists(subject.folder) and not subject.folder.is_dir():
        raise damaged(subject.folder, "it is no folder", "move it away")
    for job in jobs:
        done = read_if_there(subject.done_path(job), _Done)
        if done is None:
            waiting.append(job)
            continue
        if done["problems"] != job.fingerprint():
            raise UserError(
                f"{subject.done_path(job)}: these answers are to other problems or of another k; "
                "give another output_dir, or remove the file to measure again"
            )
        answered = subject.read_answers(job)
        if [len(of.texts) for of in answered] != [job.num_samples] * len(job.problems):
            raise damaged(
                subject.answers_path(job),
                f"it holds no {job.num_samples} answers to each of {len(job.problems)} problems",
                f"remove {subject.done_path(job)} to measure again",
            )
    return waiting


_ALWAYS_WRITTEN = {
    "model",
    "base",
    "suite",
    "task",
    "data_dir",
    "download",
    "output_dir",
    "seed",
    "num_samples",
    "max_problems",
    "max_tokens",
    "max_model_len",
    "published",
    "endpoint",
    "sampler",
    "reward",
}
"""Keys in the `config.yaml` of every evaluation; a user's own file, for `conf=`, has a few."""


def is_evaluation(folder: Path, names: Set[str]) -> bool:
    """Return whether a folder is one that this command wrote, by the keys of its `config.yaml`."""
    if "config.yaml" not in names:
        return False
    try:
        return read_yaml(folder / "config.yaml").keys() >= _ALWAYS_WRITTEN
    except DamagedFileError:
        return False


_BEFORE_IT_WAS_A_KEY = {"temperature": 1.0}
"""What held for answers on disk that were sampled before the key existed."""


def answer_settings(
    config: EvaluationConfig, subject: Subject, model: Path | None
) -> dict[str, Any]:
    """Return what answers on disk depend on; `model` is None while it is not on this machine."""
    names = ("task", "seed", "temperature", "max_tokens", "max_model_len", "dtype", "base_seed")
    settings = {"model": subject.path, **{name: getattr(config, name) for name in names}}
    return settings if model is None else {**settings, "weights": _weights_fingerprint(model)}


def check_same_settings(config: EvaluationConfig, subject: Subject, model: Path | None) -> None:
    """Raise UserError when the folder holds answers of another model or with other settings."""
    before = read_if_there(_settings_path(subject), _Object)
    if before is None:
        return
    before = {RENAMED_KEYS.get(name, name): value for name, value in before.items()}
    for name, value in answer_settings(config, subject, model).items():
        then = before.get(name, _BEFORE_IT_WAS_A_KEY.get(name))
        if then != value:
            raise UserError(
                f"{subject.folder} holds answers with {name}={then}, not {value}; give another "
                "output_dir"
            )


def write_settings(config: EvaluationConfig, subject: Subject, model: Path) -> None:
    """Write beside the answers what they depend on, for `check_same_settings`."""
    subject.folder.mkdir(parents=True, exist_ok=True)
    settings = json.dumps(answer_settings(config, subject, model), indent=1)
    write_text_durably(_settings_path(subject), settings)


def _settings_path(subject: Subject) -> Path:
    return subject.folder / ".settings.json"


def _weights_fingerprint(model: Path) -> str:
    """Return what changes when the weights in a folder are replaced."""
    files = sorted([*model.glob("*.safetensors"), *model.glob("*.bin")])
    stats = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return hashlib.sha256(json.dumps(stats).encode()).hexdigest()[:16]
