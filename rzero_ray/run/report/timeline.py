"""The timeline of a run: what each engine, learner rank and reward worker did, and when."""

from __future__ import annotations

import html
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rzero_ray.run.report.drawing import (
    BLUE,
    GREEN,
    GREY,
    LIGHT_BLUE,
    ORANGE,
    PURPLE,
    RED,
    SKY,
    draw,
)
from rzero_ray.run.report.lanes import (
    IterationSpan,
    Lane,
    PhaseSpan,
    TraceReader,
    Window,
    iterations_of,
)
from rzero_ray.run.report.markup import html_table, shorten
from rzero_ray.run.trace import ACTIVITIES

PAGE_S = 120.0
"""Seconds of a run that are shown at once where nobody has asked for others, or one iteration: a
bin is then short enough to show the steps of a small model."""
_NUM_BINS = 480
_MOST_LANES = 40
"""Lanes that are drawn; the table has more."""
_MOST_ROWS = 400
"""Lanes in the table."""
_COLOURS = {
    "questions": ORANGE,
    "votes": LIGHT_BLUE,
    "answers": BLUE,
    "judging": SKY,
    "evaluation": PURPLE,
    "scoring": "#D9C3E0",
    "grading": "#B8A300",
    "learning": GREEN,
    "weight sync": RED,
    "loading and saving": GREY,
}
_PHASE_COLOURS = {
    "challenger": ORANGE,
    "curriculum": LIGHT_BLUE,
    "solver": BLUE,
    "evaluation": PURPLE,
}
"""Those of other phases are grey."""
_WIDTH, _LANE_HEIGHT, _REST = 11.0, 0.3, 1.5
"""Inches: of the drawing, of a lane in it, of all that is not lanes."""
_PLOT_CHARACTERS = 130
"""How many characters of a phase's name fit into the width of the lanes."""
_MOST_PHASES = 60
"""Where a window has more, its iterations are painted in place of phases."""
_LONGEST_NUMBER = 4
"""Characters that the number of an iteration takes, with room beside it."""
_KINDS = ("challenger", "solver", "verifier", "referee", "learner", "reward")

TIMELINE_NOTE = (
    "The height of a block is the share of its moment in which the actor was at that work. Votes "
    "are what the Solver samples while the Challenger learns or the curriculum is made, answers "
    "what it learns from. trace.json has more and opens in Perfetto (https://ui.perfetto.dev)."
)


def timeline_section(root: Path) -> str:
    """Return the section of `report.html`: the last iterations that fit, and the shares of the
    whole run. Where there is no timeline it is a line that says why."""
    reader = TraceReader(root)
    reader.read_on()
    if reader.problem:
        return f"<h2>Timeline</h2><p>{html.escape(reader.problem)}.</p>"
    start, end = reader.last_iterations(PAGE_S)
    svg = draw_timeline(reader, start, end)
    shown = f"Seconds {start:,.0f} to {end:,.0f} of {reader.seconds:,.0f}. {TIMELINE_NOTE}"
    return (
        '<h2>Timeline</h2><div class="scroll"><figure style="min-width: 46rem">'
        f"{svg}<figcaption>{html.escape(shown)}</figcaption></figure></div>"
        f"<p>{html.escape(shares_note(reader))}</p>"
        f"{html_table(*shares_table(reader), 'numbers')}"
    )


def draw_timeline(reader: TraceReader, start: float, end: float) -> str:
    """Return the drawing of a part of the run as inline SVG; both are seconds since its start."""
    window = reader.window(start, max(end, start + 1e-3), _NUM_BINS)
    lanes = sorted_lanes(reader.lanes)[:_MOST_LANES]
    phases = [of for of in reader.phases if of.end > window.start and of.start < window.end]
    height = _REST + _LANE_HEIGHT * (len(lanes) + 1)
    svg = draw((_WIDTH, height), lambda axes: _paint(axes, window, lanes, phases))
    return re.sub(r"(\d\.\d)\d{2,}", r"\1", svg)  # a tenth of a point is enough


def shares_note(reader: TraceReader) -> str:
    """Return what the table says, what it lacks, and what of the file cannot be read."""
    parts = [
        f"Shares of the {reader.work_seconds:,.0f} seconds in which a driver was at work, over the "
        "whole run."
    ]
    if len(reader.lanes) > _MOST_LANES:
        parts.append(f"Of {len(reader.lanes):,} actors {_MOST_LANES} are drawn.")
    if len(reader.lanes) > _MOST_ROWS:
        parts.append(f"The table has {_MOST_ROWS} of them.")
    if reader.num_damaged:
        parts.append(f"{reader.num_damaged:,} lines of trace.json cannot be read.")
    return " ".join(parts)


def shares_table(reader: TraceReader) -> tuple[list[str], list[list[str]]]:
    """Return head and rows: of each actor the share of the run in which it was at work, in all and
    by activity. The cells are not escaped yet."""
    lanes = sorted_lanes(reader.lanes)[:_MOST_ROWS]
    activities = [name for name in ACTIVITIES if any(lane.busy_s.get(name) for lane in lanes)]
    whole = max(reader.work_seconds, 1e-9)
    rows = []
    for lane in lanes:
        by_activity = [lane.busy_s.get(name, 0.0) / whole for name in activities]
        shares = [sum(by_activity), *by_activity]
        rows.append([shorten(lane.name, 60), _place(lane), *map(_percent, shares)])
    return ["actor", "where", "busy", *activities], rows


def sorted_lanes(lanes: Mapping[str, Lane]) -> list[Lane]:
    """Return the lanes as one looks for them: engines by role, learner ranks, reward workers."""

    def place(lane: Lane) -> tuple[int, str, int]:
        kind = lane.name.partition("/")[0]
        name, _, number = lane.name.rpartition("-")
        order = _KINDS.index(kind) if kind in _KINDS else len(_KINDS)
        is_numbered = number.isascii() and number.isdecimal() and len(number) < 10
        return order, name, int(number) if is_numbered else 0

    return sorted(lanes.values(), key=place)


def _place(lane: Lane) -> str:
    gpus = f"GPU {', '.join(lane.gpus)}" if lane.gpus else ""
    return shorten(" ".join(part for part in (lane.node, gpus) if part), 80) or "-"


def _percent(share: float) -> str:
    return f"{share:.1%}" if share else "-"


# Painting.


def _paint(axes: Any, window: Window, lanes: Sequence[Lane], phases: Sequence[PhaseSpan]) -> None:
    edges = np.linspace(window.start, window.end, _NUM_BINS + 1)
    shown = set()
    for row, lane in enumerate(reversed(lanes)):  # upwards
        low = np.full(_NUM_BINS, row + 0.1)
        for activity in ACTIVITIES:
            shares = window.shares.get(lane.name, {}).get(activity)
            if shares is not None and shares.any():
                high = np.minimum(low + 0.8 * shares, row + 0.9)
                _paint_blocks(axes, edges, low, high, activity, activity not in shown)
                shown.add(activity)
                low = high
    iterations = iterations_of(phases) if len(phases) > _MOST_PHASES else {}
    if iterations:
        _paint_iterations(axes, window, iterations, len(lanes))
    else:
        _paint_phases(axes, window, phases, len(lanes))
    several = len({lane.node for lane in lanes}) > 1
    names = [_lane_name(lane, several) for lane in reversed(lanes)]
    names.append("iteration" if iterations else "phase")
    axes.set_yticks(np.arange(len(names)) + 0.5, names, parse_math=False)
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(0, len(names))
    axes.set_xlim(window.start, window.end)
    axes.set_xlabel("seconds since the run's start")
    if shown:
        handles, names = axes.get_legend_handles_labels()
        ordered = sorted(zip(names, handles, strict=True), key=lambda of: ACTIVITIES.index(of[0]))
        axes.legend(
            [handle for _, handle in ordered],
            [name for name, _ in ordered],
            loc="lower left",
            bbox_to_anchor=(0, 1.0),
            ncols=5,
            borderaxespad=0.2,
        )


def _paint_blocks(
    axes: Any,
    edges: NDArray[np.float64],
    low: NDArray[np.float64],
    high: NDArray[np.float64],
    activity: str,
    is_first: bool,
) -> None:
    """Paint the bins in which an actor was at one work, those side by side as one shape."""
    from matplotlib.collections import PolyCollection

    busy = np.flatnonzero(high - low > 1e-3)
    runs = np.split(busy, np.flatnonzero(np.diff(busy) > 1) + 1) if len(busy) else []
    shapes = []
    for run in runs:
        xs = np.repeat(edges[run[0] : run[-1] + 2], 2)[1:-1]
        top, bottom = np.repeat(high[run], 2), np.repeat(low[run], 2)
        shapes.append(np.column_stack([np.append(xs, xs[::-1]), np.append(top, bottom[::-1])]))
    label = activity if is_first else None
    axes.add_collection(
        PolyCollection(shapes, facecolor=_COLOURS[activity], linewidth=0, label=label)
    )


def _paint_phases(axes: Any, window: Window, phases: Sequence[PhaseSpan], row: int) -> None:
    """Paint the phases as blocks above the lanes, with a line where each begins."""
    for of in phases:
        start, end = max(of.start, window.start), min(of.end, window.end)
        colour = _PHASE_COLOURS.get(of.phase, GREY)
        axes.fill_between([start, end], row + 0.1, row + 0.9, color=colour, alpha=0.55, linewidth=0)
        axes.axvline(of.start, color=GREY, linewidth=0.6, alpha=0.6)
        room = _room(window, start, end)
        name = f"{of.iteration} {shorten(of.phase, 20)}"
        text = next((t for t in (name, str(of.iteration)) if len(t) < room), "")
        _write(axes, text, start, end, row)


def _paint_iterations(
    axes: Any, window: Window, spans: Mapping[int, IterationSpan], row: int
) -> None:
    """Paint iterations in turns lighter and darker, as many named as there is room for."""
    for shade in (0, 1):
        blocks = [
            (of.start, of.end - of.start) for number, of in spans.items() if number % 2 == shade
        ]
        axes.broken_barh(blocks, (row + 0.1, 0.8), color=GREY, alpha=0.3 + 0.3 * shade, linewidth=0)
    length = (window.end - window.start) / len(spans)
    every = math.ceil(_LONGEST_NUMBER / _room(window, 0.0, length))
    for number, of in spans.items():
        if number % every == 0:
            start, end = max(of.start, window.start), min(of.end, window.end)
            _write(axes, str(number), start, end, row)


def _room(window: Window, start: float, end: float) -> float:
    """Return how many characters fit between two moments."""
    return _PLOT_CHARACTERS * (end - start) / (window.end - window.start)


def _write(axes: Any, text: str, start: float, end: float, row: int) -> None:
    """Write into the middle of a block."""
    middle = (start + end) / 2, row + 0.5
    axes.text(*middle, text, ha="center", va="center", fontsize=8, parse_math=False)


def _lane_name(lane: Lane, with_node: bool) -> str:
    parts = [lane.name, *([lane.node] if with_node and lane.node else [])]
    parts += [f"GPU {','.join(lane.gpus)}"] if lane.gpus else []
    return shorten(" ".join(parts), 48)
