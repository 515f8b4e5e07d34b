"""The evaluation as a user runs it: every loader on real engines, resumed, and compared."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from rzero_ray.evaluation.answering import AnsweredProblem
from rzero_ray.evaluation.benchmarks.catalogue import BENCHMARKS
from rzero_ray.run.parquet import read_records
from tests.benchmark_rows import SUMS, write_all
from tests.cluster.conftest import REPOSITORY

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

CHOICES = ("mmlu_pro", "supergpqa")


@dataclass
class Evaluated:
    """One finished evaluation of the tiny model on every benchmark."""

    arguments: list[str]
    output: Path
    stdout: str
    summary: dict


def run_evaluate(arguments: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "rzero_ray", "evaluate", *arguments],
        cwd=REPOSITORY,
        env=os.environ | {"RAY_ADDRESS": "local"},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )


@pytest.fixture(scope="module")
def evaluated(base_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Evaluated:
    data, output = (tmp_path_factory.mktemp("evaluate") / name for name in ("data", "output"))
    write_all(data)
    arguments = [
        "model=tiny",
        "suite=all",
        f"data_dir={data}",
        f"output_dir={output}",
        "num_samples=4",
        "published=true",
    ]
    done = run_evaluate(arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    summary = json.loads((output / "summary.json").read_text())
    return Evaluated(arguments, output, done.stdout, summary)


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_benchmark_is_answered_graded_and_kept(name: str, evaluated: Evaluated):
    rows = read_records(evaluated.output / "model" / f"{name}.parquet", AnsweredProblem)
    assert [row.question for row in rows] == [question for question, _ in SUMS]
    of = evaluated.summary["scores"]["tiny"][name]
    assert (of["num_problems"], of["num_samples"]) == (len(SUMS), 4)
    # What the scores say is what the records hold, and the tiny model can add two numbers.
    right = [sum(row.correct) for row in rows]
    assert of["mean_at_k"]["value"] == pytest.approx(sum(right) / (4 * len(SUMS)))
    assert of["mean_at_k"]["value"] > 0.2
    assert of["pass_at"]["1"] == pytest.approx(of["mean_at_k"]["value"])
    for row in rows:
        if name in CHOICES:
            assert set(row.answers) <= {*"ABCDEFGHIJ", None}


def test_sums_of_two_numbers_are_not_all_answered_alike(evaluated: Evaluated):
    texts = [
        row.texts
        for name in BENCHMARKS
        for row in read_records(evaluated.output / "model" / f"{name}.parquet", AnsweredProblem)
    ]
    assert any(len(set(of_one)) > 1 for of_one in texts)  # k greedy copies would all be equal


def test_the_table_stands_in_the_terminal_and_on_disk_beside_published_rows(evaluated: Evaluated):
    table = (evaluated.output / "table.md").read_text()
    for text in (evaluated.stdout, table):
        assert "MATH-500" in text and "SuperGPQA" in text and "J-Zero re-run" in text
    assert "math (7) | general (3)" in table


def test_finished_benchmarks_are_read_and_not_repeated(evaluated: Evaluated):
    (evaluated.output / "table.md").unlink()
    again = run_evaluate(evaluated.arguments)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "starting engines" not in again.stdout
    assert (evaluated.output / "table.md").is_file()
    assert json.loads((evaluated.output / "summary.json").read_text()) == evaluated.summary
