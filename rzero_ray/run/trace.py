"""A timeline of a run for Perfetto (https://ui.perfetto.dev) or `chrome://tracing`.

`trace.json` is the array form of the Trace Event Format, which may lack its closing bracket: so it
is only ever appended to, and opens after a kill as it does after the end. A run that is resumed
goes on in the same file; times are microseconds since 1970.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rzero_ray.protocols import Observer

TRACE_FILE = "trace.json"


class TraceFile(Observer):
    """Writes what is under way and when: phases and steps, each stage of the clock, weight syncs,
    who has shared devices, how each actor is."""

    def __init__(self, root: Path) -> None:
        path = root / TRACE_FILE
        is_new = not path.exists() or path.stat().st_size == 0
        self._file = path.open("a")
        self._process = os.getpid()
        """Each start of a run has tracks of its own."""
        self._tracks: dict[str, int] = {}
        self._step_since = time.time()
        self._turn: tuple[str, float] | None = None
        """Who has the devices, and since when."""
        if is_new:
            self._file.write("[\n")
        self._flush()

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
        self._flush()

    def see_event(self, event: str, details: Mapping[str, Any]) -> None:
        """See `protocols.Observer`."""
        now = time.time()
        if event == "weight sync":
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
    ) -> None:
        self._add(
            ph="X",
            name=name,
            ts=_microseconds(start_s),
            dur=_microseconds(seconds),
            tid=self._track(track),
            args=dict(details or {}),
        )

    def _track(self, name: str) -> int:
        if name not in self._tracks:
            self._tracks[name] = len(self._tracks) + 1
            self._add(ph="M", name="thread_name", tid=self._tracks[name], args={"name": name})
        return self._tracks[name]

    def _add(self, **event: Any) -> None:
        self._file.write(json.dumps({"pid": self._process, **event}) + ",\n")

    def _flush(self) -> None:
        self._file.flush()


def _microseconds(seconds: float) -> int:
    return round(seconds * 1e6)
