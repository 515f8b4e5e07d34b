"""The two logs of a run: `metrics.jsonl`, a line per finished step, and `events.jsonl`."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rzero_ray.disk.files import append_line, read_log, write_log
from rzero_ray.run.rows import EventRow, Row, StepRow


class RunLog:
    """Appends to the logs of a run directory, and reads them (`files.read_log`)."""

    def __init__(self, root: Path) -> None:
        self._metrics = root / "metrics.jsonl"
        self._events = root / "events.jsonl"

    def metrics(self) -> list[Row]:
        """Return the lines of `metrics.jsonl`."""
        return read_log(self._metrics, StepRow)

    def events(self) -> list[Row]:
        """Return the lines of `events.jsonl`."""
        return read_log(self._events, EventRow)

    def mend(self, is_kept: Callable[[Row], bool]) -> None:
        """Forget what a stop cut off, and the lines of `metrics.jsonl` that are not kept: of steps
        that will be done again."""
        metrics, events = self.metrics(), self.events()
        write_log(self._metrics, [row for row in metrics if is_kept(row)])
        write_log(self._events, events)

    def add_metrics(self, row: Row) -> None:
        """Add a line to `metrics.jsonl`."""
        append_line(self._metrics, json.dumps(row))

    def add_event(self, event: str, **details: Any) -> None:
        """Add a line to `events.jsonl`, with the time in seconds since 1970."""
        append_line(self._events, json.dumps({"time": time.time(), "event": event, **details}))
