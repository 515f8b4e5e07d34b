"""The rows in which a run keeps its figures: lines of `metrics.jsonl`, and evaluations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

Row = dict[str, Any]
"""A line of `metrics.jsonl`, or an evaluation."""


def mean(values: Sequence[float]) -> float:
    """Return the mean, or 0.0 of nothing."""
    return float(np.mean(values)) if len(values) else 0.0


def phase_rows(metrics: Sequence[Row], phase: str, iteration: int | None = None) -> list[Row]:
    """Return a phase's rows in order; of all iterations without `iteration`."""
    rows = [
        row for row in metrics if row["phase"] == phase and iteration in (None, row["iteration"])
    ]
    return sorted(rows, key=lambda row: (row["iteration"], row["step"]))


def is_beyond(value: float | None, key: str, limit: float | None) -> bool:
    """Return whether a figure lies beyond the limit whose key begins with `max_` or `min_`.

    One that is missing, or has no limit, does not.
    """
    if value is None or limit is None:
        return False
    return value > limit if key.startswith("max_") else value < limit
