"""How repetitive a batch of questions is: the paper's BLEU-cluster penalty, as matrix products.

Source: R-Zero (arXiv 2508.05004) section 3: d_ij = 1 - BLEU(x_i, x_j), agglomerative clustering
with average linkage and threshold tau = 0.5, and r_rep = lambda |C_k| / B. This module returns
|C_k| / B for each question.

BLEU is that of `bleu`. Of most pairs it is enough to know that they are far apart: two clusters
merge under average linkage below tau only if some pair of theirs is below tau. So the pairs below
tau are found block by block, which make a sparse graph, and only its connected components are
clustered. The result is that of clustering all pairs, except that either may merge another one of
pairs at exactly the same distance first. The memory grows with the largest component
(16 bytes a pair) and not with the batch.

Shapes: N questions, R and C the questions of a block's rows and columns, P pairs.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import DTypeLike, NDArray
from scipy import sparse
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.sparse.csgraph import connected_components

from rzero_ray.method.bleu import BleuIndex
from rzero_ray.tasks.words import split_words
from rzero_ray.types import RepetitionRule

_BLOCK_ENTRIES = 1 << 22
"""Pairs that are compared at a time."""
_SLACK = 1e-4
"""By how much a distance in single precision may be off: far more than it is, some 1e-6."""

Tokenizer = Callable[[str], list[str]]


def bleu_matrix(questions: Sequence[str], tokenize: Tokenizer = str.split) -> np.ndarray:
    """Return BLEU of all pairs, [N, N] float64: row = hypothesis, column = reference.

    Entry (i, j) equals nltk's `sentence_bleu([tokens_j], tokens_i, smoothing_function=method1)`.
    The diagonal is 1 only for four or more tokens, as in nltk. Memory is some 50 bytes per entry.
    """
    every = slice(0, len(questions))
    return BleuIndex.of(tokenize(question) for question in questions).bleu(every, every)[0]


def cluster_shares(
    questions: Sequence[str], distance_threshold: float, tokenize: Tokenizer = split_words
) -> list[float]:
    """Return for each question the share of the batch, in (0, 1], that lies in its cluster.

    Distance is 1 minus the mean of both BLEU directions, because BLEU is not symmetric and the
    paper does not choose; questions with equal tokens are at distance 0 whatever their length.
    Words are those of `tasks.words` in every script. Questions without words are alone. Two
    clusters merge while their average distance is below `distance_threshold` (ValueError when
    negative or not finite).
    """
    return _shares(_cluster_ids(questions, distance_threshold, tokenize, _symmetric_distances))


def cluster_shares_official(
    questions: Sequence[str], distance_threshold: float, tokenize: Tokenizer = str.split
) -> list[float]:
    """Return what `cluster_shares` does, with the official code's distance: one direction of BLEU,
    the earlier question as hypothesis.

    Words are what white space parts. The result depends on the order of the questions, and equal
    questions of fewer than four words do not count as equal.
    """
    return _shares(_cluster_ids(questions, distance_threshold, tokenize, _official_distances))


def skeleton_shares(
    questions: Sequence[str], distance_threshold: float, tokenize: Tokenizer
) -> list[float]:
    """Return for each question the share of the batch that has the same tokens, in (0, 1].

    `tokenize` gives the form of a question (`protocols.Task.skeleton`) as its one token, so that
    questions of one template with other numbers are equal. No words are compared and
    `distance_threshold` is not read.
    """
    forms = [tuple(tokenize(question)) for question in questions]
    counts = Counter(forms)
    return [counts[form] / len(forms) for form in forms]


REPETITION_RULES: dict[RepetitionRule, Callable[[Sequence[str], float, Tokenizer], list[float]]] = {
    "symmetric": cluster_shares,
    "official": cluster_shares_official,
    "skeleton": skeleton_shares,
}
"""The shares of each value of `challenger.repetition_rule`."""


def cluster_ids(
    questions: Sequence[str], distance_threshold: float, tokenize: Tokenizer = split_words
) -> list[int]:
    """Return for each question the number of its cluster, by the clusters of `cluster_shares`.

    The numbers say which questions are together and mean nothing else.
    """
    ids_N = _cluster_ids(questions, distance_threshold, tokenize, _symmetric_distances)
    return ids_N.tolist()


def _shares(ids_N: np.ndarray) -> list[float]:
    if not len(ids_N):
        return []
    return (np.bincount(ids_N)[ids_N] / len(ids_N)).tolist()


Distances = Callable[[BleuIndex, slice, slice, DTypeLike], NDArray[np.floating]]
"""Distances [R, C] between the texts of two slices, of which the row's stands first."""


def _cluster_ids(
    questions: Sequence[str],
    distance_threshold: float,
    tokenize: Tokenizer,
    distances: Distances,
) -> np.ndarray:
    """Return [N] cluster numbers; a question without tokens has one of its own."""
    if not (np.isfinite(distance_threshold) and distance_threshold >= 0):
        raise ValueError(f"distance_threshold must be finite and >= 0, got {distance_threshold}")
    index = BleuIndex.of(tokenize(question) for question in questions)
    filled = np.flatnonzero(index.lengths_N)
    if len(filled) < len(questions):
        index = index.take(filled)
    component_N = _components(index, distance_threshold, distances)
    # The members of a component stand together, in the order that they have in the batch.
    order_N = np.argsort(component_N, kind="stable")
    sizes = np.bincount(component_N)
    is_alone_N = sizes[component_N[order_N]] == 1
    ids_N = np.arange(len(questions))
    together_N = order_N[~is_alone_N]
    sizes = sizes[sizes > 1]
    first_free, start = len(questions), 0
    for size, distances_P in zip(
        sizes, _condensed(index.take(together_N), sizes, distances), strict=True
    ):
        tree = linkage(distances_P, method="average")
        # fcluster merges at the threshold, scikit-learn (which the official code uses) only below
        # it.
        strictly_below = np.nextafter(distance_threshold, -np.inf)
        labels = fcluster(tree, t=strictly_below, criterion="distance")
        ids_N[filled[together_N[start : start + size]]] = first_free + labels
        first_free += size + 1
        start += size
    return ids_N


def _components(
    index: BleuIndex, distance_threshold: float, distances: Distances
) -> NDArray[np.int32]:
    """Return for each text the number of its component: texts that a chain of pairs joins, each
    nearer than the threshold."""
    count = len(index.lengths_N)
    first, second = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for rows in _blocks(count):
        near = distances(index, rows, slice(rows.start, count), np.float32)
        i, j = np.nonzero(near < distance_threshold + _SLACK)
        is_pair = i < j
        first.append(i[is_pair] + rows.start)
        second.append(j[is_pair] + rows.start)
    pairs = np.concatenate(first), np.concatenate(second)
    graph = sparse.coo_array((np.ones(len(pairs[0]), bool), pairs), shape=(count, count))
    return connected_components(graph, directed=False)[1]


def _condensed(
    index: BleuIndex, sizes: NDArray[np.int64], distances: Distances
) -> Iterator[NDArray[np.floating]]:
    """Yield the distances within each component as `linkage` takes them.

    `index` holds the components one after the other, of `sizes` texts each.
    """
    ends = np.repeat(np.cumsum(sizes), sizes)
    parts: list[NDArray[np.floating]] = []
    for rows in _blocks(len(ends)):
        columns = slice(rows.start, int(ends[rows.stop - 1]))
        block_RC = distances(index, rows, columns, np.float64)
        for row in range(rows.start, rows.stop):
            place = row - rows.start
            parts.append(block_RC[place, place + 1 : ends[row] - rows.start].copy())
            if row + 1 == ends[row]:
                whole, parts = np.concatenate(parts), []
                yield whole


def _blocks(count: int) -> Iterator[slice]:
    """Cut `count` rows so that each block has at most `_BLOCK_ENTRIES` entries."""
    height = max(1, min(512, _BLOCK_ENTRIES // max(1, count)))
    for start in range(0, count, height):
        yield slice(start, min(start + height, count))


def _symmetric_distances(
    index: BleuIndex, rows: slice, columns: slice, dtype: DTypeLike
) -> NDArray[np.floating]:
    forward_RC, backward_RC = index.bleu(rows, columns, dtype)
    distances_RC = 1.0 - (forward_RC + backward_RC) / 2.0
    distances_RC[index.text_N[rows][:, None] == index.text_N[columns][None, :]] = 0.0
    return distances_RC


def _official_distances(
    index: BleuIndex, rows: slice, columns: slice, dtype: DTypeLike
) -> NDArray[np.floating]:
    return 1.0 - index.bleu(rows, columns, dtype)[0]
