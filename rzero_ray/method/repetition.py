"""How repetitive a batch of questions is: the paper's BLEU-cluster penalty, as matrix products.

Source: R-Zero (arXiv 2508.05004) section 3: d_ij = 1 - BLEU(x_i, x_j), agglomerative clustering
with average linkage and threshold tau = 0.5, and r_rep = lambda |C_k| / B. This module returns
|C_k| / B for each question.

BLEU is sentence BLEU as nltk's `sentence_bleu` with smoothing method 1 and uniform 4-gram weights
computes it: clipped n-gram precisions, epsilon 0.1 for an order without a match, brevity penalty
against the reference, zero when no word matches. nltk takes 0.2 ms a pair, minutes for a batch of
2,048; here one sparse matrix product per order gives all pairs.

Shapes: N questions, F n-gram features.
"""

from collections.abc import Callable, Sequence

import numpy as np
from scipy import sparse
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform

from rzero_ray.tasks.words import split_words
from rzero_ray.types import RepetitionRule

MAX_ORDER = 4
"""Longest n-gram of BLEU."""

EPSILON = 0.1
"""Smoothing method 1 (Chen and Cherry 2014): the match count used for an order without a match."""

_DENSE_COLUMN_SHARE = 1 / 16
"""Features in more than this share of the questions are multiplied densely: there BLAS beats a
sparse product."""

Tokenizer = Callable[[str], list[str]]


def bleu_matrix(questions: Sequence[str], tokenize: Tokenizer = str.split) -> np.ndarray:
    """Return BLEU of all pairs, [N, N] float64: row = hypothesis, column = reference.

    Entry (i, j) equals nltk's `sentence_bleu([tokens_j], tokens_i, smoothing_function=method1)`.
    The diagonal is 1 only for four or more tokens, as in nltk. Memory is about 24 bytes per entry
    (100 MB for N = 2,048).
    """
    return _bleu([tokenize(question) for question in questions])


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


REPETITION_RULES: dict[RepetitionRule, Callable[[Sequence[str], float, Tokenizer], list[float]]] = {
    "symmetric": cluster_shares,
    "official": cluster_shares_official,
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


def _cluster_ids(
    questions: Sequence[str],
    distance_threshold: float,
    tokenize: Tokenizer,
    distances: Callable[[list[list[str]]], np.ndarray],
) -> np.ndarray:
    """Return [N] cluster numbers; a question without tokens has one of its own."""
    if not (np.isfinite(distance_threshold) and distance_threshold >= 0):
        raise ValueError(f"distance_threshold must be finite and >= 0, got {distance_threshold}")
    ids_N = np.arange(len(questions))
    tokens = [tokenize(question) for question in questions]
    filled = [index for index, words in enumerate(tokens) if words]
    if len(filled) > 1:
        distances_NN = distances([tokens[index] for index in filled])
        tree = linkage(squareform(distances_NN, checks=False), method="average")
        # fcluster merges at the threshold, scikit-learn (which the official code uses) only below
        # it.
        strictly_below = np.nextafter(distance_threshold, -np.inf)
        labels_N = fcluster(tree, t=strictly_below, criterion="distance")
        # The numbers of the filled questions start where those of the empty ones end.
        ids_N[filled] = len(questions) + labels_N
    return ids_N


def _symmetric_distances(tokens: list[list[str]]) -> np.ndarray:
    bleu_NN = _bleu(tokens)
    distances_NN = 1.0 - (bleu_NN + bleu_NN.T) / 2.0
    texts: dict[tuple[str, ...], int] = {}
    text_N = np.array([texts.setdefault(tuple(words), len(texts)) for words in tokens])
    distances_NN[text_N[:, None] == text_N[None, :]] = 0.0
    return distances_NN


def _official_distances(tokens: list[list[str]]) -> np.ndarray:
    upper_NN = np.triu(1.0 - _bleu(tokens), k=1)
    return upper_NN + upper_NN.T


def _bleu(tokens: list[list[str]]) -> np.ndarray:
    num_questions = len(tokens)
    lengths_N = np.array([len(words) for words in tokens], dtype=np.int64)
    log_bleu_NN = np.zeros((num_questions, num_questions))
    unigram_matches_NN = np.zeros((num_questions, num_questions), dtype=np.float32)
    for order, (question_F, gram_F) in enumerate(_ngrams(tokens), start=1):
        matches_NN = _clipped_matches(question_F, gram_F, num_questions)
        if order == 1:
            unigram_matches_NN = matches_NN
        num_grams_N = np.maximum(1, lengths_N - order + 1)
        log_bleu_NN += np.log(np.where(matches_NN == 0, EPSILON, matches_NN.astype(np.float64)))
        log_bleu_NN -= np.log(num_grams_N)[:, None]
    log_bleu_NN /= MAX_ORDER
    log_bleu_NN += _log_brevity_penalty(lengths_N)
    return np.where(unigram_matches_NN == 0, 0.0, np.exp(log_bleu_NN))


def _log_brevity_penalty(lengths_N: np.ndarray) -> np.ndarray:
    """min(0, 1 - reference / hypothesis) for each pair."""
    hypothesis_N = np.maximum(1, lengths_N)  # an empty hypothesis matches nothing and is 0 anyway
    return np.minimum(0.0, 1.0 - lengths_N[None, :] / hypothesis_N[:, None])


def _ngrams(tokens: list[list[str]]) -> list[tuple[np.ndarray, np.ndarray]]:
    """For each order: (question index, n-gram id) of every n-gram occurrence in the batch."""
    vocabulary: dict[str, int] = {}
    word_F = np.array(
        [vocabulary.setdefault(word, len(vocabulary)) for words in tokens for word in words],
        dtype=np.int64,
    )
    question_F = np.repeat(np.arange(len(tokens)), [len(words) for words in tokens])
    gram_F = word_F
    result = [(question_F, gram_F)]
    for order in range(2, MAX_ORDER + 1):
        # An n-gram is an (n-1)-gram and the word after it; renumbering keeps the product of ids
        # small.
        tail_F = word_F[order - 1 :]
        pair_F = gram_F[: len(tail_F)] * max(1, len(vocabulary)) + tail_F
        gram_F = np.unique(pair_F, return_inverse=True)[1].reshape(-1)
        is_inside_F = question_F[: len(tail_F)] == question_F[order - 1 :]
        result.append((question_F[: len(tail_F)][is_inside_F], gram_F[is_inside_F]))
    return result


def _clipped_matches(question_F: np.ndarray, gram_F: np.ndarray, num_questions: int) -> np.ndarray:
    """Return sum over n-grams of min(count in i, count in j), [N, N] float32 (exact: counts are far
    below 2**24).

    The k-th occurrence of an n-gram in a question is a feature of its own, (n-gram, k). Two
    questions share exactly min(count, count) of those, so clipping becomes a product of 0/1
    matrices.
    """
    shape = (num_questions, num_questions)
    if not len(gram_F):
        return np.zeros(shape, dtype=np.float32)
    order_F = np.lexsort((gram_F, question_F))
    question_F, gram_F = question_F[order_F], gram_F[order_F]
    starts_run_F = np.ones(len(gram_F), dtype=bool)
    starts_run_F[1:] = (gram_F[1:] != gram_F[:-1]) | (question_F[1:] != question_F[:-1])
    position_F = np.arange(len(gram_F))
    occurrence_F = position_F - np.maximum.accumulate(np.where(starts_run_F, position_F, 0))

    _, feature_F, share_F = np.unique(
        gram_F * (occurrence_F.max() + 1) + occurrence_F, return_inverse=True, return_counts=True
    )
    presence_NF = sparse.csc_array(
        (np.ones(len(feature_F), dtype=np.float32), (question_F, feature_F.reshape(-1))),
        shape=(num_questions, len(share_F)),
    )
    is_common_F = share_F > max(1, num_questions * _DENSE_COLUMN_SHARE)
    common_NF = presence_NF[:, is_common_F].toarray()
    # A feature of one question alone only adds to the diagonal, which is the number of its n-grams.
    rare_NF = presence_NF[:, ~is_common_F & (share_F > 1)].tocsr()
    matches_NN = common_NF @ common_NF.T
    matches_NN += (rare_NF @ rare_NF.T).toarray()
    np.fill_diagonal(matches_NN, np.bincount(question_F, minlength=num_questions))
    return matches_NN
