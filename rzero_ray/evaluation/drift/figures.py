"""How far a run has moved from where it began, in figures that a person can judge.

Pure functions on what the run has stored; `monitor.py` calls them once an iteration. Each figure
that has a threshold in the configuration (`DriftConfig`) stands in `THRESHOLDS`.
"""

from __future__ import annotations

import unicodedata
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from rzero_ray.config.audits import DriftConfig
from rzero_ray.run.rows import is_beyond, mean

T = TypeVar("T")
Words = Callable[[str], list[str]]
"""Splits a text into words, as a task does it."""

REFUSALS = (
    "i cannot",
    "i can't",
    "i can not",
    "i'm sorry",
    "i am sorry",
    "i apologize",
    "i'm unable",
    "i am unable",
    "i won't",
    "as an ai",
    "as a language model",
    "cannot assist",
    "can't assist",
    "抱歉",
    "对不起",
    "我无法",
    "我不能",
)
"""Phrases of a refusal, lower case; an answer that holds one of them counts. `I cannot find` in an
honest derivation counts too: the share is a monitor, read beside the answers."""

MAX_CHARS = 4_000
"""How many characters of a text are looked at: a text of megabytes must cost nothing."""
MIN_DEGENERATE_BYTES = 64
"""A text that is shorter than this is never called degenerate."""
MAX_COMPRESSION = 5.0
"""A text that zlib makes this many times smaller is degenerate: prose and derivations get two to
three times smaller, a loop tens of times."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KlEstimate:
    """An estimate of KL(policy || base), in nats per token, from samples of the policy."""

    value: float
    """The mean of log policy - log base over the tokens (the unbiased estimator k1)."""
    standard_error: float
    """The standard error of that mean, with sequences taken as independent."""
    num_tokens: int
    """How many tokens the mean is over."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class WrittenAnswer:
    """The fields of a `SolverSample` that the figures are of."""

    token_ids: NDArray[np.int32]
    text: str
    answer: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerFigures:
    """What is measured of the Solver's answers of one step."""

    answer_tokens: float
    """The mean length of an answer."""
    unanswered: float
    """The share of answers without a box."""
    truncated: float
    """The share of answers of `max_tokens`: the limit cut them, or they ended exactly there."""
    refusals: float
    """The share of answers for which `is_refusal` holds."""
    degenerate: float
    """The share of answers for which `is_degenerate` holds."""
    answer_scripts: dict[str, float]
    """The share of the answers' letters that belongs to each script."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QuestionFigures:
    """What is measured of the well-formed questions of one curriculum."""

    distinct_1: float
    """Different words per word of all questions together; it falls with the number of questions."""
    distinct_2: float
    """Different pairs of words per pair of words, as `distinct_1`."""
    distinct_3: float
    """Different triples of words per triple of words, as `distinct_1`."""
    clusters: float
    """The number of BLEU clusters per question; 1 where no two questions are alike."""
    gini: float
    """The Gini coefficient of the clusters' sizes."""
    question_scripts: dict[str, float]
    """The share of the questions' letters that belongs to each script."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Threshold:
    """A figure of a run, and the configured value that limits it."""

    figure: str
    """The key of the figure in a row of `metrics.jsonl`."""
    key: str
    """The key of `DriftConfig`, which begins with `max_` or `min_`."""

    def limit(self, config: DriftConfig) -> float:
        """Return the largest or smallest value that the figure may have."""
        return getattr(config, self.key)

    def is_crossed(self, row: Mapping[str, Any], config: DriftConfig) -> bool:
        """Return whether the row's figure lies beyond the limit; one that is missing does not."""
        return is_beyond(row.get(self.figure), self.key, self.limit(config))


THRESHOLDS = tuple(
    Threshold(figure=figure, key=key)
    for figure, key in (
        ("kl_solver", "max_kl"),
        ("kl_challenger", "max_kl"),
        ("answer_length_ratio", "min_length_ratio"),
        ("answer_length_ratio", "max_length_ratio"),
        ("unanswered", "max_unanswered"),
        ("truncated", "max_truncated"),
        ("answer_script_change", "max_script_change"),
        ("question_script_change", "max_script_change"),
        ("refusals", "max_refusals"),
        ("degenerate", "max_degenerate"),
        ("distinct_ratio", "min_distinct_ratio"),
        ("clusters", "min_clusters"),
        ("gini", "max_gini"),
    )
)
"""Every figure that has a limit; one with two limits stands here twice."""


def crossed(row: Mapping[str, Any], config: DriftConfig) -> list[Threshold]:
    """Return the thresholds that a row of metrics crosses."""
    return [threshold for threshold in THRESHOLDS if threshold.is_crossed(row, config)]


def kl_to_base(
    policy_logprobs: Sequence[NDArray[np.float32]], base_logprobs: Sequence[NDArray[np.float32]]
) -> KlEstimate:
    """Estimate KL(policy || base) per token; both hold [T] nats of the same tokens per sequence.

    k1 rather than the non-negative k3: it stays unbiased where the base gives weight to tokens that
    the policy's sampler cuts off, and its variance does not explode where the two are far apart.
    With no token the estimate is 0.
    """
    pairs = zip(policy_logprobs, base_logprobs, strict=True)
    sums = np.array([float(np.sum(p.astype(np.float64) - b)) for p, b in pairs])
    lengths = np.array([len(logprobs) for logprobs in base_logprobs], dtype=np.float64)
    num_tokens = lengths.sum()
    if num_tokens == 0:
        return KlEstimate(value=0.0, standard_error=0.0, num_tokens=0)
    value = sums.sum() / num_tokens
    # A ratio of two means over sequences: by the delta method the residuals carry its error.
    error = np.sqrt(np.sum((sums - value * lengths) ** 2)) / num_tokens
    return KlEstimate(value=float(value), standard_error=float(error), num_tokens=int(num_tokens))


def answer_figures(samples: Sequence[WrittenAnswer], max_tokens: int) -> AnswerFigures:
    """Measure answers that were sampled with a limit of `max_tokens`."""
    return AnswerFigures(
        answer_tokens=mean([len(s.token_ids) for s in samples]),
        unanswered=mean([s.answer is None for s in samples]),
        truncated=mean([len(s.token_ids) >= max_tokens for s in samples]),
        refusals=mean([is_refusal(s.text) for s in samples]),
        degenerate=mean([is_degenerate(s.text) for s in samples]),
        answer_scripts=script_shares(s.text for s in samples),
    )


def question_figures(
    questions: Sequence[str], cluster_ids: Sequence[int], words: Words
) -> QuestionFigures:
    """Measure the diversity of questions, of which number k is in cluster `cluster_ids[k]`."""
    texts = [words(question) for question in questions]
    sizes = list(Counter(cluster_ids).values())
    return QuestionFigures(
        distinct_1=distinct_share(texts, 1),
        distinct_2=distinct_share(texts, 2),
        distinct_3=distinct_share(texts, 3),
        clusters=len(sizes) / len(questions) if questions else 0.0,
        gini=gini(sizes),
        question_scripts=script_shares(questions),
    )


def distinct_share(texts: Iterable[Sequence[str]], order: int) -> float:
    """Return distinct n-grams over all n-grams of the texts together (distinct-n, Li et al. 2016).

    0 where no text has as many words.
    """
    grams = [tuple(words[i : i + order]) for words in texts for i in range(len(words) - order + 1)]
    return len(set(grams)) / len(grams) if grams else 0.0


def gini(sizes: Sequence[float]) -> float:
    """Return the Gini coefficient, from 0 (all equal) to 1 - 1/n (one has everything)."""
    ordered = np.sort(np.asarray(sizes, dtype=np.float64))
    count, total = len(ordered), ordered.sum()
    if total == 0:
        return 0.0
    ranks = 2 * np.arange(1, count + 1) - count - 1
    return float(np.sum(ranks * ordered) / (count * total))


def script_shares(texts: Iterable[str]) -> dict[str, float]:
    """Return the share of the letters by script, such as {"LATIN": .98, "CJK": .02}; most first.

    The script of a letter is the first word of its Unicode name (Unicode has a property of its own
    for it, which Python does not carry; mathematical letters count as MATHEMATICAL here).
    """
    chars: Counter[str] = Counter()
    for text in texts:
        chars.update(text[:MAX_CHARS])
    counts: Counter[str] = Counter()
    for char, count in chars.items():
        counts[_script(char)] += count
    del counts[""]
    total = counts.total()
    return {script: count / total for script, count in counts.most_common()}


def script_change(first: Mapping[str, float], now: Mapping[str, float]) -> float | None:
    """Return the total variation distance between two mixes of scripts; 1 has none in common.

    None where one of the two has no letter at all.
    """
    if not (first and now):
        return None
    return sum(abs(first.get(s, 0.0) - now.get(s, 0.0)) for s in {*first, *now}) / 2


def is_refusal(text: str) -> bool:
    """Say whether the text holds a phrase of `REFUSALS`."""
    folded = text[:MAX_CHARS].casefold().replace("’", "'")
    return any(phrase in folded for phrase in REFUSALS)


def is_degenerate(text: str) -> bool:
    """Say whether the end of a text repeats itself: zlib makes it `MAX_COMPRESSION` times smaller.

    Only the last `MAX_CHARS` characters count, where a loop goes on until the limit cuts it. Below
    `MIN_DEGENERATE_BYTES` nothing is degenerate.
    """
    data = text[-MAX_CHARS:].encode("utf-8", errors="replace")
    if len(data) < MIN_DEGENERATE_BYTES:
        return False
    return len(data) >= MAX_COMPRESSION * len(zlib.compress(data))


def spread(items: Sequence[T], count: int) -> list[T]:
    """Return at most `count` items, evenly spread over the sequence, in its order."""
    if len(items) <= count:
        return list(items)
    return [items[k * len(items) // count] for k in range(count)]


def _script(char: str) -> str:
    """Return the script of a letter, "" for anything else."""
    return unicodedata.name(char, "").partition(" ")[0] if char.isalpha() else ""
