"""What answers come to: a model's scores with their uncertainty, and differences of two models."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from rzero_ray.evaluation.answering import AnsweredProblem
from rzero_ray.evaluation.statistics import Estimate, estimate, estimate_difference, pass_at_k
from rzero_ray.run.rows import mean


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchmarkScore:
    """What one model reaches on one benchmark; all shares are in [0, 1]."""

    benchmark: str
    num_problems: int
    num_samples: int
    """The number of sampled answers per problem, called k."""
    greedy: Estimate
    mean_at_k: Estimate
    """The share of right ones among the k sampled answers."""
    pass_at: dict[int, float]
    """{j: the probability that one of j samples is right}, for j = 1, 2, 4, ... and k."""
    maj_at_k: Estimate
    """The share of problems whose most frequent sampled answer is right."""
    greedy_unanswered: float
    """The share of greedy responses without an answer that can be read."""
    unanswered: float
    """The share of sampled responses without an answer that can be read."""
    greedy_truncated: float
    """The share of greedy responses that the length limit cut."""
    truncated: float
    """The share of sampled responses that the length limit cut."""
    mean_tokens: float
    """The mean length of a sampled response."""
    greedy_mean_tokens: float
    """The mean length of a greedy response."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """Model minus base on the same problems; the intervals are a bootstrap over paired problems."""

    benchmark: str
    greedy: Estimate
    mean_at_k: Estimate
    maj_at_k: Estimate


def score(benchmark: str, answered: Sequence[AnsweredProblem], seed: int) -> BenchmarkScore:
    """Return the scores of one benchmark; `seed` is that of the intervals' random numbers."""
    k = len(answered[0].answers)
    num_right = [sum(problem.correct) for problem in answered]
    return BenchmarkScore(
        benchmark=benchmark,
        num_problems=len(answered),
        num_samples=k,
        greedy=estimate([float(p.greedy_correct) for p in answered], seed),
        mean_at_k=estimate([right / k for right in num_right], seed),
        pass_at={j: mean(pass_at_k(num_right, k, j).tolist()) for j in powers_of_two(k)},
        maj_at_k=estimate([float(p.majority_correct) for p in answered], seed),
        greedy_unanswered=mean([float(p.greedy_answer is None) for p in answered]),
        unanswered=mean([float(a is None) for p in answered for a in p.answers]),
        greedy_truncated=mean([float(p.greedy_truncated) for p in answered]),
        truncated=mean([float(cut) for p in answered for cut in p.truncated]),
        mean_tokens=float(np.mean([p.num_tokens.mean() for p in answered])),
        greedy_mean_tokens=mean([float(p.greedy_num_tokens) for p in answered]),
    )


def difference(
    benchmark: str,
    model: Sequence[AnsweredProblem],
    base: Sequence[AnsweredProblem],
    seed: int,
) -> Difference:
    """Return model minus base; both have answered the same problems in the same order.

    `seed` is that of the intervals' random numbers.
    """
    pairs = list(zip(model, base, strict=True))
    assert all(m.question == b.question and m.reference == b.reference for m, b in pairs)

    def of(figure: Callable[[AnsweredProblem], float]) -> Estimate:
        return estimate_difference([figure(p) for p in model], [figure(p) for p in base], seed)

    return Difference(
        benchmark=benchmark,
        greedy=of(lambda problem: float(problem.greedy_correct)),
        mean_at_k=of(lambda problem: mean(problem.correct)),
        maj_at_k=of(lambda problem: float(problem.majority_correct)),
    )


def powers_of_two(k: int) -> list[int]:
    """Return 1, 2, 4, ... up to k, and k itself."""
    return sorted({2**i for i in range(k.bit_length()) if 2**i <= k} | {k})


def to_plain(record: BenchmarkScore | Difference) -> dict[str, Any]:
    """Return a record as JSON can hold it."""
    return asdict(record)
