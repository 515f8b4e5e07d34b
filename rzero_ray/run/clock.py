"""Time by stage: which part of a run was at work, and which was the only one."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

NO_STAGE = "none"
"""Stands for the time in which no stage had anything under way: the driver's own work."""

WORK = frozenset({"sampling", "learning", "grading"})
"""The stages for which a run is made; all others are overhead."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lap:
    """Seconds of one step."""

    busy: dict[str, float]
    """Seconds that each stage was at work; stages overlap."""
    alone: dict[str, float]
    """Seconds that each stage was at work alone; under `NO_STAGE` the time in which none was."""
    overhead: float
    """While none of `WORK` was busy: what the system adds to the work."""
    wall: float


class StageClock:
    """Wall-clock seconds during which each stage had at least one operation under way.

    Stages overlap (votes are sampled while questions still are), so their sum may exceed the
    wall-clock time. The seconds during which a stage was alone are kept apart: they are what the
    run would save if the stage took no time, its part of the critical path. Tokens sampled are
    counted beside it, so that each row of metrics has both.
    """

    def __init__(self, on_stage: Callable[[str, float, float], None] | None = None) -> None:
        """`on_stage` is told of each time in which a stage was at work: its name, its start in
        seconds since 1970, and the seconds that it took."""
        self._on_stage = on_stage
        self._since: dict[str, float] = {}
        """When a stage that is at work began."""
        self._active: Counter[str] = Counter()
        self._busy: dict[str, float] = {}
        self._alone: dict[str, float] = {}
        self._overhead = 0.0
        self._lap_start = self._changed = time.monotonic()
        self._tokens = 0

    def count_tokens(self, count: int) -> None:
        """Count sampled tokens."""
        self._tokens += count

    def take_tokens(self) -> int:
        """Return the tokens counted since the last call."""
        tokens, self._tokens = self._tokens, 0
        return tokens

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Count the time of the block to `name`; blocks of one stage may overlap."""
        self._account()
        if not self._active[name]:
            self._since[name] = self._changed
        self._active[name] += 1
        try:
            yield
        finally:
            self._account()
            self._active[name] -= 1
            if self._on_stage is not None and not self._active[name]:
                seconds = self._changed - self._since[name]
                self._on_stage(name, time.time() - seconds, seconds)

    def lap(self) -> Lap:
        """Return the seconds since the last lap, and start the next."""
        self._account()
        lap = Lap(
            busy=self._busy,
            alone=self._alone,
            overhead=self._overhead,
            wall=self._changed - self._lap_start,
        )
        self._busy, self._alone, self._overhead = {}, {}, 0.0
        self._lap_start = self._changed
        return lap

    def spent(self) -> dict[str, Any]:
        """Return what a row of metrics says of the time since the last one: tokens sampled, seconds
        by stage, seconds of each stage alone, and overhead. A new lap begins."""
        lap = self.lap()
        return {
            "tokens_sampled": self.take_tokens(),
            "seconds": {**lap.busy, "wall": lap.wall},
            "seconds_alone": lap.alone,
            "seconds_overhead": lap.overhead,
        }

    def _account(self) -> None:
        """Add the time since the last change to the stages that were active."""
        now = time.monotonic()
        passed, self._changed = now - self._changed, now
        if not passed:
            return
        active = [name for name, count in self._active.items() if count]
        for name in active:
            self._busy[name] = self._busy.get(name, 0.0) + passed
        alone = active[0] if len(active) == 1 else None if active else NO_STAGE
        if alone is not None:
            self._alone[alone] = self._alone.get(alone, 0.0) + passed
        if WORK.isdisjoint(active):
            self._overhead += passed
