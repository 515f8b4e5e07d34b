"""When a run goes back to earlier models: a signal that no label takes part in.

Ours: how much the Solver's answers to the held-out prompts agree with one another, whose references
are not looked at. A Solver that comes apart, or that was taught labels which contradict each other,
agrees less with itself; one that is taught a mistake consistently agrees more, which this signal
does not see.
"""

from __future__ import annotations

from collections.abc import Sequence

from rzero_ray.types import Standing


def standing_after(
    earlier: Sequence[Standing], iteration: int, signal: float, most_fall: float
) -> Standing:
    """Return whether the models of an iteration stand.

    They do not where `signal` is more than `most_fall` below the highest of those that stand, and
    the next iteration then starts from the models of the last that does. `earlier` are the
    standings of the iterations before, the base model's (iteration 0) first: the base model stands.
    """
    standing = [s for s in earlier if s.good == s.iteration]
    highest = max((s.signal for s in standing), default=signal)
    is_good = signal >= highest - most_fall
    return Standing(
        iteration=iteration,
        signal=signal,
        good=iteration if is_good else max(s.iteration for s in standing),
    )
