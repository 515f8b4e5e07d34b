"""Whether a question's pseudo-label is right, as pages say it: in the words of the label audit."""

from __future__ import annotations

from rzero_ray.evaluation.labels.agreement import RIGHT, UNKNOWN, WRONG

VERDICTS = (RIGHT, WRONG, UNKNOWN)


def verdict_on(label: str | None, truth: str | None) -> str:
    """Return one of `VERDICTS`: `UNKNOWN` where there is no label, or no exact answer is known."""
    if truth is None or label is None:
        return UNKNOWN
    return RIGHT if label == truth else WRONG
