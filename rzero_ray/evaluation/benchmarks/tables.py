"""The tables of an evaluation: one form, printed to a terminal and written as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich import box
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from rzero_ray.evaluation.benchmarks.catalogue import BENCHMARKS, Benchmark
from rzero_ray.evaluation.benchmarks.published import PublishedRow
from rzero_ray.evaluation.scores import BenchmarkScore, Difference
from rzero_ray.evaluation.statistics import Estimate

Scores = Mapping[str, BenchmarkScore]
"""The scores of one model, by benchmark."""


@dataclass(frozen=True, slots=True)
class Grid:
    """A table of texts."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    num_left: int = 2
    """How many columns, from the left, are names; the others are figures, aligned right."""

    def to_markdown(self) -> str:
        """Return the table in GitHub's Markdown."""
        rule = tuple("---" if i < self.num_left else "---:" for i in range(len(self.header)))
        lines = [
            "| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |"
            for row in (self.header, rule, *self.rows)
        ]
        return "\n".join([f"**{self.title}**", "", *lines, ""])

    def to_rich(self) -> RenderableType:
        """Return the table for a terminal."""
        table = Table(title=Text(self.title), box=box.SIMPLE_HEAD, title_justify="left")
        for index, name in enumerate(self.header):
            is_name = index < self.num_left
            table.add_column(name, justify="left" if is_name else "right", no_wrap=is_name)
        for row in self.rows:
            table.add_row(*(Text(cell) for cell in row))
        return table


def score_grid(
    benchmarks: Sequence[Benchmark],
    scores: Mapping[str, Scores],
    differences: Mapping[str, Difference],
) -> Grid:
    """Return all scores in per cent; `scores` holds them by label of the model, base first."""
    rows: list[tuple[str, ...]] = []
    for benchmark in benchmarks:
        for label, of_model in scores.items():
            rows.append(_score_row(benchmark, label, of_model[benchmark.name]))
        if benchmark.name in differences:
            gap = differences[benchmark.name]
            cells = [_signed(gap.greedy), _signed(gap.mean_at_k), "", _signed(gap.maj_at_k)]
            rows.append((benchmark.title, "difference", "", *cells, "", "", ""))
    header = ("problems x k", "greedy [95 %]", "mean@k [95 %]", "pass@k", "maj@k [95 %]")
    return Grid(
        "Scores in per cent, with 95 % intervals over problems",
        ("benchmark", "model", *header, "unanswered", "truncated", "tokens"),
        tuple(rows),
    )


def published_grid(
    benchmarks: Sequence[Benchmark], scores: Mapping[str, Scores], published: Sequence[PublishedRow]
) -> Grid:
    """Return ours beside published rows, each benchmark by the figure that such tables report."""
    known = [benchmark for benchmark in benchmarks if benchmark.group != "own"]
    rows = [
        (
            "measured here",
            label,
            *(f"{100 * headline(b, of_model[b.name]):.1f}" for b in known),
        )
        for label, of_model in scores.items()
    ]
    for row in published:
        figures = [row.figures.get(benchmark.name) for benchmark in known]
        cells = ("-" if figure is None else f"{figure:.1f}" for figure in figures)
        rows.append((row.source, f"{row.base}, {row.method}", *cells))
    title = "Beside published figures, in per cent: mean@k for AMC and AIME, greedy for the others"
    return Grid(title, ("source", "model", *(b.name for b in known)), tuple(rows))


def average_grid(benchmarks: Sequence[Benchmark], scores: Mapping[str, Scores]) -> Grid | None:
    """Return averages over the benchmarks of a group that was measured in full, or None."""
    groups = [
        (group, [b for b in BENCHMARKS.values() if b.group == group])
        for group in ("math", "general")
    ]
    measured = {benchmark.name for benchmark in benchmarks if benchmark.group != "own"}
    whole = [(name, members) for name, members in groups if {b.name for b in members} <= measured]
    if not whole:
        return None
    rows = [
        (label, *(f"{_average(members, of_model):.1f}" for _, members in whole))
        for label, of_model in scores.items()
    ]
    return Grid(
        "Averages of the headline figures (mean@k for AMC and AIME, greedy for the others)",
        ("model", *(f"{name} ({len(members)})" for name, members in whole)),
        tuple(rows),
        num_left=1,
    )


def judge_grid(opinions: Mapping[tuple[str, str], Mapping[str, float]]) -> Grid:
    """Return what the judge model would change; `opinions` are by (benchmark's title, label)."""
    rows = tuple(
        (
            title,
            label,
            f"{100 * counts['greedy_by_rule']:.1f}",
            f"{100 * counts['greedy_by_judge']:.1f}",
            *(
                str(int(counts[key]))
                for key in (
                    "asked",
                    "accepted_though_rule_rejects",
                    "rejected_though_rule_accepts",
                    "unreadable",
                    "failed",
                )
            ),
        )
        for (title, label), counts in opinions.items()
    )
    names = ("greedy by rule", "by judge", "asked", "wrong to right", "right to wrong")
    return Grid(
        "The judge model on every greedy answer; the headline stays the rule's",
        ("benchmark", "model", *names, "unreadable", "failed"),
        rows,
    )


def headline(benchmark: Benchmark, of_benchmark: BenchmarkScore) -> float:
    """Return the figure that published tables report of a benchmark."""
    by_name = {"greedy": of_benchmark.greedy, "mean": of_benchmark.mean_at_k}
    return by_name[benchmark.headline].value


def _average(members: Sequence[Benchmark], of_model: Scores) -> float:
    return 100 * sum(headline(b, of_model[b.name]) for b in members) / len(members)


def _score_row(benchmark: Benchmark, label: str, of: BenchmarkScore) -> tuple[str, ...]:
    return (
        benchmark.title,
        label,
        f"{of.num_problems:,} x {of.num_samples}",
        _interval(of.greedy),
        _interval(of.mean_at_k),
        f"{100 * of.pass_at[of.num_samples]:.1f}",
        _interval(of.maj_at_k),
        f"{100 * of.unanswered:.1f}",
        f"{100 * of.truncated:.1f}",
        f"{of.mean_tokens:.0f}",
    )


def _interval(estimate: Estimate) -> str:
    value, low, high = (100 * x for x in (estimate.value, estimate.low, estimate.high))
    return f"{value:.1f} [{low:.1f}, {high:.1f}]"


def _signed(estimate: Estimate) -> str:
    value, low, high = (100 * x for x in (estimate.value, estimate.low, estimate.high))
    return f"{value:+.1f} [{low:+.1f}, {high:+.1f}]"
