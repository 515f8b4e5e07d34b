"""The benchmarks that are known by name, and where on the hub their data sets are.

Sources: `Benchmark.hub`, and the papers named there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from rzero_ray.evaluation.benchmarks.readers import (
    Row,
    read_aime,
    read_amc,
    read_bbeh,
    read_gsm8k,
    read_math500,
    read_minerva,
    read_mmlu_pro,
    read_olympiad,
    read_supergpqa,
)
from rzero_ray.types import BenchmarkProblem

Group = Literal["math", "general", "own"]
"""The suite that a benchmark belongs to; `own` are the task's or the user's problems."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Benchmark:
    """A set of problems, and how they are asked and reported."""

    name: str
    """The name in commands and of files."""
    title: str
    """The name in tables."""
    group: Group
    read_row: Callable[[Row], BenchmarkProblem]
    """Makes a problem of a row of the data set."""
    num_samples: int
    """How many answers are sampled per problem where the configuration does not say: many for small
    sets, whose mean would else be noise, few for large ones."""
    headline: Literal["greedy", "mean"] = "greedy"
    """The figure that published tables report of it, and that averages are taken over."""
    hub: tuple[str, str | None, str] = ("", None, "")
    """Where the data set is on the hub: its name, its configuration, and the split."""


BENCHMARKS = {
    benchmark.name: benchmark
    for benchmark in (
        Benchmark(
            name="amc",
            title="AMC 2023",
            group="math",
            read_row=read_amc,
            num_samples=32,
            headline="mean",
            hub=("zwhe99/amc23", None, "test"),
        ),
        Benchmark(
            name="minerva",
            title="Minerva",
            group="math",
            read_row=read_minerva,
            num_samples=4,
            hub=("zwhe99/simplerl-minerva-math", None, "test"),
        ),
        Benchmark(
            name="math500",
            title="MATH-500",
            group="math",
            read_row=read_math500,
            num_samples=4,
            hub=("HuggingFaceH4/MATH-500", None, "test"),
        ),
        Benchmark(
            name="gsm8k",
            title="GSM8K",
            group="math",
            read_row=read_gsm8k,
            num_samples=4,
            hub=("openai/gsm8k", "main", "test"),
        ),
        Benchmark(
            name="olympiad",
            title="OlympiadBench",
            group="math",
            read_row=read_olympiad,
            num_samples=4,
            hub=("zwhe99/simplerl-OlympiadBench", None, "test"),
        ),
        Benchmark(
            name="aime24",
            title="AIME 2024",
            group="math",
            read_row=read_aime,
            num_samples=32,
            headline="mean",
            hub=("HuggingFaceH4/aime_2024", None, "train"),
        ),
        Benchmark(
            name="aime25",
            title="AIME 2025",
            group="math",
            read_row=read_aime,
            num_samples=32,
            headline="mean",
            hub=("yentinglin/aime_2025", "default", "train"),
        ),
        Benchmark(
            name="mmlu_pro",
            title="MMLU-Pro",
            group="general",
            read_row=read_mmlu_pro,
            num_samples=1,
            hub=("TIGER-Lab/MMLU-Pro", None, "test"),
        ),
        Benchmark(
            name="supergpqa",
            title="SuperGPQA",
            group="general",
            read_row=read_supergpqa,
            num_samples=1,
            hub=("m-a-p/SuperGPQA", None, "train"),
        ),
        Benchmark(
            name="bbeh",
            title="BBEH",
            group="general",
            read_row=read_bbeh,
            num_samples=1,
            hub=("MrLight/bbeh-eval", None, "train"),
        ),
    )
}
"""The benchmarks by name, in the order in which tables show them."""
