"""The timeline as a page: a window of the run, and where to go from there.

/timeline                     the last iterations, as they come
/timeline?from=90&to=120      some seconds, counted from the run's start
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock

from markupsafe import Markup

from rzero_ray.run.report.lanes import TraceReader, iterations_of
from rzero_ray.run.report.timeline import (
    PAGE_S,
    TIMELINE_NOTE,
    draw_timeline,
    shares_note,
    shares_table,
)
from rzero_ray.types import UserError

_SHORTEST_S = 0.1
"""The shortest window: what is in it takes milliseconds."""
_MOST_ITERATIONS = 200
"""Iterations to which a page has links, the last ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """A way to another window."""

    text: str
    query: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TimelineView:
    """What a page shows; where there is no timeline, `problem` alone says why."""

    problem: str = ""
    drawing: Markup = field(default_factory=Markup)
    start: float = 0.0
    """Of the window, in seconds since the run's start, as are the two others."""
    end: float = 0.0
    seconds: float = 0.0
    links: tuple[Link, ...] = ()
    iterations: tuple[Link, ...] = ()
    head: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()
    """The shares of the whole run."""
    notes: tuple[str, ...] = ()


class Timeline:
    """The timeline of a run, of which each page reads on where the one before has ended."""

    def __init__(self, root: Path) -> None:
        """`root` is the run directory."""
        self._reader = TraceReader(root)
        self._lock = Lock()
        """Pages are made in threads; neither the reader nor matplotlib is for several."""

    def view(self, query: Mapping[str, str]) -> TimelineView:
        """Return the window that an address asks for. Raises UserError where it asks for none."""
        wanted = {name: _seconds(query, name) for name in ("from", "to")}
        with self._lock:
            reader = self._reader
            reader.read_on()
            if reader.problem:
                return TimelineView(problem=reader.problem)
            start, end = reader.last_iterations(PAGE_S)
            if any(value is not None for value in wanted.values()):
                start = wanted["from"] if wanted["from"] is not None else 0.0
                end = wanted["to"] if wanted["to"] is not None else reader.seconds
            if end - start < _SHORTEST_S:
                end = start + _SHORTEST_S
            head, rows = shares_table(reader)
            return TimelineView(
                drawing=Markup(_without_styles(draw_timeline(reader, start, end))),
                start=start,
                end=end,
                seconds=reader.seconds,
                links=_links(start, end, reader.seconds),
                iterations=_iterations(reader),
                head=tuple(head),
                rows=tuple(map(tuple, rows)),
                notes=(TIMELINE_NOTE, shares_note(reader)),
            )


def _seconds(query: Mapping[str, str], name: str) -> float | None:
    if name not in query:
        return None
    try:
        value = float(query[name])
    except ValueError:
        value = math.nan
    if not 0 <= value < 1e9:
        raise UserError(f"{name} is a number of seconds since the run's start")
    return value


def _links(start: float, end: float, seconds: float) -> tuple[Link, ...]:
    """Return the ways to what lies beside a window, within it and around it."""
    length, middle = end - start, (start + end) / 2
    found = []
    if start > 0:
        found.append(_link("earlier", max(0.0, start - length), start))
    if end < seconds:
        found.append(_link("later", end, end + length))
    if length > 2 * _SHORTEST_S:
        found.append(_link("closer", middle - length / 4, middle + length / 4))
    if length < seconds:
        found.append(_link("wider", max(0.0, middle - length), min(seconds, middle + length)))
    found.append(_link("whole", 0.0, seconds))
    found.append(Link(text="last", query=""))
    return tuple(found)


def _iterations(reader: TraceReader) -> tuple[Link, ...]:
    last = list(iterations_of(reader.phases).items())[-_MOST_ITERATIONS:]
    return tuple(_link(str(iteration) if iteration else "base", *span) for iteration, span in last)


def _link(text: str, start: float, end: float) -> Link:
    return Link(text=text, query=f"?from={start:.2f}&to={end:.2f}")


def _without_styles(svg: str) -> str:
    """Return a drawing whose styles are attributes: the pages' policy allows no other style than
    that of their own sheet."""
    svg = svg.replace("<svg ", '<svg stroke-linejoin="round" stroke-linecap="butt" ', 1)
    return re.sub(r'style="([^"]*)"', lambda found: _attributes(found[1]), svg)


def _attributes(style: str) -> str:
    pairs = (item.partition(":") for item in style.split(";") if item.strip())
    return " ".join(f'{name.strip()}="{value.strip()}"' for name, _, value in pairs)
