"""The questions of `report.html`: a table that sorts, pages and filters (`static/questions.js`).

Every cell is text of a model or of a file: it is cut, escaped, and never anything but text.
"""

from __future__ import annotations

import html
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from rzero_ray.run.report.candidates import QuestionSample, ShownQuestion
from rzero_ray.run.report.markup import shorten
from rzero_ray.text.numbers import decimals

_MAX_QUESTION_CHARS = 300
_MAX_ANSWER_CHARS = 40
_MAX_OUTCOME_CHARS = 60
_MAX_ANSWERS = 6
"""Different answers shown of one question."""
_MAX_CHOICES = 40
"""Outcomes that can be chosen; the reasons are words of ours, but the file may hold others."""


class _Column(NamedTuple):
    """A column of the table."""

    title: str
    kind: str
    """The class of its cells: `figure` is a number."""


_ITERATION, _OUTCOME = _Column("iteration", "figure"), _Column("outcome", "text")
_LABEL_IS = _Column("label is", "label-is")
_COLUMNS = (
    _ITERATION,
    _Column("question", "text question"),
    _OUTCOME,
    _Column("label", "text"),
    _LABEL_IS,
    _Column("truth", "text"),
    _Column("agreement", "figure"),
    _Column("votes", "text"),
)
_OF_AN_ORACLE = ("label is", "truth")
"""Titles of what is known of a task with exact answers alone."""


def questions_section(samples: Sequence[QuestionSample], *, has_oracle: bool) -> str:
    """Return the table of sampled questions, the last iteration's first; nothing of no question.

    Without an oracle it has no truth, and does not say which labels are right.
    """
    columns = [of for of in _COLUMNS if has_oracle or of.title not in _OF_AN_ORACLE]
    rows = [
        {**_cells(question), "iteration": str(sample.iteration)}
        for sample in reversed(samples)
        for question in sample.questions
    ]
    if not rows:
        return ""
    head = "".join(
        f'<th class="{"figure" if of.kind == "figure" else ""}">{of.title}</th>' for of in columns
    )
    body = "".join(_row(row, columns) for row in rows)
    return (
        f"<section><h2>Questions and votes</h2>{_count(samples)}{_filters(rows, columns)}"
        f'<div class="wide-table"><table id="questions" class="questions">'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div></section>"
    )


def _count(samples: Sequence[QuestionSample]) -> str:
    shown = sum(len(sample.questions) for sample in samples)
    everything = sum(sample.num_questions for sample in samples)
    if shown == everything:
        return f"<p>All {everything:,} questions.</p>"
    return (
        f"<p>{shown:,} of {everything:,} questions, drawn from all iterations and outcomes: rare "
        "outcomes are more frequent here than in the run. All of them: "
        "<code>rzero report run_dir=... serve=true</code></p>"
    )


def _filters(rows: Sequence[dict[str, str]], columns: Sequence[_Column]) -> str:
    """Return what the script listens to, hidden from a reader without scripts."""
    selects = []
    for column in (_ITERATION, _OUTCOME, _LABEL_IS):
        if column not in columns:
            continue
        values = [value for value, _ in Counter(row[column.title] for row in rows).most_common()]
        options = "".join(f"<option>{html.escape(value)}</option>" for value in _choices(values))
        selects.append(
            f'<label>{column.title}<select data-column="{columns.index(column)}">'
            f'<option value="">all</option>{options}</select></label>'
        )
    text = '<label class="wide">text<input type="search" placeholder="7+5"></label>'
    return f'<div id="question-filters" class="filters" hidden>{text}{"".join(selects)}</div>'


def _choices(values: Sequence[str]) -> list[str]:
    """Return values in the order of a list to choose from: numbers by size, texts by letters."""
    if all(value.isdecimal() for value in values):
        return sorted(values, key=int)
    return sorted(values[:_MAX_CHOICES])


def _row(row: dict[str, str], columns: Sequence[_Column]) -> str:
    return f"<tr>{''.join(_cell(row, column) for column in columns)}</tr>"


def _cell(row: dict[str, str], column: _Column) -> str:
    value, kind = row[column.title], column.kind
    if column is _LABEL_IS:
        kind = value
    name = "" if column.title == "question" else f' data-name="{column.title}"'
    order = f' data-order="{row["order"]}"' if column.title == "agreement" else ""
    return f'<td class="{kind}"{name}{order}>{html.escape(value)}</td>'


def _cells(candidate: ShownQuestion) -> dict[str, str]:
    """Return the texts of a row by column, not yet escaped."""
    question = candidate.text if candidate.question is None else candidate.question
    agreement = candidate.agreement
    return {
        "question": shorten(question, _MAX_QUESTION_CHARS),
        "outcome": shorten(candidate.dropped or "kept", _MAX_OUTCOME_CHARS),
        "label": _answer(candidate.label),
        "label is": candidate.label_is,
        "truth": _answer(candidate.truth),
        "agreement": "-"
        if agreement is None
        else f"{decimals(agreement)} of {candidate.num_votes}",
        "order": "-1" if agreement is None else f"{agreement:.6f}",
        "votes": _votes(candidate.answers),
    }


def _votes(answers: Sequence[str | None]) -> str:
    counts = Counter(answers).most_common()
    votes = [f"{_answer(answer)} x{count}" for answer, count in counts[:_MAX_ANSWERS]]
    if len(counts) > _MAX_ANSWERS:
        votes.append(f"{len(counts) - _MAX_ANSWERS} more")
    return ", ".join(votes) or "-"


def _answer(answer: str | None) -> str:
    return "none" if answer is None else shorten(answer, _MAX_ANSWER_CHARS)
