"""Time by stage, and estimates with their uncertainty."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np

_NUM_RESAMPLES = 2000
"""Of the bootstrap: the interval's own error is then far below its width."""


class StageClock:
    """Wall-clock seconds during which each stage had at least one operation under way.

    Stages overlap (votes are sampled while questions still are), so their sum may exceed the
    wall-clock time. Tokens sampled are counted beside it, so that each row of metrics has both.
    """

    def __init__(self) -> None:
        self._active: dict[str, int] = {}
        self._since: dict[str, float] = {}
        self._total: dict[str, float] = {}
        self._lap_start = time.monotonic()
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
        if not self._active.get(name):
            self._since[name] = time.monotonic()
        self._active[name] = self._active.get(name, 0) + 1
        try:
            yield
        finally:
            self._active[name] -= 1
            if not self._active[name]:
                self._add(name, time.monotonic())

    def lap(self) -> dict[str, float]:
        """Return seconds by stage since the last lap, and `wall`, and start the next."""
        now = time.monotonic()
        for name, count in self._active.items():
            if count:
                self._add(name, now)
                self._since[name] = now
        seconds, self._total = self._total, {}
        seconds["wall"], self._lap_start = now - self._lap_start, now
        return seconds

    def _add(self, name: str, now: float) -> None:
        self._total[name] = self._total.get(name, 0.0) + now - self._since[name]


def bootstrap_interval(
    scores_P: Sequence[float], seed: int, confidence: float = 0.95
) -> tuple[float, float]:
    """Return the percentile-bootstrap confidence interval of the mean over problems.

    `scores_P` holds one mean per problem: samples of one problem are not independent, so whole
    problems are resampled.
    """
    scores = np.asarray(scores_P, dtype=np.float64)
    rng = np.random.default_rng(seed)
    picks = rng.integers(0, scores.size, size=(_NUM_RESAMPLES, scores.size))
    means = scores[picks].mean(axis=1)
    tail = 100 * (1 - confidence) / 2
    low, high = np.percentile(means, [tail, 100 - tail])
    return float(low), float(high)


def mean(values: Sequence[float]) -> float:
    """Return the mean, or 0.0 of nothing."""
    return float(np.mean(values)) if len(values) else 0.0
