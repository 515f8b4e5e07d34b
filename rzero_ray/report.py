"""`summary.json` and `report.html`: what a run came to, in numbers and to look at.

The report is one file without a link to anything outside it. Questions and answers in it are text
of a model under optimisation pressure: all of it is escaped and cut to a length.
"""

from __future__ import annotations

import html
import io
import json
import random
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rzero_ray.config import Config, to_yaml
from rzero_ray.records import read_records, write_text_durably
from rzero_ray.runstate import Run
from rzero_ray.tasks import make_task
from rzero_ray.types import Candidate

Row = dict[str, Any]
"""A line of metrics.jsonl, or an evaluation."""

WALL_CLOCK_NOTE = (
    "Seconds during which a stage had work under way. Stages overlap (a question is voted on while "
    "others are still being sampled), so they need not add up to the total. A step that an "
    "interruption made the run do again is counted once."
)
_MAX_QUESTION_CHARS = 300
_MAX_ANSWER_CHARS = 40
_MAX_ANSWERS = 6
"""Different answers shown of one question."""
_NUM_KEPT_SHOWN = 8
_NUM_DROPPED_SHOWN = 2
"""Per reason."""
_MIN_GAIN_FOR_SHARES = 0.01
"""A change of accuracy smaller than this gets no percentage."""


# summary.json


def write_summary(run: Run) -> Row:
    """Write `summary.json` and return what it holds."""
    metrics, evaluations = run.metrics(), run.evaluations()
    rows = [*metrics, *evaluations]
    heldout = [_heldout_row(row) for row in evaluations if row.get("num_problems", 1)]
    iterations = range(1, max((row["iteration"] for row in rows), default=0) + 1)
    probes = [
        event["max_logprob_difference"]
        for event in _read_events(run.root)
        if event["event"] == "weight sync"
    ]
    samples = [r["logprob_difference_max"] for r in metrics if "logprob_difference_max" in r]
    summary = {
        "name": run.config.name,
        "algorithm": run.config.algorithm,
        "ablation": run.config.ablation,
        "task": run.config.task,
        "seed": run.config.seed,
        "base_model": str(run.base_model),
        "num_iterations": run.config.num_iterations,
        "num_finished_iterations": sum(run.is_finished(f"iteration-{i:02d}") for i in iterations),
        "heldout": heldout,
        "reading": reading(heldout, run.config.eval.num_samples),
        "label_accuracy": [label_accuracy(metrics, i) for i in iterations],
        "challenger_reward": [_first_and_last_reward(metrics, i) for i in iterations],
        "tokens_sampled": sum(row.get("tokens_sampled", 0) for row in rows),
        "wall_clock_s": seconds_by_stage(rows),
        "wall_clock_note": WALL_CLOCK_NOTE,
        "weight_syncs": len(probes),
        "max_logprob_difference": _largest([*probes, *samples]),
        "max_logprob_difference_probes": _largest(probes),
        "max_logprob_difference_samples": _largest(samples),
    }
    write_text_durably(run.root / "summary.json", json.dumps(summary, indent=1))
    return summary


def label_accuracy(metrics: Sequence[Row], iteration: int) -> float | None:
    """Return the share of right pseudo-labels among an iteration's kept questions.

    None where nothing was kept or the task has no oracle.
    """
    rows = _phase_rows(metrics, "curriculum", iteration)
    return _weighted_mean((row.get("label_accuracy"), row["kept"]) for row in rows)


def label_accuracy_all(metrics: Sequence[Row], iteration: int) -> float | None:
    """Return the same share among all well-formed candidates."""
    rows = _phase_rows(metrics, "curriculum", iteration)
    return _weighted_mean(
        (row.get("label_accuracy_all"), row["well_formed"] * sum(_outcomes(row).values()))
        for row in rows
    )


def _weighted_mean(pairs: Iterable[tuple[float | None, float]]) -> float | None:
    known = [(value, weight) for value, weight in pairs if value is not None and weight]
    total = sum(weight for _, weight in known)
    return sum(value * weight for value, weight in known) / total if total else None


def _outcomes(row: Row) -> dict[str, int]:
    """Return how many candidates of a curriculum step were kept, and dropped for which reason."""
    dropped = {key.partition("/")[2]: row[key] for key in row if key.startswith("dropped/")}
    return {"kept": row["kept"], **dropped}


def seconds_by_stage(rows: Iterable[Row]) -> dict[str, float]:
    """Return the sum of the rows' seconds by stage, longest first; `total` is the wall clock."""
    seconds: dict[str, float] = defaultdict(float)
    for row in rows:
        for stage, value in row.get("seconds", {}).items():
            seconds["total" if stage == "wall" else stage] += value
    return dict(sorted(seconds.items(), key=lambda item: -item[1]))


def reading(heldout: Sequence[Row], k: int) -> str:
    """Return, in words, by how much accuracy changed and what the change goes with."""
    if not heldout:
        return "No held-out problem was evaluated: nothing says whether the Solver became better."
    if len(heldout) == 1:
        return "No iteration has been evaluated yet: there is nothing to compare."
    first, last = heldout[0], heldout[-1]
    gain = last[f"mean@{k}"] - first[f"mean@{k}"]
    (low_0, high_0), (low_1, high_1) = first[f"mean@{k}_ci95"], last[f"mean@{k}_ci95"]
    overlap = low_1 <= high_0 and low_0 <= high_1
    doubt = "overlap, so this may be noise" if overlap else "do not overlap"
    names = ("the chain-of-thought share", "accuracy given CoT", "accuracy of direct answers")
    keys = ("cot_share", "accuracy_given_cot", "accuracy_given_direct")
    moves = [f"{_decimals(first.get(key))} to {_decimals(last.get(key))}" for key in keys]
    amounts = [f"{_signed(part)}{_percentage(part, gain)}" for part in _divide_gain(first, last)]
    return (
        f"From the base to iteration {last['iteration']}, mean@{k} went from "
        f"{_decimals(first[f'mean@{k}'])} to {_decimals(last[f'mean@{k}'])} ({_signed(gain)}); "
        f"the 95% intervals {doubt}. Of this change {amounts[0]} goes with {names[0]} "
        f"({moves[0]}), {amounts[1]} with {names[1]} ({moves[1]}) and {amounts[2]} with "
        f"{names[2]} ({moves[2]})."
    )


def _divide_gain(first: Row, last: Row) -> tuple[float, float, float]:
    """Divide the change of accuracy over CoT share, accuracy given CoT, and given a direct answer.

    Accuracy is s a + (1 - s) b. Each factor's change is taken at the mean of the others, which
    makes the three parts add up to the whole. An accuracy that is undefined at one end (no such
    answer) did not change.
    """
    s = (first["cot_share"], last["cot_share"])
    a = _filled(first.get("accuracy_given_cot"), last.get("accuracy_given_cot"))
    b = _filled(first.get("accuracy_given_direct"), last.get("accuracy_given_direct"))
    mean_s = sum(s) / 2
    return (
        (s[1] - s[0]) * (sum(a) - sum(b)) / 2,
        mean_s * (a[1] - a[0]),
        (1 - mean_s) * (b[1] - b[0]),
    )


def _filled(first: float | None, last: float | None) -> tuple[float, float]:
    first, last = (last if first is None else first), (first if last is None else last)
    return first or 0.0, last or 0.0


def _heldout_row(row: Row) -> Row:
    """Return an evaluation with null for the accuracy of answers that nobody gave."""
    undefined = {0.0: "accuracy_given_cot", 1.0: "accuracy_given_direct"}.get(row["cot_share"])
    kept = {key: value for key, value in row.items() if key != "seconds"}
    return kept | ({undefined: None} if undefined else {})


def _first_and_last_reward(metrics: Sequence[Row], iteration: int) -> list[float] | None:
    rewards = [row["reward"] for row in _phase_rows(metrics, "challenger", iteration)]
    return [rewards[0], rewards[-1]] if rewards else None


def _phase_rows(metrics: Sequence[Row], phase: str, iteration: int | None = None) -> list[Row]:
    """Return a phase's rows in order; of all iterations without `iteration`."""
    rows = [
        row for row in metrics if row["phase"] == phase and iteration in (None, row["iteration"])
    ]
    return sorted(rows, key=lambda row: (row["iteration"], row["step"]))


def _largest(values: Sequence[float]) -> float | None:
    # np.max, unlike max, does not lose a NaN.
    return float(np.max(values)) if values else None


def _read_events(root: Path) -> list[Row]:
    path = root / "events.jsonl"
    events = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            events.append(json.loads(line))
        except ValueError:
            continue  # a stop cut the line short; what a resumed run added follows
    return events


def _signed(value: float) -> str:
    text = f"{value:+.2f}"
    return ".00" if float(text) == 0 else text.replace("0.", ".", 1)


def _percentage(part: float, gain: float) -> str:
    return f" ({part / gain:.0%})" if min(abs(part), abs(gain)) >= _MIN_GAIN_FOR_SHARES else ""


def _decimals(value: float | None) -> str:
    if value is None:
        return "-"
    text = f"{value:.2f}"
    return text[1:] if text.startswith("0.") else text


# report.html


_INK = "#123456"
"""Stands for the page's text colour in a plot: replaced by `currentColor`, for dark pages."""
_BLUE, _ORANGE, _GREEN = "#0072B2", "#E69F00", "#009E73"
_RED, _PURPLE, _GREY = "#D55E00", "#B35A91", "#8A8F98"
_REASON_COLOURS = (_GREEN, _GREY, _ORANGE, _RED, _PURPLE, _BLUE, "#56B4E9", "#C7B42C")
_RC: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.size": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "lines.linewidth": 1.8,
    "lines.markersize": 4,
    **dict.fromkeys(
        ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), _INK
    ),
}


class Series(NamedTuple):
    """One line of a plot."""

    name: str
    xs: Sequence[float]
    ys: Sequence[float | None]
    colour: str


class Plot(NamedTuple):
    """A plot with what it shows, in a sentence."""

    title: str
    caption: str
    svg: str


def write_report(run: Run, summary: Row) -> Path:
    """Write `report.html`; works for a run that stopped half way and for a task without oracle."""
    metrics = run.metrics()
    plots = [plot for make in _PLOTS if (plot := make(run, summary, metrics)) is not None]
    name = _escape(run.config.name, 80)
    body = [
        f"<header><h1>{name}</h1>{_facts(summary)}</header>",
        f'<p class="reading">{_escape(summary["reading"], 2000)}</p>',
        _headline_table(summary, run.config),
        f'<section class="plots">{"".join(map(_figure, plots))}</section>',
        _samples_section(run),
        "<h2>Configuration</h2><details><summary>All keys, resolved</summary>"
        f"<pre>{html.escape(to_yaml(run.config))}</pre></details>",
    ]
    path = run.root / "report.html"
    page = _PAGE.replace("{title}", name).replace("{body}", "\n".join(body))
    write_text_durably(path, page)
    return path


def _facts(summary: Row) -> str:
    seconds = summary["wall_clock_s"].get("total", 0.0)
    difference = summary["max_logprob_difference"]
    facts = [
        f"{summary['num_finished_iterations']} of {summary['num_iterations']} iterations finished",
        f"algorithm {summary['algorithm']}, task {summary['task']}, seed {summary['seed']}",
        f"base model {summary['base_model']}",
        f"{summary['tokens_sampled']:,} tokens sampled in {seconds / 60:,.1f} minutes",
        f"{summary['weight_syncs']:,} weight syncs, largest log-probability difference "
        f"{'-' if difference is None else format(difference, '.2g')} nats",
    ]
    return f"<ul class=facts>{''.join(f'<li>{_escape(fact, 300)}</li>' for fact in facts)}</ul>"


def _headline_table(summary: Row, config: Config) -> str:
    k = config.eval.num_samples
    head = ["", "greedy", f"mean@{k}", "95% interval", f"maj@{k}", "CoT share"]
    head += ["accuracy given CoT", "accuracy given direct", "label accuracy"]
    labels = dict(enumerate(summary["label_accuracy"], start=1))
    rows = []
    for row in summary["heldout"]:
        low, high = row[f"mean@{k}_ci95"]
        cells = [row["greedy"], row[f"mean@{k}"], None, row[f"maj@{k}"], row["cot_share"]]
        cells += [row["accuracy_given_cot"], row.get("accuracy_given_direct")]
        texts = [_decimals(cell) for cell in [*cells, labels.get(row["iteration"])]]
        texts[2] = f"{_decimals(low)} to {_decimals(high)}"
        rows.append([f"iteration {row['iteration']}" if row["iteration"] else "base", *texts])
    return _table(head, rows, "numbers") if rows else ""


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], kind: str) -> str:
    """Return a table; every cell is escaped here."""
    top = "".join(f"<th>{html.escape(cell)}</th>" for cell in head)
    lines = "".join(
        f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row)}</tr>" for row in rows
    )
    return (
        f'<div class="scroll"><table class="{kind}"><thead><tr>{top}</tr></thead>'
        f"<tbody>{lines}</tbody></table></div>"
    )


def _figure(plot: Plot) -> str:
    return (
        f"<figure><h3>{html.escape(plot.title)}</h3>{plot.svg}"
        f"<figcaption>{html.escape(plot.caption)}</figcaption></figure>"
    )


# Plots.


def _draw(size: tuple[float, float], paint: Callable[[Any], None], num_axes: int = 1) -> str:
    """Return a plot as inline SVG; `paint` gets the axes, or the list of them."""
    # Imported here: slow, and a run needs it only at its end.
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_RC):
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.subplots(1, num_axes, squeeze=False)[0]
        paint(axes[0] if num_axes == 1 else axes)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    svg = buffer.getvalue()
    # Inside HTML an SVG needs no document type, no name spaces and no licence.
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    svg = re.sub(r' xmlns(:\w+)?="[^"]*"', "", svg)
    return svg.replace(_INK, "currentColor")


def _plot_lines(series: Sequence[Series], paint: Callable[[Any], None] = lambda axes: None) -> str:
    def draw(axes: Any) -> None:
        for line in series:
            ys = [np.nan if y is None else y for y in line.ys]
            axes.plot(line.xs, ys, "o-", color=line.colour, label=line.name)
        paint(axes)
        _add_legend(axes)

    return _draw((5.2, 3.4), draw)


def _add_legend(axes: Any) -> None:
    """Put the legend above the axes, where it hides no line."""
    num_columns = 3 if len(axes.get_legend_handles_labels()[0]) > 4 else 2
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=num_columns, borderaxespad=0.2)


def _plot_accuracy(run: Run, summary: Row, metrics: Sequence[Row]) -> Plot | None:
    rows, k = summary["heldout"], run.config.eval.num_samples
    if not rows:
        return None
    xs = [row["iteration"] for row in rows]
    names = (
        (f"mean@{k}", f"mean@{k}", _BLUE),
        ("greedy", "greedy", _ORANGE),
        (f"maj@{k}", f"maj@{k}", _GREEN),
        ("accuracy given CoT", "accuracy_given_cot", _PURPLE),
        ("CoT share", "cot_share", _GREY),
    )

    def paint(axes: Any) -> None:
        low, high = zip(*(row[f"mean@{k}_ci95"] for row in rows), strict=True)
        axes.fill_between(xs, low, high, color=_BLUE, alpha=0.18, linewidth=0)
        axes.set(xticks=xs, xlabel="iteration (0 is the base)", ylim=(0, 1))

    series = [Series(name, xs, [row[key] for row in rows], colour) for name, key, colour in names]
    caption = f"Of the Solver on held-out problems; the band is the 95% interval of mean@{k}."
    return Plot("Accuracy", caption, _plot_lines(series, paint))


def _plot_reward(run: Run, summary: Row, metrics: Sequence[Row]) -> Plot | None:
    series = _per_role(run.config, metrics, "reward")
    if not series:
        return None
    caption = (
        "Challenger: in the paper 1 - 2|agreement - 1/2| less repetition. Solver: share of answers "
        "that match the label. Each iteration has a new opponent, so the curves start anew; a "
        "role's steps are spread evenly over the iteration."
    )
    return Plot("Reward", caption, _plot_lines(series, _mark_iterations))


def _per_role(config: Config, metrics: Sequence[Row], key: str) -> list[Series]:
    """Return one line per role; x counts iterations, and the line breaks between them."""
    roles = (
        ("challenger", config.challenger.num_steps, _ORANGE),
        ("solver", config.solver.num_steps, _BLUE),
    )
    found = []
    for phase, num_steps, colour in roles:
        xs: list[float] = []
        ys: list[float | None] = []
        for row in _phase_rows(metrics, phase):
            if xs and row["step"] == 1:
                xs.append(row["iteration"] - 1)
                ys.append(None)
            xs.append(row["iteration"] - 1 + row["step"] / num_steps)
            ys.append(row.get(key))
        if any(y is not None for y in ys):
            found.append(Series(phase.capitalize(), xs, ys, colour))
    return found


def _mark_iterations(axes: Any) -> None:
    last = max(int(np.ceil(axes.dataLim.x1)), 1)
    for edge in range(1, last):
        axes.axvline(edge, color=_GREY, linewidth=0.6, linestyle=":")
    axes.set_xticks([i - 0.5 for i in range(1, last + 1)], range(1, last + 1))
    axes.tick_params(axis="x", length=0)
    axes.set(xlabel="iteration", xlim=(-0.03 * last, 1.03 * last))


def _plot_labels(run: Run, summary: Row, metrics: Sequence[Row]) -> Plot | None:
    if not make_task(run.config.task).has_oracle:
        return None
    iterations = range(1, len(summary["label_accuracy"]) + 1)
    every = [label_accuracy_all(metrics, iteration) for iteration in iterations]
    series = [
        Series("kept questions", iterations, summary["label_accuracy"], _GREEN),
        Series("all well-formed candidates", iterations, every, _GREY),
    ]
    if all(y is None for line in series for y in line.ys):
        return None

    def paint(axes: Any) -> None:
        axes.set(xticks=list(iterations), xlabel="iteration", ylim=(0, 1))

    caption = "Share of pseudo-labels (the majority's answer) that equal the exact answer."
    return Plot("Label accuracy", caption, _plot_lines(series, paint))


def _plot_agreement(run: Run, summary: Row, metrics: Sequence[Row]) -> Plot | None:
    agreements = {
        iteration: [c.agreement for c in candidates if c.num_votes]
        for iteration, candidates in _candidates(run).items()
    }
    agreements = {iteration: values for iteration, values in agreements.items() if values}
    if not agreements:
        return None
    settings = run.config.curriculum
    # One bin per possible share when every vote is an answer.
    edges = (np.arange(settings.num_votes + 2) - 0.5) / settings.num_votes
    colours = _shades(len(agreements))

    def paint(axes: Any) -> None:
        axes.axvspan(
            settings.min_agreement, settings.max_agreement, color=_GREEN, alpha=0.13, linewidth=0
        )
        for colour, (iteration, values) in zip(colours, agreements.items(), strict=True):
            shares = np.histogram(values, edges)[0] / len(values)
            axes.stairs(shares, edges, color=colour, label=f"iteration {iteration}", linewidth=1.8)
        axes.set(xlabel="agreement: share of answered votes for the majority", xlim=(0, 1.05))
        axes.set(ylabel="share of candidates")
        _add_legend(axes)

    caption = "Of the curriculum's candidates; the shaded band is what the Solver trains on."
    return Plot("Agreement", caption, _draw((5.2, 3.4), paint))


def _shades(count: int) -> list[tuple[float, float, float]]:
    """Return colours from light to dark, so that later iterations stand out."""
    light, dark = np.array([0.64, 0.80, 0.93]), np.array([0.0, 0.34, 0.62])
    steps = np.linspace(1.0 if count == 1 else 0.0, 1.0, count)
    return [tuple(light + step * (dark - light)) for step in steps]


def _plot_outcomes(run: Run, summary: Row, metrics: Sequence[Row]) -> Plot | None:
    totals: dict[int, Counter[str]] = defaultdict(Counter)
    for row in _phase_rows(metrics, "curriculum"):
        totals[row["iteration"]].update(_outcomes(row))
    if not totals:
        return None
    reasons = [
        "kept",
        *sorted({reason for counts in totals.values() for reason in counts} - {"kept"}),
    ]

    def paint(axes: Any) -> None:
        left = np.zeros(len(totals))
        for place, reason in enumerate(reasons):
            widths = np.array([counts[reason] for counts in totals.values()])
            colour = _REASON_COLOURS[place % len(_REASON_COLOURS)]
            axes.barh(
                [f"iteration {i}" for i in totals], widths, left=left, color=colour, label=reason
            )
            left += widths
        axes.invert_yaxis()
        axes.set(xlabel="candidates")
        _add_legend(axes)

    caption = "What became of the candidates: the first reason that applies to each."
    return Plot("Kept and dropped", caption, _draw((5.2, 2.2 + 0.3 * len(totals)), paint))


def _plot_time(run: Run, summary: Row, metrics: Sequence[Row]) -> Plot | None:
    stages = {s: v for s, v in summary["wall_clock_s"].items() if s != "total" and v > 0}
    if not stages:
        return None

    def paint(axes: Any) -> None:
        bars = axes.barh([stage.replace("_", " ") for stage in stages], list(stages.values()))
        axes.bar_label(bars, fmt="{:,.1f}", padding=3, fontsize=8.5)
        for bar in bars:
            bar.set_color(_BLUE)
        axes.invert_yaxis()
        axes.margins(x=0.15)
        axes.set(xlabel="seconds")

    caption = f"{summary['wall_clock_s'].get('total', 0.0):,.1f} s in all. {WALL_CLOCK_NOTE}"
    return Plot("Time by stage", caption, _draw((5.2, 1.2 + 0.26 * len(stages)), paint))


def _plot_learning(run: Run, summary: Row, metrics: Sequence[Row]) -> Plot | None:
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
                ys = [np.nan if y is None else y for y in line.ys]
                one.plot(line.xs, ys, color=line.colour, label=line.name)
            one.set_title(name)
            _mark_iterations(one)
        first = np.atleast_1d(axes)[0]
        first.figure.legend(*first.get_legend_handles_labels(), loc="outside upper right", ncols=2)

    caption = (
        "KL against the policy at the start of the phase (nats per token), entropy of the next "
        "token (nats), gradient norm before clipping."
    )
    return Plot("Learning", caption, _draw((5.2, 2.8), paint, len(panels)))


def _plot_logprobs(run: Run, summary: Row, metrics: Sequence[Row]) -> Plot | None:
    rows = [row for row in metrics if "logprob_difference_max" in row]
    if not rows:
        return None
    xs = range(1, len(rows) + 1)
    lines = (
        ("largest, sampled tokens", "logprob_difference_max", _RED),
        ("mean, sampled tokens", "logprob_difference_mean", _ORANGE),
        ("largest, probe after sync", "probe_difference_max", _BLUE),
    )
    bound = run.config.weights.max_probe_difference

    def paint(axes: Any) -> None:
        axes.set_yscale("log")
        axes.minorticks_off()
        axes.axhline(bound, color=_INK, linestyle="--", linewidth=1, label=f"bound {bound:g}")
        axes.set(xlabel="learning step, both roles", ylabel="nats")

    # A difference of exactly zero has no place on a log scale.
    series = [Series(name, xs, [row.get(key) or None for row in rows], c) for name, key, c in lines]
    caption = (
        "Absolute difference of log-probabilities, learner against sampler. The bound holds for "
        "the probe: for its largest difference in float32, for its mean in bfloat16."
    )
    return Plot("Trainer against sampler", caption, _plot_lines(series, paint))


_PLOTS = (
    _plot_accuracy,
    _plot_reward,
    _plot_labels,
    _plot_agreement,
    _plot_outcomes,
    _plot_time,
    _plot_learning,
    _plot_logprobs,
)


# Sample questions.


def _samples_section(run: Run) -> str:
    """Return a table per iteration of questions with their votes, kept ones first."""
    has_oracle = make_task(run.config.task).has_oracle
    head = [
        "question",
        "label",
        *(["truth"] if has_oracle else []),
        "agreement",
        "answers",
        "outcome",
    ]
    parts = []
    found = _candidates(run)
    for iteration, candidates in found.items():
        shown = _pick_samples(candidates, random.Random(f"{run.config.seed} {iteration}"))
        table = _table(head, [_sample_cells(c, has_oracle) for c in shown], "samples")
        is_open = " open" if iteration == max(found) else ""
        parts.append(f"<details{is_open}><summary>Iteration {iteration}</summary>{table}</details>")
    return f"<h2>Questions and votes</h2>{''.join(parts)}" if parts else ""


def _candidates(run: Run) -> dict[int, list[Candidate]]:
    """Return the curriculum's candidates by iteration, of the steps that are on disk."""
    found: dict[int, list[Candidate]] = defaultdict(list)
    for path in sorted(run.root.glob("iteration-*/curriculum/step-*/candidates.parquet")):
        iteration = int(path.parts[-4].removeprefix("iteration-"))
        found[iteration] += read_records(path, Candidate)
    return found


def _pick_samples(candidates: Sequence[Candidate], rng: random.Random) -> list[Candidate]:
    by_outcome: dict[str | None, list[Candidate]] = defaultdict(list)
    for candidate in candidates:
        by_outcome[candidate.dropped].append(candidate)
    kept = by_outcome.pop(None, [])
    picked = rng.sample(kept, min(_NUM_KEPT_SHOWN, len(kept)))
    for reason in sorted(by_outcome, key=str):
        group = by_outcome[reason]
        picked += rng.sample(group, min(_NUM_DROPPED_SHOWN, len(group)))
    return picked


def _sample_cells(candidate: Candidate, has_oracle: bool) -> list[str]:
    """Return the cells of a row, not yet escaped."""
    question = candidate.text if candidate.question is None else candidate.question
    counts = Counter(candidate.answers).most_common()
    votes = [f"{_answer(answer)} x{count}" for answer, count in counts[:_MAX_ANSWERS]]
    if len(counts) > _MAX_ANSWERS:
        votes.append(f"{len(counts) - _MAX_ANSWERS} more")
    truth = [_answer(candidate.truth)] if has_oracle else []
    return [
        _shorten(question, _MAX_QUESTION_CHARS),
        _answer(candidate.label),
        *truth,
        f"{_decimals(candidate.agreement)} of {candidate.num_votes}"
        if candidate.num_votes
        else "-",
        ", ".join(votes),
        candidate.dropped or "kept",
    ]


def _answer(answer: str | None) -> str:
    return "none" if answer is None else _shorten(answer, _MAX_ANSWER_CHARS)


def _shorten(text: str, limit: int) -> str:
    """Return model text on one line, cut, without control or direction-changing characters."""
    # Cut first: a text of megabytes must not be walked through character by character.
    line = " ".join(text[: 4 * limit].split())
    shown = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in line)
    return shown if len(shown) <= limit and len(text) <= 4 * limit else f"{shown[:limit]}..."


def _escape(text: str, limit: int) -> str:
    return html.escape(_shorten(text, limit))


_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>
:root { --ink: #1c2430; --soft: #5b6573; --page: #fbfbf9; --card: #fff; --line: #dfe3e8; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #dfe4ea; --soft: #9aa4b1; --page: #14181d; --card: #1b2027; --line: #303843; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem 1rem 4rem; max-width: 70rem; color: var(--ink);
  background: var(--page); font: 16px/1.5 system-ui, -apple-system, "Segoe UI", sans-serif; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 1.25rem; margin: 2.5rem 0 .75rem; }
h3 { font-size: 1rem; margin: 0 0 .5rem; }
.facts { list-style: none; margin: .75rem 0 0; padding: 0; color: var(--soft); font-size: .9rem;
  overflow-wrap: anywhere; }
.reading { font-size: 1.1rem; border-left: 4px solid #0072B2; padding-left: 1rem;
  margin: 1.5rem 0; max-width: 48rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; width: 100%; }
th, td { text-align: left; vertical-align: top; padding: .4rem .7rem .4rem 0;
  border-bottom: 1px solid var(--line); }
th { color: var(--soft); font-weight: 600; }
.numbers td, .numbers th { font-variant-numeric: tabular-nums; }
.numbers td { white-space: nowrap; }
.numbers td + td, .numbers th + th { text-align: right; }
.samples td:first-child { min-width: 14rem; overflow-wrap: anywhere; }
.samples td { font: .82rem/1.45 ui-monospace, Menlo, Consolas, monospace; }
.plots { display: grid; gap: 1rem; margin-top: 2rem;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)); }
figure { margin: 0; padding: 1rem; background: var(--card); border: 1px solid var(--line);
  border-radius: .5rem; min-width: 0; }
figure svg { width: 100%; height: auto; display: block; }
figcaption { color: var(--soft); font-size: .83rem; margin-top: .5rem; }
details { border-top: 1px solid var(--line); padding: .6rem 0; }
summary { cursor: pointer; font-weight: 600; }
pre { overflow-x: auto; font: .82rem/1.45 ui-monospace, Menlo, Consolas, monospace; }
</style>
</head>
<body>
{body}
</body>
</html>
"""
