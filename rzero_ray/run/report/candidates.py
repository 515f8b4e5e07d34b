"""The candidates of a run's curricula, as the report shows them.

There are millions in a long run: an iteration is read at a time, and of that the columns that are
counted, then the few rows that are shown.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rzero_ray.run.report.drawing import spread
from rzero_ray.run.report.verdicts import verdict_on
from rzero_ray.run.stored import StoredRun

MOST_SHOWN = 2_000
"""Questions on one page. With the lengths to which their texts are cut they take at most half of
the 20 MB that a page may have."""
_MOST_OF_AN_ITERATION = 200
_MOST_STEPS_READ = 3
"""Of an iteration, unless an outcome is rarer: the columns of a file are read whole."""
_Place = tuple[str, int]
"""The key of a step's candidates, and a row of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownQuestion:
    """The fields of a `Candidate` that a page shows."""

    text: str
    question: str | None
    answers: tuple[str | None, ...]
    label: str | None
    num_agree: int
    num_votes: int
    dropped: str | None
    truth: str | None

    @property
    def agreement(self) -> float | None:
        """Return the majority's share of the answered votes; None where there are none."""
        return self.num_agree / self.num_votes if self.num_votes else None

    @property
    def label_is(self) -> str:
        """Return what is known of the label (`verdicts`)."""
        return verdict_on(self.label, self.truth)


@dataclass(frozen=True, slots=True, kw_only=True)
class QuestionSample:
    """Some questions of an iteration's curriculum."""

    iteration: int
    questions: list[ShownQuestion]
    num_questions: int
    """Of which they are."""


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


def sample_questions(run: StoredRun) -> list[QuestionSample]:
    """Draw the questions that a page shows: of every iteration the same number, with the run's
    seed, and of each of its outcomes as many as of the others, where there are so many.

    What is read of all questions is what became of them. A page has at most `MOST_SHOWN`.
    """
    found = run.candidate_keys()
    shown = set(spread(list(found), MOST_SHOWN))
    quota = min(_MOST_OF_AN_ITERATION, MOST_SHOWN // max(len(shown), 1))
    return [
        _sample(run, iteration, keys, quota if iteration in shown else 0)
        for iteration, keys in found.items()
    ]


def _sample(run: StoredRun, iteration: int, keys: Sequence[str], quota: int) -> QuestionSample:
    places: dict[str | None, list[_Place]] = defaultdict(list)
    for key in keys:
        for row, dropped in enumerate(run.columns(key, _Outcome)["dropped"]):
            places[dropped].append((key, row))
    rng = random.Random(f"{run.config.seed} {iteration}")
    shares = divide(quota, {outcome: len(group) for outcome, group in places.items()})
    # Kept questions come first, and of the others the most frequent outcomes.
    order = sorted(places, key=lambda of: (of is not None, -len(places[of]), str(of)))
    read = set(rng.sample(keys, min(_MOST_STEPS_READ, len(keys))))
    drawn = [place for of in order for place in _draw(rng, places[of], shares[of], read)]
    return QuestionSample(
        iteration=iteration,
        questions=_read(run, drawn),
        num_questions=sum(map(len, places.values())),
    )


def _draw(
    rng: random.Random, group: Sequence[_Place], count: int, keys: Collection[str]
) -> list[_Place]:
    """Draw from the steps of `keys`, or from all where these do not hold enough."""
    near = [place for place in group if place[0] in keys]
    return rng.sample(near if len(near) >= count else group, count)


def divide(quota: int, sizes: Mapping[str | None, int]) -> dict[str | None, int]:
    """Return how many of each group are shown so that they are `quota` in all, or everything: the
    same number of each, and what small groups leave of theirs goes to the larger ones."""
    left, shares = quota, {}
    for number, (name, size) in enumerate(
        sorted(sizes.items(), key=lambda of: (of[1], str(of[0])))
    ):
        shares[name] = min(size, left // (len(sizes) - number))
        left -= shares[name]
    return shares


def _read(run: StoredRun, places: Sequence[_Place]) -> list[ShownQuestion]:
    """Return the questions at some places, in their order, each file read once."""
    rows: dict[str, list[int]] = defaultdict(list)
    for key, row in places:
        rows[key].append(row)
    found = {
        (key, row): question
        for key, of_key in rows.items()
        for row, question in zip(of_key, run.read(key, ShownQuestion, of_key), strict=True)
    }
    return [found[place] for place in places]
