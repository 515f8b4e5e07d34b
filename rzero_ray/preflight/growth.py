"""How the lengths of the Solver's answers change as it learns.

A Solver that learns comes to write as it is rewarded for. Where rewarded answers are longer than
others, as chains of thought are, the run has longer answers than its rehearsal.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rzero_ray.types import SolverSample


def growth(answers: Sequence[SolverSample], num_iterations: int) -> list[float]:
    """Return how many times as long answers are after 0, 1 .. `num_iterations` phases of learning.

    The rehearsal's answers are cut at their median into shorter and longer ones. Each phase is
    taken to make the ones more frequent against the others by the ratio of their shares of rewarded
    answers. Without a rewarded answer nothing changes.
    """
    unchanged = [1.0] * (num_iterations + 1)
    lengths = np.array([len(answer.token_ids) for answer in answers], dtype=np.float64)
    rewarded = np.array([answer.reward > 0 for answer in answers], dtype=np.float64)
    if len(answers) < 2 or not rewarded.any() or not lengths.any():
        return unchanged
    halves = np.array_split(np.argsort(lengths, kind="stable"), 2)
    counts, means, shares = (
        np.array([f(half) for half in halves])
        for f in (len, lambda half: lengths[half].mean(), lambda half: rewarded[half].mean())
    )
    frequencies = [counts * shares**phases for phases in range(num_iterations + 1)]
    return [float(f @ means / f.sum() / lengths.mean()) for f in frequencies]
