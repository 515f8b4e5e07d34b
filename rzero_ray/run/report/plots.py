"""The plots of a run."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np

from rzero_ray.config.config import Config, probe_bound
from rzero_ray.run.report.candidate_plots import plot_agreement, plot_outcomes
from rzero_ray.run.report.drawing import (
    BLUE,
    GREEN,
    GREY,
    INK,
    LIGHT_BLUE,
    MAX_TOLD,
    ORANGE,
    PURPLE,
    RED,
    Plot,
    Series,
    add_legend,
    draw,
    paint_line,
    plot_lines,
    spread,
)
from rzero_ray.run.report.summary import (
    WALL_CLOCK_NOTE,
    label_accuracy_all,
)
from rzero_ray.run.rows import Row, mean, phase_rows
from rzero_ray.run.stored import StoredRun
from rzero_ray.tasks.registry import make_task

_TOLD_OF_A_PANEL = 3
_MAX_DIVIDED = 30
"""Iterations with a line between them, and of which each step is shown."""


def _plot_accuracy(run: StoredRun, summary: Row, metrics: Sequence[Row]) -> Plot | None:
    rows, k = summary["heldout"], run.config.eval.num_samples
    if not rows:
        return None
    if run.config.method == "judged":
        return _plot_quality(rows, k)
    names = (
        (f"mean@{k}", f"mean@{k}", BLUE),
        ("greedy", "greedy", ORANGE),
        (f"maj@{k}", f"maj@{k}", GREEN),
        ("accuracy given CoT", "accuracy_given_cot", PURPLE),
        ("CoT share", "cot_share", GREY),
    )
    caption = f"Of the Solver on held-out problems; the band is the 95% interval of mean@{k}."
    return Plot("Accuracy", caption, _lines_with_band(rows, k, names))


def _plot_quality(rows: Sequence[Row], k: int) -> Plot:
    names = (
        ("Solver: hidden quality", f"mean@{k}", BLUE),
        ("referee: accuracy", "referee_accuracy", ORANGE),
        ("requests that are middling", "requests_middling", GREEN),
    )
    caption = f"Of all three roles; the band is the 95% interval of the Solver's mean@{k}."
    return Plot("Hidden quality", caption, _lines_with_band(rows, k, names))


def _lines_with_band(rows: Sequence[Row], k: int, names: Sequence[tuple[str, str, str]]) -> str:
    """Plot figures of evaluations, each a (title, key, colour), and the interval of mean@k."""
    xs = [row["iteration"] for row in rows]

    def paint(axes: Any) -> None:
        low, high = zip(*(row[f"mean@{k}_ci95"] for row in rows), strict=True)
        axes.fill_between(xs, low, high, color=BLUE, alpha=0.18, linewidth=0)
        axes.set(xticks=spread(xs), xlabel="iteration (0 is the base)", ylim=(0, 1))

    series = [Series(name, xs, [row[key] for row in rows], colour) for name, key, colour in names]
    return plot_lines(series, paint)


def _plot_reward(run: StoredRun, summary: Row, metrics: Sequence[Row]) -> Plot | None:
    series = _per_role(run.config, metrics, "reward")
    if not series:
        return None
    caption = (
        "Challenger: in the paper 1 - 2|agreement - 1/2| less repetition. Solver: share of answers "
        "that match the label. Each iteration has a new opponent, so the curves start anew; "
    )
    caption += (
        "a point is the mean over an iteration's steps."
        if _is_long(metrics)
        else "a role's steps are spread evenly over the iteration."
    )
    return Plot("Reward", caption, plot_lines(series, _mark_iterations))


def _per_role(config: Config, metrics: Sequence[Row], key: str) -> list[Series]:
    """Return one line per role; x counts iterations, and the line breaks between them. Of a long
    run an iteration is one point, the mean over its steps."""
    roles = (
        ("challenger", config.challenger.num_steps, ORANGE),
        ("solver", config.solver.num_steps, BLUE),
    )
    line = _line_of_means if _is_long(metrics) else _line_of_steps
    found = []
    for phase, num_steps, colour in roles:
        xs, ys = line(phase_rows(metrics, phase), num_steps, key)
        if any(y is not None for y in ys):
            found.append(Series(phase.capitalize(), xs, ys, colour))
    return found


def _is_long(metrics: Sequence[Row]) -> bool:
    return max((row["iteration"] for row in metrics), default=0) > _MAX_DIVIDED


def _line_of_steps(
    rows: Sequence[Row], num_steps: int, key: str
) -> tuple[list[float], list[float | None]]:
    xs: list[float] = []
    ys: list[float | None] = []
    for row in rows:
        if xs and row["step"] == 1:
            xs.append(row["iteration"] - 1)
            ys.append(None)
        xs.append(row["iteration"] - 1 + row["step"] / num_steps)
        ys.append(row.get(key))
    return xs, ys


def _line_of_means(
    rows: Sequence[Row], num_steps: int, key: str
) -> tuple[list[float], list[float | None]]:
    found: dict[int, list[float]] = defaultdict(list)
    for row in rows:
        if row.get(key) is not None:
            found[row["iteration"]].append(row[key])
    return [iteration - 0.5 for iteration in found], [mean(values) for values in found.values()]


def _mark_iterations(axes: Any, num_told: int = MAX_TOLD) -> None:
    last = max(int(np.ceil(axes.dataLim.x1)), 1)
    if last <= _MAX_DIVIDED:
        everywhere = axes.get_xaxis_transform()
        axes.vlines(range(1, last), 0, 1, GREY, linewidth=0.6, linestyle=":", transform=everywhere)
    told = spread(range(1, last + 1), num_told)
    axes.set_xticks([i - 0.5 for i in told], told)
    axes.tick_params(axis="x", length=0)
    axes.set(xlabel="iteration", xlim=(-0.03 * last, 1.03 * last))


def _plot_labels(run: StoredRun, summary: Row, metrics: Sequence[Row]) -> Plot | None:
    if not make_task(run.config.task).has_oracle:
        return None
    iterations = range(1, len(summary["label_accuracy"]) + 1)
    every = [label_accuracy_all(metrics, iteration) for iteration in iterations]
    series = [
        Series("kept questions", iterations, summary["label_accuracy"], GREEN),
        Series("all candidates voted on", iterations, every, GREY),
    ]
    if all(y is None for line in series for y in line.ys):
        return None

    def paint(axes: Any) -> None:
        axes.set(xticks=spread(iterations), xlabel="iteration", ylim=(0, 1))

    caption = (
        "Share of pseudo-labels (the majority's answer) that equal the exact answer. Where voting "
        "stops early, the labels of dropped questions are those of the votes taken."
    )
    return Plot("Label accuracy", caption, plot_lines(series, paint))


def _plot_time(run: StoredRun, summary: Row, metrics: Sequence[Row]) -> Plot | None:
    stages = {s: v for s, v in summary["wall_clock_s"].items() if s != "total" and v > 0}
    if not stages:
        return None

    names = [stage.replace("_", " ") for stage in stages]
    alone = [summary["alone_s"].get(stage, 0.0) for stage in stages]
    wall = summary["wall_clock_s"].get("total") or 1.0

    def paint(axes: Any) -> None:
        bars = axes.barh(names, list(stages.values()), color=LIGHT_BLUE, label="with others")
        labels = [f"{seconds:,.1f} ({seconds / wall:.0%})" for seconds in stages.values()]
        axes.bar_label(bars, labels, padding=3, fontsize=8.5)
        axes.barh(names, alone, color=BLUE, label="alone: the critical path")
        add_legend(axes)
        axes.invert_yaxis()
        axes.margins(x=0.15)
        axes.set(xlabel="seconds")

    caption = (
        f"{wall:,.1f} s in all; the share is how long a stage was busy, the rest it was idle. "
        f"Overhead, with nothing sampled, learned or graded: {summary['overhead_share'] or 0:.0%}. "
        f"{WALL_CLOCK_NOTE}"
    )
    return Plot("Time by stage", caption, draw((5.2, 1.2 + 0.26 * len(stages)), paint))


def _plot_learning(run: StoredRun, summary: Row, metrics: Sequence[Row]) -> Plot | None:
    panels = [
        (name, series)
        for name, key in (("KL", "kl"), ("entropy", "entropy"), ("grad norm", "grad_norm"))
        if (series := _per_role(run.config, metrics, key))
    ]
    if not panels:
        return None

    def paint(axes: Any) -> None:
        for one, (name, series) in zip(np.atleast_1d(axes), panels, strict=True):
            for line in series:
                paint_line(one, line)
            one.set_title(name)
            _mark_iterations(one, _TOLD_OF_A_PANEL)
        first = np.atleast_1d(axes)[0]
        first.figure.legend(*first.get_legend_handles_labels(), loc="outside upper right", ncols=2)

    caption = (
        "KL against the reference (`loss.anchor`, nats per token), entropy of the next "
        "token (nats), gradient norm before clipping."
    )
    return Plot("Learning", caption, draw((5.2, 2.8), paint, len(panels)))


def _plot_logprobs(run: StoredRun, summary: Row, metrics: Sequence[Row]) -> Plot | None:
    rows = [row for row in metrics if "logprob_difference_max" in row]
    if not rows:
        return None
    xs = range(1, len(rows) + 1)
    lines = (
        ("largest, sampled tokens", "logprob_difference_max", RED),
        ("mean, sampled tokens", "logprob_difference_mean", ORANGE),
        ("largest, probe after sync", "probe_difference_max", BLUE),
    )
    bound = summary["probe_bound"] or probe_bound(run.config)

    def paint(axes: Any) -> None:
        axes.set_yscale("log")
        axes.minorticks_off()
        axes.axhline(bound, color=INK, linestyle="--", linewidth=1, label=f"bound {bound:g}")
        axes.set(xlabel="learning step, both roles", ylabel="nats")

    # A difference of exactly zero has no place on a log scale.
    series = [Series(name, xs, [row.get(key) or None for row in rows], c) for name, key, c in lines]
    caption = (
        "Absolute difference of log-probabilities, learner against sampler. The bound holds for "
        "the probe: for its largest difference in float32, for its mean in bfloat16, where "
        "it is the last one that equal weights have given."
    )
    return Plot("Trainer against sampler", caption, plot_lines(series, paint))


def _plot_drift(run: StoredRun, summary: Row, metrics: Sequence[Row]) -> Plot | None:
    rows = phase_rows(metrics, "drift")
    if not rows:
        return None
    panels = (
        ("KL to the base", (("Challenger", "kl_challenger"), ("Solver", "kl_solver")), "max_kl"),
        ("answer length", (("Solver", "answer_length_ratio"),), "max_length_ratio"),
        ("diversity", (("clusters", "clusters"), ("Gini", "gini")), None),
    )
    colours = {"Challenger": ORANGE, "Solver": BLUE, "clusters": GREEN, "Gini": PURPLE}
    xs = [row["iteration"] for row in rows]

    def paint(axes: Any) -> None:
        for one, (name, lines, limit) in zip(axes, panels, strict=True):
            for label, key in lines:
                ys = [row.get(key) for row in rows]
                paint_line(one, Series(label, xs, ys, colours[label]))
            if limit is not None:
                one.axhline(
                    getattr(run.config.drift, limit), color=INK, linestyle="--", linewidth=1
                )
            one.set_title(name)
            one.set(xticks=spread(xs, _TOLD_OF_A_PANEL), xlabel="iteration")
        handles = {
            label: handle
            for one in axes
            for handle, label in zip(*one.get_legend_handles_labels(), strict=True)
        }
        axes[0].figure.legend(
            handles.values(), handles.keys(), loc="outside upper right", ncols=len(handles)
        )

    caption = (
        "KL in nats per token, on the last step's rollouts; mean answer tokens relative to the "
        "base model's; BLEU clusters per question and the Gini coefficient of their sizes. Dashed: "
        "the threshold."
    )
    return Plot("Drift", caption, draw((5.2, 2.8), paint, len(panels)))


PLOTS = (
    _plot_accuracy,
    _plot_reward,
    _plot_labels,
    plot_agreement,
    plot_outcomes,
    _plot_time,
    _plot_learning,
    _plot_logprobs,
    _plot_drift,
)
