"""A timeline of a run for Perfetto (https://ui.perfetto.dev) or `chrome://tracing`.

`trace.json` is the array form of the Trace Event Format, which may lack its closing bracket: so it
is only ever appended to, and opens after a kill as it does after the end. A run that is resumed
goes on in the same file, in which each start is a process of its own; times are microseconds since
1970. `run.report.lanes` reads it.
"""

from __future__ import annotations

import json
import os
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rzero_ray.protocols import Observer
from rzero_ray.types import Activity, BusySpan, Role

TRACE_FILE = "trace.json"
PHASES_TRACK = "phases"
"""The track of phases: a `B` event begins one, and ends the one before where that has no `E`."""
START = "process_name"
"""The metadata with which each start of the run begins."""
WORK = "work"
"""The category of the spans of actors (`types.BusySpan`)."""
ACTIVITIES = (
    "questions",
    "votes",
    "answers",
    "judging",
    "evaluation",
    "scoring",
    "grading",
    "learning",
    "weight sync",
    "loading and saving",
)
"""What they are named, by what is done and for whom (`shown_activity`)."""
LONGEST_LINE = 1 << 16
"""Bytes of one event; a longer line is damage."""
_PHASES_KEPT = 64

_Phase = tuple[int, str]
"""The number of an iteration, and the name of a phase."""


class TraceFile(Observer):
    """Writes what is under way and when: phases and steps, each stage of the clock, weight syncs,
    who has shared devices, what each actor does and how it is."""

    def __init__(self, root: Path) -> None:
        path = root / TRACE_FILE
        if path.is_file() and not path.is_symlink():
            _cut_half_line(path)
        is_new = not path.exists() or path.stat().st_size == 0
        self._file = path.open("a")
        self._process = os.getpid()
        """Each start of a run has tracks of its own."""
        self._tracks: dict[str, int] = {}
        self._phases: deque[tuple[float, _Phase | None]] = deque([(0.0, None)], maxlen=_PHASES_KEPT)
        """Since when the last phases were under way, or none was; the one at present comes last."""
        self._step_since = time.time()
        self._turn: tuple[str, float] | None = None
        """Who has the devices, and since when."""
        if is_new:
            self._file.write("[\n")
        started = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime())
        self._add(ph="M", name=START, ts=_microseconds(time.time()), args={"name": started})
        self._flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def start_phase(self, iteration: int, phase: str, num_steps: int, num_done: int) -> None:
        """See `protocols.Observer`."""
        self._step_since = time.time()

    def finish_step(self, row: dict[str, Any]) -> None:
        """See `protocols.Observer`."""
        now = time.time()
        name = f"iteration {row['iteration']} {row['phase']} step {row['step']}"
        figures = {key: value for key, value in row.items() if isinstance(value, int | float)}
        self._add_span("steps", name, self._step_since, now - self._step_since, figures)
        self._step_since = now
        self._flush()

    def finish_iteration(self, row: dict[str, Any]) -> None:
        """See `protocols.Observer`."""
        wall = row.get("seconds", {}).get("wall", 0.0)
        self._add_span("steps", f"evaluation {row['iteration']}", time.time() - wall, wall)
        self._end_phase(time.time())
        self._flush()

    def see_event(self, event: str, details: Mapping[str, Any]) -> None:
        """See `protocols.Observer`."""
        now = time.time()
        if event in ("phase", "loading"):
            self._begin_phase(details["iteration"], details["phase"], now)
        elif event == "weight sync":
            seconds = details["seconds"]
            self._add_span("weight syncs", details["version"], now - seconds, seconds, details)
        elif event == "turn":
            if self._turn is not None:
                holder, since = self._turn
                self._add_span("devices", holder, since, now - since)
            self._turn = details["holder"], now
        elif event == "actor":
            self._add(
                ph="i",
                s="t",
                name=details["state"],
                ts=_microseconds(now),
                tid=self._track(details["actor"]),
                args=dict(details),
            )
        self._flush()

    def see_work(self, span: BusySpan) -> None:
        """See `protocols.Observer`."""
        middle = span.start_s + span.seconds / 2  # it is told later, maybe in another phase
        phase = next((of for since, of in reversed(self._phases) if since <= middle), None)
        name = shown_activity(span.activity, span.role, phase[1] if phase else "")
        details = {"role": span.role, "busy_s": round(span.busy_s, 6)}
        self._add_span(span.actor, name, span.start_s, span.seconds, details, category=WORK)
        self._flush()

    def add_stage(self, name: str, start_s: float, seconds: float) -> None:
        """Add a time in which a stage of the clock was at work; `start_s` is since 1970."""
        self._add_span(name, name, start_s, seconds)

    def _add_span(
        self,
        track: str,
        name: str,
        start_s: float,
        seconds: float,
        details: Mapping[str, Any] | None = None,
        category: str = "run",
    ) -> None:
        self._add(
            ph="X",
            cat=category,
            name=name,
            ts=_microseconds(start_s),
            dur=_microseconds(seconds),
            tid=self._track(track),
            args=dict(details or {}),
        )

    def _begin_phase(self, iteration: int, phase: str, now: float) -> None:
        """Begin a phase, unless it is under way: one in which a role learns begins with loading."""
        if self._phases[-1][1] == (iteration, phase):
            return
        self._end_phase(now)
        self._phases.append((now, (iteration, phase)))
        self._add(
            ph="B",
            name=f"iteration {iteration}: {phase}" if iteration else "base model: evaluation",
            ts=_microseconds(now),
            tid=self._track(PHASES_TRACK),
            args={"iteration": iteration, "phase": phase},
        )

    def _end_phase(self, now: float) -> None:
        if self._phases[-1][1]:
            self._add(ph="E", ts=_microseconds(now), tid=self._track(PHASES_TRACK))
            self._phases.append((now, None))

    def _track(self, name: str) -> int:
        if name not in self._tracks:
            self._tracks[name] = len(self._tracks) + 1
            self._add(ph="M", name="thread_name", tid=self._tracks[name], args={"name": name})
        return self._tracks[name]

    def _add(self, **event: Any) -> None:
        self._file.write(json.dumps({"pid": self._process, **event}) + ",\n")

    def _flush(self) -> None:
        self._file.flush()


def shown_activity(activity: Activity, role: Role | None, phase: str) -> str:
    """Return the name of what an actor does in a phase, such as `votes` of an engine that samples
    for the Solver while the Challenger learns."""
    if activity in ("loading", "saving", "moving"):
        return "loading and saving"
    if activity != "sampling":
        return activity
    if role != "solver":
        return "questions" if role == "challenger" else "judging"
    return {"solver": "answers", "evaluation": "evaluation", "drift": "evaluation"}.get(
        phase, "votes"
    )


def _cut_half_line(path: Path) -> None:
    """Remove what a stop of the machine has left of a last line."""
    with path.open("rb+") as file:
        size = file.seek(0, os.SEEK_END)
        start = max(0, size - LONGEST_LINE)
        file.seek(start)
        tail = file.read()
        end = tail.rfind(b"\n") + 1
        if 0 < end < len(tail):
            file.truncate(start + end)


def _microseconds(seconds: float) -> int:
    return round(seconds * 1e6)
