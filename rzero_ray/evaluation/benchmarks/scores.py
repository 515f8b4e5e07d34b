"""What a benchmark's answers come to: scores with their uncertainty, and differences of models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from rzero_ray.evaluation.answering import AnsweredProblem
from rzero_ray.evaluation.statistics import bootstrap_interval, exact_interval, pass_at_k
from rzero_ray.run.rows import mean


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over problems with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchmarkScore:
    """One model on one benchmark. All shares are in [0, 1]."""

    benchmark: str
    num_problems: int
    num_samples: int
    """k."""
    greedy: Estimate
    mean_at_k: Estimate
    """Share of right ones among the k sampled answers."""
    pass_at: dict[int, float]
    """{j: probability that one of j samples is right}, j = 1, 2, 4, ... and k."""
    maj_at_k: Estimate
    greedy_unanswered: float
    """Share of greedy responses without an answer that can be read."""
    unanswered: float
    """The same of sampled ones."""
    greedy_truncated: float
    """Share of greedy responses that the length limit cut."""
    truncated: float
    mean_tokens: float
    """Of a sampled response."""
    greedy_mean_tokens: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """Model minus base on the same problems, its interval a bootstrap over paired problems."""

    benchmark: str
    greedy: Estimate
    mean_at_k: Estimate
    maj_at_k: Estimate


def score(benchmark: str, answered: Sequence[AnsweredProblem], seed: int) -> BenchmarkScore:
    """Return the scores of one benchmark; `seed` is the bootstrap's."""
    k = len(answered[0].answers)
    num_right = [sum(problem.correct) for problem in answered]
    return BenchmarkScore(
        benchmark=benchmark,
        num_problems=len(answered),
        num_samples=k,
        greedy=_estimate([float(p.greedy_correct) for p in answered], seed),
        mean_at_k=_estimate([right / k for right in num_right], seed),
        pass_at={j: mean(pass_at_k(num_right, k, j).tolist()) for j in powers_of_two(k)},
        maj_at_k=_estimate([float(p.majority_correct) for p in answered], seed),
        greedy_unanswered=mean([float(p.greedy_answer is None) for p in answered]),
        unanswered=mean([float(a is None) for p in answered for a in p.answers]),
        greedy_truncated=mean([float(p.greedy_truncated) for p in answered]),
        truncated=mean([float(cut) for p in answered for cut in p.truncated]),
        mean_tokens=float(np.mean([p.num_tokens.mean() for p in answered])),
        greedy_mean_tokens=mean([float(p.greedy_num_tokens) for p in answered]),
    )


def compare(
    benchmark: str,
    model: Sequence[AnsweredProblem],
    base: Sequence[AnsweredProblem],
    seed: int,
) -> Difference:
    """Return model minus base; both have answered the same problems in the same order."""
    pairs = list(zip(model, base, strict=True))
    assert all(m.question == b.question and m.reference == b.reference for m, b in pairs)

    def difference(of_model: list[float], of_base: list[float]) -> Estimate:
        gaps = [m - b for m, b in zip(of_model, of_base, strict=True)]
        return Estimate(mean(gaps), *bootstrap_interval(gaps, seed))

    return Difference(
        benchmark=benchmark,
        greedy=difference(
            [float(p.greedy_correct) for p in model], [float(p.greedy_correct) for p in base]
        ),
        mean_at_k=difference([mean(p.correct) for p in model], [mean(p.correct) for p in base]),
        maj_at_k=difference(
            [float(p.majority_correct) for p in model], [float(p.majority_correct) for p in base]
        ),
    )


def powers_of_two(k: int) -> list[int]:
    """Return 1, 2, 4, ... up to k, and k itself."""
    return sorted({2**i for i in range(k.bit_length()) if 2**i <= k} | {k})


def to_plain(record: BenchmarkScore | Difference) -> dict[str, Any]:
    """Return a record as JSON can hold it."""
    return asdict(record)


def _estimate(scores_P: Sequence[float], seed: int) -> Estimate:
    """Return the mean of shares; where all are 0 or all 1, which no bootstrap can widen, the exact
    interval of as many problems all right or all wrong."""
    value = mean(scores_P)
    if value in (0.0, 1.0):
        return Estimate(value, *exact_interval(round(value * len(scores_P)), len(scores_P)))
    return Estimate(value, *bootstrap_interval(scores_P, seed))
