"""How the last stage of the pretraining is steered: pure decisions over measured accuracies.

Bases of different seeds that learn from one mixture of documents differ in how often they take the
shortcut, and in how well they carry out long questions, by more than a study can use. So the last
stage measures the base after each cycle of steps, and mixes the documents of the next one anew.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from rzero_ray.tasks.ladder.corpus import Mixture
from rzero_ray.tasks.ladder.questions import (
    PLAIN_FAMILIES,
    Question,
    banned_keys,
    sample_question,
)

_VALIDATION_SEED: Final = "ladder-validation"


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """Where the mean accuracy at some lengths has to lie."""

    lengths: tuple[int, ...]
    """Numbers of operations."""
    low: float
    high: float

    def holds(self, accuracies: Mapping[int, float]) -> bool:
        """Say whether {length: accuracy} lies in the window."""
        mean = sum(accuracies[length] for length in self.lengths) / len(self.lengths)
        return self.low <= mean <= self.high


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuning:
    """The last stage: cycles of steps, each followed by a measurement of the base."""

    learning_rate: float
    """Learning rate of AdamW at the start of each cycle, decayed to zero on a cosine: what is
    measured then is settled, while at a constant rate the shortcut's share sways from step to
    step."""

    cycle_steps: int
    """Optimizer steps of a cycle."""

    min_cycles: int
    """Cycles after which the stage may end: the Challenger needs them to unlearn long questions."""

    max_cycles: int
    """Cycles after which it ends, whatever is measured."""

    mixture: Mixture
    """The documents of the first cycle."""

    targets: tuple[tuple[int, float], ...]
    """(number of operations, accuracy) towards which the mixture is steered."""

    windows: tuple[Window, ...]
    """The stage ends as soon as all of them hold. Their lengths are among the targets'."""

    shortcut_gain: float
    """By how much the probability of the shortcut at a length is raised, for each unit that the
    accuracy is above its target."""

    max_shortcut: float
    """The largest probability of the shortcut at a length that is steered."""

    weight_gain: float
    """By how much the logarithm of a length's weight is raised, for each unit that the accuracy is
    below its target."""

    min_weight_factor: float
    max_weight_factor: float
    """The least and largest weight of a length, in multiples of the first cycle's."""

    num_problems: int
    """Problems of each length in a measurement. They are fixed, and none of them is held out."""

    num_samples: int
    """Answers that are sampled to each."""

    def __post_init__(self) -> None:
        if not 1 <= self.min_cycles <= self.max_cycles:
            raise ValueError(
                f"min_cycles must be from 1 to max_cycles={self.max_cycles}, got {self.min_cycles}"
            )
        aimed_at = {length for length, _ in self.targets}
        for window in self.windows:
            if not set(window.lengths) <= aimed_at:
                raise ValueError(f"windows must be at lengths of the targets, got {window.lengths}")


def validation_questions(tuning: Tuning) -> dict[int, list[Question]]:
    """Return {length: questions}: the problems of a measurement, evenly of all plain families."""
    rng = random.Random(_VALIDATION_SEED)
    found: dict[int, list[Question]] = {}
    for length, _ in tuning.targets:
        of_length: dict[Question, None] = {}
        while len(of_length) < tuning.num_problems:
            family = PLAIN_FAMILIES[len(of_length) % len(PLAIN_FAMILIES)]
            question = sample_question(rng, family, length)
            if question.key not in banned_keys():
                of_length[question] = None
        found[length] = list(of_length)
    return found


def is_on_target(accuracies: Mapping[int, float], tuning: Tuning) -> bool:
    """Say whether {length: accuracy} lies in all windows."""
    return all(window.holds(accuracies) for window in tuning.windows)


def steer(mixture: Mixture, accuracies: Mapping[int, float], tuning: Tuning) -> Mixture:
    """Return the mixture of the next cycle, from the last one's and what was measured after it.

    A length at which the base is too good gets more shortcuts and fewer documents; one at which it
    is too weak fewer shortcuts and more documents.
    """
    shortcuts = list(mixture.shortcuts)
    weights = list(mixture.solver_weights)
    for length, target in tuning.targets:
        excess = accuracies[length] - target
        at = length - 2
        shortcut = shortcuts[at] + tuning.shortcut_gain * excess
        shortcuts[at] = min(max(shortcut, 0.0), tuning.max_shortcut)
        first = tuning.mixture.solver_weights[at]
        weight = weights[at] * math.exp(-tuning.weight_gain * excess)
        least, most = tuning.min_weight_factor * first, tuning.max_weight_factor * first
        weights[at] = min(max(weight, least), most)
    return replace(mixture, shortcuts=tuple(shortcuts), solver_weights=tuple(weights))
