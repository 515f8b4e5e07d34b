"""How new a question is, against those that the Challenger has asked before.

R-Zero's penalty looks at one batch, so a Challenger may ask in every batch what it asked in the
last. A memory of earlier questions sees that. The words of a question are a vector of their counts,
and similarity is the cosine of two: no model of embeddings is needed.

Shapes: N questions, B remembered ones, W different words.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from rzero_ray.types import NoveltyRule


@dataclass(frozen=True, slots=True)
class Recall:
    """What a memory says of one question."""

    nearest: float = 0.0
    """The greatest similarity to a remembered question, in [0, 1]; 0 without a memory."""
    typical: float = 0.0
    """The mean similarity to all of them."""
    crowding: float = 0.0
    """How many remembered questions have its skeleton, over the mean of all skeletons there."""


_AT_ONCE = 64
"""Questions that are held against a memory together: 50 MB for 100,000 remembered ones."""

NO_RECALL = Recall()
"""What there is to say without a memory."""


def recall(
    questions: Sequence[str],
    remembered: Sequence[str],
    words: Callable[[str], list[str]],
    skeleton: Callable[[str], str],
) -> list[Recall]:
    """Return per question what a memory of `remembered` says of it."""
    if not questions or not remembered:
        return [NO_RECALL for _ in questions]
    both_NW = _unit_rows([words(question) for question in [*questions, *remembered]])
    new_NW, old_BW = both_NW[: len(questions)], both_NW[len(questions) :]
    nearest_N, typical_N = _similarities(new_NW, old_BW, len(questions))
    counts = Counter(skeleton(question) for question in remembered)
    usual = len(remembered) / len(counts)
    return [
        Recall(nearest, typical, counts[skeleton(question)] / usual)
        for question, nearest, typical in zip(questions, nearest_N, typical_N, strict=True)
    ]


def _similarities(
    new_NW: sparse.csr_array, old_BW: sparse.csr_array, num: int
) -> tuple[list[float], list[float]]:
    """Return `num` = N greatest and mean similarities to B rows, a few of N at a time.

    All at once are gigabytes for the largest memory, which takes a thread half a minute a step.
    """
    nearest_N: list[float] = []
    typical_N: list[float] = []
    for start in range(0, num, _AT_ONCE):
        part_NB = (new_NW[start : start + _AT_ONCE] @ old_BW.T).toarray()
        similarity_NB = np.clip(part_NB, 0.0, 1.0)
        nearest_N += similarity_NB.max(axis=1).tolist()
        typical_N += similarity_NB.mean(axis=1).tolist()
    return nearest_N, typical_N


def _unit_rows(texts: Sequence[Sequence[str]]) -> sparse.csr_array:
    """Return [N, W] counts of words, each row of length 1; a text without words is 0."""
    index: dict[str, int] = {}
    rows, columns, values = [], [], []
    for row, text in enumerate(texts):
        counts = Counter(text)
        length = math.sqrt(sum(count * count for count in counts.values()))
        for word, count in counts.items():
            rows.append(row)
            columns.append(index.setdefault(word, len(index)))
            values.append(count / length)
    shape = (len(texts), max(1, len(index)))
    data: NDArray[np.float64] = np.asarray(values, np.float64)
    return sparse.coo_array((data, (rows, columns)), shape=shape).tocsr()


def keep_reward(reward: float, recall: Recall) -> float:
    """Return the reward as it is: R-Zero has no memory."""
    return reward


def subtract_similarity(reward: float, recall: Recall) -> float:
    """Return reward - .5 [nearest - .5]+ - .5 [typical - .25]+.

    Source: R-Diverse's penalty against a persistent memory bank; from its README and notes, with
    cosines of word counts in the place of its embeddings.
    """
    return reward - 0.5 * max(0.0, recall.nearest - 0.5) - 0.5 * max(0.0, recall.typical - 0.25)


def multiply_by_coverage(reward: float, recall: Recall) -> float:
    """Return reward x (1 + 5 e^(-n / mean n)), n the remembered questions of its kind.

    Source: Prism's reward for kinds of questions that were asked seldom; from notes, not held
    against a source. Kinds are skeletons here, clusters of embeddings there.
    """
    return reward * (1.0 + 5.0 * math.exp(-recall.crowding))


NOVELTY_RULES: dict[NoveltyRule, Callable[[float, Recall], float]] = {
    "none": keep_reward,
    "similarity": subtract_similarity,
    "coverage": multiply_by_coverage,
}
"""What each value of `challenger.novelty` makes of a reward."""
