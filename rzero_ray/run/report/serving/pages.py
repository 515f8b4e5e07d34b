"""The pages as HTML: what the other modules read, laid into `templates/`.

Every value is escaped by the templates' environment. Model text goes through a filter on its way:
`line` for one line of a table, `block` for all of it, `piece` for a token.
"""

from __future__ import annotations

import math
import time
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from rzero_ray.run.report.markup import shorten
from rzero_ray.run.report.serving.filters import (
    DROPPED,
    LONGEST_SEARCH,
    ORDERS,
    PAGE_SIZE,
    SORTS,
    Filter,
    Listed,
)
from rzero_ray.run.report.serving.lineage import Lineage
from rzero_ray.run.report.serving.overview import AT_WORK, Overview
from rzero_ray.run.report.serving.questions import KEPT, SOURCES
from rzero_ray.run.report.serving.reading import Problems
from rzero_ray.run.report.serving.text import visible, visible_piece
from rzero_ray.run.report.serving.timeline import TimelineView
from rzero_ray.run.report.serving.tokens import TOKENS_SHOWN, RolloutView
from rzero_ray.run.report.serving.training import PROMPTS_SHOWN, AnsweredStep
from rzero_ray.run.report.verdicts import VERDICTS
from rzero_ray.run.stored import StoredRun
from rzero_ray.types import iteration_key

_REFRESH_SECONDS = 5
_REFRESH_TIMELINE_SECONDS = 10
"""It is drawn each time."""


def overview_page(
    run: StoredRun, overview: Overview, has_comparison: bool, problems: Problems
) -> str:
    """Return the first page; the browser loads it again while a driver is at work."""
    refresh = _REFRESH_SECONDS if overview.state == AT_WORK else None
    values = {"overview": overview, "has_comparison": has_comparison, "refresh": refresh}
    return _fill("overview.html", run, problems, **values)


def questions_page(
    run: StoredRun, iteration: int, wanted: Filter, listed: Listed, problems: Problems
) -> str:
    """Return the list of an iteration's questions."""
    reasons = sorted({*listed.outcomes, *([wanted.outcome] if wanted.outcome else [])})
    return _fill(
        "questions.html",
        run,
        problems,
        iteration=iteration,
        wanted=wanted,
        listed=listed,
        outcomes=[DROPPED, *(reason for reason in reasons if reason != DROPPED)],
        sources=SOURCES,
        labels=VERDICTS,
        sorts=tuple(SORTS),
        orders=ORDERS,
        page_size=PAGE_SIZE,
    )


def lineage_page(run: StoredRun, lineage: Lineage, problems: Problems) -> str:
    """Return the page of one question."""
    template = "request.html" if run.config.method == "judged" else "lineage.html"
    return _fill(template, run, problems, lineage=lineage, config=run.config, kept=KEPT)


def rollout_page(run: StoredRun, view: RolloutView, problems: Problems) -> str:
    """Return the page of one rollout."""
    asked = None
    if view.step.phase == "solver" and run.config.method == "coevolution":
        wanted = Filter(source="curriculum", search=(view.sample.question or "")[:LONGEST_SEARCH])
        asked = f"/{iteration_key(view.step.iteration)}?{wanted.query()}"
    values = {"view": view, "asked": asked, "tokens_shown": TOKENS_SHOWN}
    return _fill("rollout.html", run, problems, **values)


def answers_page(run: StoredRun, answered: AnsweredStep, problems: Problems) -> str:
    """Return the page of what the Solver answered in a step."""
    return _fill("answers.html", run, problems, answered=answered, prompts_shown=PROMPTS_SHOWN)


def timeline_page(run: StoredRun, view: TimelineView, is_live: bool, problems: Problems) -> str:
    """Return the timeline; one that is live is loaded again."""
    refresh = _REFRESH_TIMELINE_SECONDS if is_live else None
    return _fill("timeline.html", run, problems, view=view, refresh=refresh)


def message_page(name: str, message: str) -> str:
    """Return a page that says one line: why there is no other one."""
    return _ENVIRONMENT.get_template("message.html").render(
        name=name, message=message, problems=[], refresh=None
    )


def _fill(template: str, run: StoredRun, problems: Problems, **values: Any) -> str:
    page = _ENVIRONMENT.get_template(template)
    values = {"refresh": None, **values}
    return page.render(name=run.config.name, run=run, problems=problems.lines, **values)


# How values are shown.


def _number(value: float | None, places: int = 3) -> str:
    """Return a number with a few places, or a dash."""
    if value is None:
        return "-"
    if isinstance(value, int):
        return f"{value:,}"
    if not math.isfinite(value):
        return str(value)
    small = value != 0 and abs(value) < 10**-places
    return f"{value:.2g}" if small else f"{value:.{places}f}"


def _ago(moment: float | None) -> str:
    """Return how long ago a moment was, in the unit that suits it."""
    if moment is None:
        return "never"
    seconds = max(0.0, time.time() - moment)
    for unit, size in (("days", 86_400), ("hours", 3_600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit} ago"
    return f"{seconds:.0f} seconds ago"


def _line(text: str | None, limit: int = 200) -> str:
    return "-" if text is None else shorten(text, limit)


_ENVIRONMENT = Environment(
    loader=PackageLoader("rzero_ray.run.report.serving"),
    autoescape=select_autoescape(default=True, default_for_string=True),
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_ENVIRONMENT.filters.update(
    number=_number, ago=_ago, line=_line, block=visible, piece=visible_piece
)
