"""The plots of several runs, one line each."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from rzero_ray.run.report.comparison.runs import ComparedRun
from rzero_ray.run.report.drawing import OF_SEVERAL, Plot, Series, plot_lines, spread
from rzero_ray.run.report.markup import shorten
from rzero_ray.run.report.summary import label_accuracy
from rzero_ray.run.rows import Row, mean, phase_rows

_LONGEST_NAME = 20

Figures = Mapping[int, float | None]
"""A figure of a run by iteration."""


class _Kind(NamedTuple):
    """What a plot shows."""

    title: str
    caption: str
    figures: Callable[[ComparedRun], Figures]


def comparison_plots(runs: Sequence[ComparedRun]) -> list[Plot]:
    """Return the plots of what at least one of the runs has."""
    return [plot for kind in _KINDS if (plot := _plot(kind, runs)) is not None]


def _plot(kind: _Kind, runs: Sequence[ComparedRun]) -> Plot | None:
    series = []
    for run, colour in zip(runs, OF_SEVERAL, strict=False):
        figures = kind.figures(run)
        if any(value is not None for value in figures.values()):
            iterations = sorted(figures)
            ys = [figures[iteration] for iteration in iterations]
            series.append(Series(_label(run), iterations, ys, colour))
    if not series:
        return None
    told = spread(sorted({round(x) for line in series for x in line.xs}))

    def paint(axes: Any) -> None:
        axes.set(xticks=told, xlabel="iteration")

    return Plot(kind.title, kind.caption, plot_lines(series, paint))


def _label(run: ComparedRun) -> str:
    # A dollar sign would begin a formula.
    name = shorten(run.name, _LONGEST_NAME).replace("$", r"\$")
    return f"{run.letter} {name}"


# Figures.


def _accuracy(run: ComparedRun) -> Figures:
    return {iteration: row[run.mean_at_k] for iteration, row in run.evaluations.items()}


def _labels(run: ComparedRun) -> Figures:
    iterations = _by_iteration(run.metrics, "curriculum")
    return {iteration: label_accuracy(run.metrics, iteration) for iteration in iterations}


def _last(phase: str, key: str) -> Callable[[ComparedRun], Figures]:
    """Return the figure that a phase's last step has of an iteration."""

    def figures(run: ComparedRun) -> Figures:
        return {i: rows[-1].get(key) for i, rows in _by_iteration(run.metrics, phase).items()}

    return figures


def _mean(phase: str, key: str) -> Callable[[ComparedRun], Figures]:
    """Return the mean of a figure over an iteration's steps of a phase."""

    def figures(run: ComparedRun) -> Figures:
        return {
            i: mean(values) if (values := list(_values(rows, key))) else None
            for i, rows in _by_iteration(run.metrics, phase).items()
        }

    return figures


def _values(rows: Sequence[Row], key: str) -> Iterator[float]:
    yield from (row[key] for row in rows if row.get(key) is not None)


def _tokens(run: ComparedRun) -> Figures:
    """Return the tokens sampled up to the end of each iteration, in millions."""
    spent: dict[int, float] = defaultdict(float)
    for row in [*run.metrics, *run.evaluations.values()]:
        spent[row["iteration"]] += row.get("tokens_sampled", 0) / 1e6
    total, found = 0.0, {}
    for iteration in sorted(spent):
        total += spent[iteration]
        found[iteration] = total
    return found


def _by_iteration(metrics: Sequence[Row], phase: str) -> dict[int, list[Row]]:
    found: dict[int, list[Row]] = defaultdict(list)
    for row in phase_rows(metrics, phase):
        found[row["iteration"]].append(row)
    return found


_KINDS = (
    _Kind("Accuracy", "mean@k on held-out problems; 0 is the base model.", _accuracy),
    _Kind("Label accuracy", "The share of right labels among kept questions.", _labels),
    _Kind("Agreement", "Of the curriculum's candidates, mean.", _mean("curriculum", "agreement")),
    _Kind("Reward of the Challenger", "Mean over its steps.", _mean("challenger", "reward")),
    _Kind("Reward of the Solver", "Mean over its steps.", _mean("solver", "reward")),
    _Kind(
        "Length of questions",
        "Tokens that the Challenger writes, mean over its steps.",
        _mean("challenger", "completion_tokens"),
    ),
    _Kind("Diversity", "BLEU clusters per question.", _last("drift", "clusters")),
    _Kind("Drift", "The Solver's KL to the base model, nats a token.", _last("drift", "kl_solver")),
    _Kind("Tokens", "Sampled up to the end of the iteration, in millions.", _tokens),
)
