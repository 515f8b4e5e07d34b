"""`study.html`: what a study comes to, to look at; one file without a link to anything outside."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any

from rzero_ray.evaluation.statistics import MeanOverBases
from rzero_ray.run.report.drawing import OF_SEVERAL, Plot, add_legend, draw
from rzero_ray.run.report.markup import fill_page, html_figure, html_table
from rzero_ray.study.results import StudyResult
from rzero_ray.study.tables import Table

_SHIFT = 0.06
"""Iterations between the intervals of two arms, so that they do not hide each other."""
_SHOWN = 2
"""Tables above the plots."""
_DRAWN = (
    ("half_b", "Accuracy", "mean@k on half B of the held-out problems"),
    ("labels", "Label accuracy", "the share of kept questions with the right label"),
    ("kept", "Kept questions", "the questions of an iteration's curriculum"),
    ("kl_solver", "Distance", "the Solver's KL to the base model, nats a token"),
)
"""(figure, title, what it is)"""


def make_page(
    name: str,
    arms: Sequence[str],
    result: StudyResult,
    tables: Sequence[Table],
    remarks: Sequence[str],
) -> str:
    """Return `study.html`, also of a study of which little is finished."""
    plots = [plot for of in _DRAWN if (plot := _plot(result, *of)) is not None]
    facts = [f"{len(arms)} arms: {', '.join(arms)}", *remarks]
    body = [
        f"<header><h1>{html.escape(name)}</h1><ul class=facts>"
        f"{''.join(f'<li>{html.escape(fact)}</li>' for fact in facts)}</ul></header>",
        *map(_section, tables[:_SHOWN]),
        f'<section class="plots">{"".join(map(html_figure, plots))}</section>',
        *map(_folded, tables[_SHOWN:]),
    ]
    return fill_page(name, body)


def _section(table: Table) -> str:
    return f"<h2>{html.escape(table.title)}</h2>{_content(table)}"


def _folded(table: Table) -> str:
    return f"<details><summary>{html.escape(table.title)}</summary>{_content(table)}</details>"


def _content(table: Table) -> str:
    return f"<p>{html.escape(table.caption)}</p>{html_table(table.head, table.rows, 'numbers')}"


def _plot(result: StudyResult, name: str, title: str, what: str) -> Plot | None:
    """Return the curves of a figure by iteration, a line an arm; None where no arm has it."""
    curves = {arm.arm: arm.series[name] for arm in result.arms if name in arm.series}
    if not curves:
        return None

    def paint(axes: Any) -> None:
        for place, (arm, points) in enumerate(curves.items()):
            _paint_curve(axes, arm, points, place)
        axes.set_xlabel("iteration")
        add_legend(axes)

    caption = f"By iteration, {what}: means over base models with 95 % t intervals; 0 is the base."
    return Plot(title, caption, draw((5.2, 3.4), paint))


def _paint_curve(axes: Any, arm: str, points: Sequence[MeanOverBases | None], place: int) -> None:
    found = [(i, point) for i, point in enumerate(points) if point is not None]
    colour = OF_SEVERAL[place % len(OF_SEVERAL)]
    xs = [i + place * _SHIFT for i, _ in found]
    axes.plot(xs, [point.value for _, point in found], "o-", color=colour, label=arm)
    for x, (_, point) in zip(xs, found, strict=True):
        if point.low is not None:
            axes.vlines(x, point.low, point.high, colour, linewidth=1, alpha=0.5)
