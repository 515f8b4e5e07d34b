"""Means over problems, and over base models, with their uncertainty: every interval that is
reported comes from here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

from rzero_ray.run.rows import mean

_NUM_RESAMPLES = 2000
"""How often the bootstrap resamples: the interval's own error is then far below its width."""
_MAX_PICKS = 4_000_000
"""How many draws of the bootstrap are held in memory at once."""
_DECIMALS = 12
"""Decimals of values over base models: the rest is rounding."""
_MOST_BASES = 10_000
"""The largest number of base models that is looked for."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over problems with its 95 % interval."""

    value: float
    low: float
    high: float


def estimate(scores_P: Sequence[float], seed: int) -> Estimate:
    """Return the mean of shares in [0, 1], one per problem, with its interval.

    The interval is a bootstrap over problems with random numbers from `seed`. Where all shares are
    0 or all are 1, no bootstrap sees any spread; there it is the exact interval of as many problems
    that are all wrong or all right.
    """
    value = mean(scores_P)
    if value in (0.0, 1.0):
        return Estimate(value, *exact_interval(round(value * len(scores_P)), len(scores_P)))
    return Estimate(value, *bootstrap_interval(scores_P, seed))


def estimate_difference(model_P: Sequence[float], base_P: Sequence[float], seed: int) -> Estimate:
    """Return the mean of model minus base over the same problems, with its interval.

    The interval is a bootstrap over the paired differences; where all are equal, it is that point.
    """
    gaps = [m - b for m, b in zip(model_P, base_P, strict=True)]
    return Estimate(mean(gaps), *bootstrap_interval(gaps, seed))


def bootstrap_interval(
    scores_P: Sequence[float], seed: int, confidence: float = 0.95
) -> tuple[float, float]:
    """Return the bootstrap confidence interval of the mean over problems.

    `scores_P` holds one mean per problem: samples of one problem are not independent, so whole
    problems are resampled. The mean is that of the population from which the problems are drawn.
    Plain percentiles are too narrow for 30 problems of which few are ever solved (92.5 % instead
    of 95); the bias-corrected and accelerated interval (Efron 1987, section 4) mends the skew, t
    quantiles (Hesterberg 2015, section 5.3) the size. Scores that are all equal give that point.
    """
    scores = np.asarray(scores_P, dtype=np.float64)
    deviations = scores - scores.mean()
    if scores.size < 2 or not deviations.any():
        return float(scores.mean()), float(scores.mean())
    means = _resampled_means(scores, seed)
    below = np.mean(means < scores.mean()) + np.mean(means == scores.mean()) / 2
    bias = special.ndtri(np.clip(below, 1 / means.size, 1 - 1 / means.size))
    acceleration = np.sum(deviations**3) / (6 * np.sum(deviations**2) ** 1.5)
    quantile = special.stdtrit(scores.size - 1, (1 + confidence) / 2)
    shifted = bias + np.array([-1, 1]) * quantile * np.sqrt(scores.size / (scores.size - 1))
    levels = special.ndtr(bias + shifted / np.maximum(1 - acceleration * shifted, 1e-9))
    low, high = np.percentile(means, 100 * levels)
    return float(low), float(high)


def _resampled_means(scores: NDArray[np.float64], seed: int) -> NDArray[np.float64]:
    """Return [resamples] means of `scores.size` draws with replacement, in bounded memory."""
    rng = np.random.default_rng(seed)
    rows = max(1, min(_NUM_RESAMPLES, _MAX_PICKS // scores.size))
    sizes = [rows] * (_NUM_RESAMPLES // rows) + [_NUM_RESAMPLES % rows]
    return np.concatenate(
        [scores[rng.integers(0, scores.size, (size, scores.size))].mean(axis=1) for size in sizes]
    )


def exact_interval(num_right: int, num: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return the Clopper-Pearson interval of a share; it holds where a bootstrap sees no spread."""
    tail = (1 - confidence) / 2
    low = special.betaincinv(num_right, num - num_right + 1, tail) if num_right else 0.0
    high = special.betaincinv(num_right + 1, num - num_right, 1 - tail) if num_right < num else 1.0
    return float(low), float(high)


def pass_at_k(num_right: Sequence[int], num_samples: int, k: int) -> NDArray[np.float64]:
    """Return [P] unbiased estimates that one of k samples is right: 1 - C(n - c, k) / C(n, k).

    `num_right` holds per problem the right ones, c, of its n = `num_samples`. Source: Chen et al.
    2021 (arXiv 2107.03374), equation 1. ValueError unless 1 <= k <= n.
    """
    if not 1 <= k <= num_samples:
        raise ValueError(f"k={k} must lie in 1..{num_samples}")
    wrong = num_samples - np.asarray(num_right, dtype=np.int64)
    # C(w, k) / C(n, k) as a product of shares, each at most 1: no binomial overflows.
    misses = np.maximum(wrong[:, None] - np.arange(k), 0) / (num_samples - np.arange(k))
    return 1.0 - misses.prod(axis=1)


# Over base models.


@dataclass(frozen=True, slots=True, kw_only=True)
class MeanOverBases:
    """A mean over independent base models, and what a t test says of it."""

    num: int
    """How many there are."""
    value: float
    low: float | None
    """The lower end of the 95 % interval, by Student's t; None of a single one, as what follows."""
    high: float | None
    sd: float | None
    """The standard deviation over them."""
    p: float | None
    """Two-sided, of a mean of 0."""
    num_same_sign: int
    """How many have the sign of the mean."""


def mean_over_bases(values: Sequence[float], confidence: float = 0.95) -> MeanOverBases:
    """Return the mean of one value a base model with its t interval; ValueError where none is.

    Values that are all equal give that point, and a p of 0, or 1 where it is 0. They are rounded to
    twelve decimals, so that what sums round to is not taken for a difference.
    """
    if not values:
        raise ValueError("there is no value to take the mean of")
    found = np.round(np.asarray(values, dtype=np.float64), _DECIMALS)
    num, value = found.size, float(found.mean())
    same_sign = int(np.sum(np.sign(found) == np.sign(value)))
    if num < 2:
        return MeanOverBases(
            num=num, value=value, low=None, high=None, sd=None, p=None, num_same_sign=same_sign
        )
    sd = float(found.std(ddof=1)) if np.ptp(found) else 0.0
    error = sd / np.sqrt(num)
    width = float(special.stdtrit(num - 1, (1 + confidence) / 2) * error)
    if error > 0:
        p = float(2 * special.stdtr(num - 1, -abs(value) / error))
    else:
        p = float(value == 0)
    return MeanOverBases(
        num=num,
        value=value,
        low=value - width,
        high=value + width,
        sd=sd,
        p=p,
        num_same_sign=same_sign,
    )


def holm(ps: Sequence[float | None]) -> list[float | None]:
    """Return the p values adjusted for their number (Holm 1979), in the same order.

    One that is None stays so, but counts: it is a comparison that was planned.
    """
    adjusted: list[float | None] = [None] * len(ps)
    known = sorted((p, place) for place, p in enumerate(ps) if p is not None)
    largest = 0.0
    for rank, (p, place) in enumerate(known):
        largest = max(largest, min(1.0, (len(ps) - rank) * p))
        adjusted[place] = largest
    return adjusted


def bases_needed(difference: float, sd: float, power: float = 0.8, level: float = 0.05) -> int:
    """Return the least number of base models at which a two-sided paired t test of this level finds
    a true mean `difference` with this power, when paired differences spread by `sd`.

    `_MOST_BASES` stands for that many or more.
    """
    low, high = 1, 2
    while high < _MOST_BASES and _power(high, difference, sd, level) < power:
        low, high = high, min(2 * high, _MOST_BASES)
    while high - low > 1:
        middle = (low + high) // 2
        if _power(middle, difference, sd, level) < power:
            low = middle
        else:
            high = middle
    return high


def _power(num: int, difference: float, sd: float, level: float) -> float:
    """Return the probability that a paired t test of `num` differences rejects a mean of 0."""
    if sd == 0:
        return 1.0
    shift = abs(difference) * np.sqrt(num) / sd
    edge = special.stdtrit(num - 1, 1 - level / 2)
    above = 1.0 - special.nctdtr(num - 1, shift, edge)
    return float(above + special.nctdtr(num - 1, shift, -edge))
