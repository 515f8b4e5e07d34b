"""How long the steps of a phase take, and whether the one under way has been open for too long."""

from __future__ import annotations

import time
from collections import defaultdict
from statistics import median
from typing import Any

from rzero_ray.protocols import Observer

_TIMES_MEDIAN = 6.0
"""A step is late when it has been open for so many times what its phase's steps take."""
_LEAST_STEPS = 3
"""Of a phase: before, nobody knows what its steps take."""
_LEAST_S = 30.0
"""No step is late before: one of a second may meet a pause of the machine."""


class Pace(Observer):
    """Measures steps from one to the next."""

    def __init__(self) -> None:
        self._seconds: defaultdict[str, list[float]] = defaultdict(list)
        """By phase: what its finished steps took, of all iterations."""
        self._phase = ""
        """Of the step that is open; empty while none is."""
        self._num_left = 0
        self._iteration = 0
        self._since = time.monotonic()

    def start_phase(self, iteration: int, phase: str, num_steps: int, num_done: int) -> None:
        """See `protocols.Observer`."""
        self._iteration, self._phase, self._since = iteration, phase, time.monotonic()
        self._num_left = num_steps - num_done

    def finish_step(self, row: dict[str, Any]) -> None:
        """See `protocols.Observer`."""
        now = time.monotonic()
        self._seconds[row["phase"]].append(now - self._since)
        self._since = now
        self._num_left -= 1
        if self._num_left == 0:  # what comes next, such as an evaluation, takes another time
            self._phase = ""

    def finish_iteration(self, row: dict[str, Any]) -> None:
        """See `protocols.Observer`."""
        self._phase, self._since = "", time.monotonic()

    def lateness(self) -> str:
        """Return what is late, in one line; empty where nothing is."""
        known = self._seconds[self._phase]
        if len(known) < _LEAST_STEPS:
            return ""
        usual, open_s = median(known), time.monotonic() - self._since
        if open_s < max(_LEAST_S, _TIMES_MEDIAN * usual):
            return ""
        return (
            f"iteration {self._iteration}, {self._phase}: a step has been open for {open_s:.0f} s, "
            f"which usually takes {usual:.1f} s"
        )
