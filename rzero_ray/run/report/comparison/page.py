"""`comparison.html`: runs side by side, and how much one model answers better than another.

It is one file without a link to anything outside it, and without a script.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rzero_ray.config.sources import flatten
from rzero_ray.disk.files import write_text_durably
from rzero_ray.evaluation.statistics import Estimate
from rzero_ray.run.report.comparison.differences import (
    Differences,
    PairedDifference,
    differences,
    scores_of,
)
from rzero_ray.run.report.comparison.plots import comparison_plots
from rzero_ray.run.report.comparison.runs import ComparedRun, open_runs
from rzero_ray.run.report.markup import fill_page, html_figure, html_table, shorten
from rzero_ray.run.rows import Row
from rzero_ray.text.numbers import decimals, signed

_CANNOT_SAY = (
    "What this cannot say: the intervals are over problems alone. Each run is one seed, so they "
    "are about these two models and not about the methods that made them: another seed of the same "
    "method may differ by as much. rzero study compares methods, over base models and seeds."
)
_MAX_VALUE_CHARS = 120
_ONE_RUN = ("name", "run_dir", "seed", "task")
"""Keys that are told of each run on their own."""


def write_comparison(root: Path, others: Sequence[Path]) -> Path:
    """Write `comparison.html` into the run in `root`, beside which the others are shown, and return
    its path. The others are only read. Raises UserError for what cannot be compared."""
    path = root / "comparison.html"
    page = make_comparison(open_runs(root, others))
    write_text_durably(path, page)
    return path


def make_comparison(runs: Sequence[ComparedRun]) -> str:
    """Return the page; differences are against the first run."""
    first, *others = runs
    found = [differences(first, other) for other in others]
    names = ", ".join(f"{run.letter} {shorten(run.name, 80)}" for run in runs)
    body = [
        f"<header><h1>Runs side by side</h1><p>{html.escape(names)}</p></header>",
        *(f'<p class="reading">{html.escape(_reading(first, of))}</p>' for of in found),
        f"<p>{html.escape(_CANNOT_SAY)}</p>",
        _runs_table(runs),
        *(_differences_section(first, of) for of in found if of.paired),
        f"<h2>Held-out problems</h2>{_headline_table(runs)}",
        f'<section class="plots">{"".join(map(html_figure, comparison_plots(runs)))}</section>',
        f"<h2>Configuration</h2>{_config_table(runs)}",
    ]
    return fill_page(f"{first.name}: runs side by side", body)


# Differences.


def _reading(first: ComparedRun, found: Differences) -> str:
    """Return what the last common iteration says, or why it says nothing."""
    pair = f"{found.run.letter} minus {first.letter}"
    if found.refusal:
        return f"{pair} has no paired differences: {found.refusal}."
    last = found.paired[-1]
    of = last.of.mean_at_k
    doubt = "holds 0" if of.low <= 0 <= of.high else "does not hold 0"
    return (
        f"{pair} {_after(last.iteration)}, the last that both have finished: {first.mean_at_k} "
        f"{_interval(of)} over the same {last.num_problems:,} problems, problem by problem; the "
        f"95% interval {doubt}.{_start(found)}{_sampled_otherwise(first, found.run)}"
    )


def _start(found: Differences) -> str:
    base = found.paired[0]
    if base.iteration or base.of.mean_at_k.value == 0:
        return ""
    return f" Their base models differ by {_interval(base.of.mean_at_k)}."


def _sampled_otherwise(first: ComparedRun, other: ComparedRun) -> str:
    mine, theirs = asdict(first.config.eval), asdict(other.config.eval)
    keys = [f"eval.{key}" for key, value in mine.items() if theirs[key] != value]
    if not keys:
        return ""
    return f" The two were evaluated with another {', '.join(keys)}: the difference is of that too."


def _after(iteration: int) -> str:
    return f"after iteration {iteration}" if iteration else "before the first iteration"


def _differences_section(first: ComparedRun, found: Differences) -> str:
    other = found.run
    same_k = first.maj_at_k == other.maj_at_k
    head = ["", "greedy", first.mean_at_k if same_k else "mean of samples"]
    head += [first.maj_at_k] if same_k else []
    rows = [
        [_name(pair.iteration), *_cells(pair, same_k), f"{pair.num_problems:,}"]
        for pair in reversed(found.paired)
    ]
    text = (
        f"Accuracy of {other.letter} less that of {first.letter} on the same problems, with the "
        "95% interval of the paired differences."
    )
    table = html_table([*head, "problems"], rows, "numbers")
    return f"<h2>{other.letter} minus {first.letter}</h2><p>{text}</p>{table}"


def _cells(pair: PairedDifference, same_k: bool) -> list[str]:
    """Return the differences; majorities of different numbers of votes are not compared."""
    shown = [pair.of.greedy, pair.of.mean_at_k, *([pair.of.maj_at_k] if same_k else [])]
    return [_interval(of) for of in shown]


def _interval(of: Estimate) -> str:
    return f"{signed(of.value, 3)} [{signed(of.low, 3)}, {signed(of.high, 3)}]"


# What each run is.


def _runs_table(runs: Sequence[ComparedRun]) -> str:
    rows = [
        ["name", *(shorten(run.config.name, 80) for run in runs)],
        ["folder", *(shorten(str(run.root), _MAX_VALUE_CHARS) for run in runs)],
        ["task", *(run.config.task for run in runs)],
        ["seed", *(str(run.config.seed) for run in runs)],
        ["finished iterations", *(str(max(run.evaluations)) for run in runs)],
    ]
    return html_table(["", *(run.letter for run in runs)], rows, "runs")


def _config_table(runs: Sequence[ComparedRun]) -> str:
    """Return the keys in which the runs differ."""
    flat = [flatten(asdict(run.config)) for run in runs]
    rows = [
        [key, *(shorten(_shown(of[key]), _MAX_VALUE_CHARS) for of in flat)]
        for key in flat[0]
        if key not in _ONE_RUN and any(of[key] != flat[0][key] for of in flat)
    ]
    if not rows:
        return "<p>All keys are the same.</p>"
    head = ["key", *(run.letter for run in runs)]
    return f"<p>Keys that differ; all others are the same.</p>{html_table(head, rows, 'runs')}"


def _shown(value: object) -> str:
    return "(empty)" if value in ("", (), []) else str(value)


def _headline_table(runs: Sequence[ComparedRun]) -> str:
    """Return the accuracies of each run by iteration, the last one first."""
    iterations = sorted({i for run in runs for i in run.evaluations}, reverse=True)
    head = [f"{run.letter} {key}" for run in runs for key in _keys(run)]
    rows = [[_name(i), *(cell for run in runs for cell in _figures(run, i))] for i in iterations]
    return html_table(["", *head], rows, "numbers")


def _keys(run: ComparedRun) -> tuple[str, str, str]:
    return "greedy", run.mean_at_k, run.maj_at_k


def _figures(run: ComparedRun, iteration: int) -> list[str]:
    """Return the accuracies of an iteration, with intervals where its graded answers are there."""
    row = run.evaluations.get(iteration)
    if row is None:
        return ["-"] * 3
    scores = scores_of(run, iteration)
    if scores is not None:
        return [_share(of) for of in (scores.greedy, scores.mean_at_k, scores.maj_at_k)]
    return [decimals(row["greedy"]), _mean_of(run, row), decimals(row[run.maj_at_k])]


def _mean_of(run: ComparedRun, row: Row) -> str:
    low, high = row[f"{run.mean_at_k}_ci95"]
    return _share(Estimate(row[run.mean_at_k], low, high))


def _share(of: Estimate) -> str:
    return f"{decimals(of.value)} [{decimals(of.low)}, {decimals(of.high)}]"


def _name(iteration: int) -> str:
    return f"iteration {iteration}" if iteration else "base"
