"""`report.html`: what a run came to, to look at.

The report is one file without a link to anything outside it. Questions and answers in it are text
of a model under optimisation pressure: all of it is escaped and cut to a length.
"""

from __future__ import annotations

import html
from collections.abc import Sequence

from rzero_ray.config.config import Config, to_yaml
from rzero_ray.run.quality import QUALITY_NOTE, quality_columns
from rzero_ray.run.report.candidates import sample_questions
from rzero_ray.run.report.datatable import table_script, table_style
from rzero_ray.run.report.markup import escape, fill_page, html_figure, html_table
from rzero_ray.run.report.plots import PLOTS
from rzero_ray.run.report.questions import questions_section
from rzero_ray.run.report.timeline import timeline_section
from rzero_ray.run.rows import Row, is_beyond, phase_rows
from rzero_ray.run.stored import StoredRun
from rzero_ray.tasks.registry import make_task
from rzero_ray.text.numbers import decimals


def make_page(run: StoredRun, summary: Row) -> str:
    """Return `report.html`, also of a run that stopped half way and of a task without oracle."""
    metrics = run.metrics()
    plots = [plot for make in PLOTS if (plot := make(run, summary, metrics)) is not None]
    name = escape(run.config.name, 80)
    questions = questions_section(
        sample_questions(run), has_oracle=make_task(run.config.task).has_oracle
    )
    headline = _quality_table if run.config.method == "judged" else _headline_table
    body = [
        f"<header><h1>{name}</h1>{_facts(summary)}</header>",
        f'<p class="reading">{escape(summary["reading"], 2000)}</p>',
        headline(summary, run.config),
        _strata_section(summary),
        f'<section class="plots">{"".join(map(html_figure, plots))}</section>',
        _drift_section(metrics),
        _audit_section(metrics),
        timeline_section(run.root),
        questions,
        "<h2>Configuration</h2><details><summary>All keys, resolved</summary>"
        f"<pre>{html.escape(to_yaml(run.config))}</pre></details>",
    ]
    if not questions:
        return fill_page(run.config.name, body)
    return fill_page(run.config.name, body, table_script(), table_style())


def _facts(summary: Row) -> str:
    seconds = summary["wall_clock_s"].get("total", 0.0)
    difference = summary["max_logprob_difference"]
    facts = [
        f"{summary['num_finished_iterations']} of {summary['num_iterations']} iterations finished",
        f"algorithm {summary['algorithm']}, task {summary['task']}, seed {summary['seed']}",
        f"base model {summary['base_model']}",
        f"{summary['tokens_sampled']:,} tokens sampled in {seconds / 60:,.1f} minutes",
        *_votes_fact(summary["vote_tokens_saved_share"]),
        f"{summary['weight_syncs']:,} weight syncs, largest log-probability difference "
        f"{'-' if difference is None else format(difference, '.2g')} nats",
    ]
    return f"<ul class=facts>{''.join(f'<li>{escape(fact, 300)}</li>' for fact in facts)}</ul>"


def _votes_fact(saved: float | None) -> list[str]:
    return [f"{saved:.0%} of the curricula's vote tokens spared by early stopping"] if saved else []


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
        texts = [decimals(cell) for cell in [*cells, labels.get(row["iteration"])]]
        texts[2] = f"{decimals(low)} to {decimals(high)}"
        rows.append([f"iteration {row['iteration']}" if row["iteration"] else "base", *texts])
    return html_table(head, rows, "numbers") if rows else ""


def _quality_table(summary: Row, config: Config) -> str:
    """Return the same of a run without exact answers, with what it is a mean of."""
    columns = quality_columns(config.eval.num_samples)
    rows = [
        [
            f"iteration {row['iteration']}" if row["iteration"] else "base",
            *(decimals(row.get(key)) for key in columns.values()),
        ]
        for row in summary["heldout"]
    ]
    note = f"<p>{escape(QUALITY_NOTE, len(QUALITY_NOTE))}</p>"
    return html_table(["", *columns], rows, "numbers") + note if rows else ""


def _strata_section(summary: Row) -> str:
    """Return the accuracy on the strata beside the headline, greedy / mean@k, by iteration."""
    rows = [row for row in summary["heldout"] if row.get("strata")]
    if not rows:
        return ""
    names = list(rows[-1]["strata"])
    lines = []
    for row in rows:
        strata = [row["strata"].get(name, {}) for name in names]
        cells = [
            " / ".join(decimals(value) for key, value in of.items() if key != "num_problems")
            for of in strata
        ]
        lines.append([f"iteration {row['iteration']}" if row["iteration"] else "base", *cells])
    sizes = [rows[-1]["strata"][name]["num_problems"] for name in names]
    head = ["", *(f"{name} (n = {n})" for name, n in zip(names, sizes, strict=True))]
    text = "Held-out problems beside the headline's: greedy / mean of the sampled answers."
    return f"<p>{text}</p>{html_table(head, lines, 'numbers')}"


def _drift_section(metrics: Sequence[Row]) -> str:
    """Return the monitors' figures by iteration, crossed limits marked.

    A row names its limits; one that was written before it did is held against the last row's.
    """
    rows = phase_rows(metrics, "drift")
    if not rows:
        return ""
    last = rows[-1].get("limits", [])
    shown = [limit for limit in last if any(row.get(limit[0]) is not None for row in rows)]
    head = ["", *(figure.replace("_", " ") for figure, _, _ in shown)]
    lines = [["threshold", *(f"{key.partition('_')[0]} {limit:g}" for _, key, limit in shown)]]
    found = set()
    for row in rows:
        limits = {(of, name): bound for of, name, bound in row.get("limits", last)}
        cells = []
        for figure, key, _ in shown:
            is_crossed = is_beyond(row.get(figure), key, limits.get((figure, key)))
            found |= {figure.replace("_", " ")} if is_crossed else set()
            value = "-" if row.get(figure) is None else format(row[figure], ".3g")
            cells.append(f"{'! ' * is_crossed}{value}")
        lines.append([f"iteration {row['iteration']}", *cells])
    verdict = "No threshold was crossed."
    if found:
        verdict = f"Crossed (marked !): {', '.join(sorted(found))}."
    return f"<h2>Drift</h2><p>{html.escape(verdict)}</p>{html_table(head, lines, 'numbers')}"


def _audit_section(metrics: Sequence[Row]) -> str:
    """Return what the run's oracle said of the labels, by iteration."""
    rows = [row for row in phase_rows(metrics, "audit") if row.get("accuracy") is not None]
    if not rows:
        return ""
    head = ["", "oracle", "questions", "label accuracy", "95% interval", "unknown"]
    lines = [
        [
            f"iteration {row['iteration']}",
            row["oracle"],
            f"{row['num_questions']:,}",
            decimals(row["accuracy"]),
            " to ".join(decimals(bound) for bound in row["accuracy_ci95"]),
            decimals(row["unknown_share"]),
        ]
        for row in rows
    ]
    return f"<h2>Label audit</h2>{html_table(head, lines, 'numbers')}"
