"""The candidates of a run's curricula, as the report shows them.

There are millions in a long run: an iteration is read at a time, and of that the columns that are
counted, then the few rows that are shown.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rzero_ray.run.stored import StoredRun
from rzero_ray.types import Candidate

_NUM_KEPT_SHOWN = 8
_NUM_DROPPED_SHOWN = 2
"""Per reason."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Votes:
    """The fields of a `Candidate` that its agreement is made of."""

    num_agree: int
    num_votes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Outcome:
    """The field of a `Candidate` that says what became of it."""

    dropped: str | None


def agreement_counts(run: StoredRun, edges: NDArray[np.float64]) -> dict[int, NDArray[np.int64]]:
    """Return, by iteration, how many candidates with a vote have an agreement between each two
    `edges`; an iteration without such a candidate is left out."""
    found: dict[int, NDArray[np.int64]] = {}
    for iteration, keys in run.candidate_keys().items():
        counts = np.zeros(len(edges) - 1, dtype=np.int64)
        for key in keys:
            columns = run.columns(key, _Votes)
            votes = np.array([columns["num_agree"], columns["num_votes"]])
            agree, voted = votes[:, votes[1] > 0]
            counts += np.histogram(agree / voted, edges)[0]
        if counts.any():
            found[iteration] = counts
    return found


def draw_candidates(run: StoredRun, keys: Sequence[str], rng: random.Random) -> list[Candidate]:
    """Draw a few candidates of an iteration, kept ones first, then some for each reason."""
    places: dict[str | None, list[tuple[str, int]]] = defaultdict(list)
    for key in keys:
        for row, dropped in enumerate(run.columns(key, _Outcome)["dropped"]):
            places[dropped].append((key, row))
    kept = places.pop(None, [])
    drawn = rng.sample(kept, min(_NUM_KEPT_SHOWN, len(kept)))
    for reason in sorted(places, key=str):
        group = places[reason]
        drawn += rng.sample(group, min(_NUM_DROPPED_SHOWN, len(group)))
    rows: dict[str, list[int]] = defaultdict(list)
    for key, row in drawn:
        rows[key].append(row)
    read = {
        (key, row): candidate
        for key in rows
        for row, candidate in zip(rows[key], run.read(key, Candidate, rows[key]), strict=True)
    }
    return [read[place] for place in drawn]
