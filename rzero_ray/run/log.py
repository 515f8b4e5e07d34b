"""The two logs of a run: `metrics.jsonl`, a line per finished step, and `events.jsonl`."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rzero_ray.run.parquet import write_text_durably
from rzero_ray.run.rows import Row


class RunLog:
    """Appends to the logs of a run directory, and reads them."""

    def __init__(self, root: Path) -> None:
        self._metrics = root / "metrics.jsonl"
        self._events = root / "events.jsonl"

    def metrics(self) -> list[Row]:
        """Return the lines of `metrics.jsonl`, up to the first that a stop cut short."""
        rows: list[Row] = []
        for line in _lines(self._metrics):
            row = _parsed(line)
            if row is None:
                break
            rows.append(row)
        return rows

    def events(self) -> list[Row]:
        """Return the lines of `events.jsonl`; what a resumed run added follows a line cut short."""
        rows = map(_parsed, _lines(self._events))
        return [row for row in rows if row is not None]

    def add_metrics(self, row: Row) -> None:
        """Add a line to `metrics.jsonl`."""
        _append(self._metrics, row)

    def keep_metrics(self, is_kept: Callable[[Row], bool]) -> None:
        """Forget the lines of steps that will be done again."""
        kept = [row for row in self.metrics() if is_kept(row)]
        write_text_durably(self._metrics, "".join(f"{json.dumps(row)}\n" for row in kept))

    def add_event(self, event: str, **details: Any) -> None:
        """Add a line to `events.jsonl`, with the time in seconds since 1970."""
        _append(self._events, {"time": time.time(), "event": event, **details})


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


def _parsed(line: str) -> Row | None:
    try:
        return json.loads(line)
    except ValueError:
        return None


def _append(path: Path, row: Row) -> None:
    with path.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(row) + "\n")
