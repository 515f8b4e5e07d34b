"""Estimates against simulation and brute force: nothing here knows how they are computed."""

from itertools import combinations

import numpy as np
import pytest

from rzero_ray.evaluation.scores import powers_of_two, score
from rzero_ray.evaluation.statistics import (
    Estimate,
    bootstrap_interval,
    estimate,
    estimate_difference,
    exact_interval,
    pass_at_k,
)
from tests.unit.builders import answered

NUM_BENCHMARKS = 2000


@pytest.mark.parametrize(
    ("num_problems", "k", "alpha", "beta"),
    [(30, 32, 0.3, 1.7), (40, 32, 0.6, 0.6), (100, 4, 2.0, 1.0)],
    ids=["as AIME, few ever solved", "as AMC, easy or hopeless", "as MATH-500"],
)
def test_the_interval_covers_the_known_pass_rate(
    num_problems: int, k: int, alpha: float, beta: float
):
    """Each problem's pass rate is drawn from a beta distribution whose mean is known."""
    rng = np.random.default_rng(0)
    rates = rng.beta(alpha, beta, size=(NUM_BENCHMARKS, num_problems))
    means = rng.binomial(k, rates) / k
    truth = alpha / (alpha + beta)
    intervals = np.array([bootstrap_interval(row, seed) for seed, row in enumerate(means)])
    coverage = np.mean((intervals[:, 0] <= truth) & (truth <= intervals[:, 1]))
    assert 0.93 <= coverage <= 0.97


def test_an_exact_interval_covers_shares_near_zero():
    rng = np.random.default_rng(0)
    right = rng.binomial(30, 0.02, size=NUM_BENCHMARKS)
    bounds = {int(n): exact_interval(int(n), 30) for n in set(right)}
    assert np.mean([bounds[int(n)][0] <= 0.02 <= bounds[int(n)][1] for n in right]) >= 0.95
    assert exact_interval(0, 30) == pytest.approx((0.0, 1 - 0.025 ** (1 / 30)))
    assert exact_interval(30, 30) == pytest.approx((0.025 ** (1 / 30), 1.0))


def test_an_estimate_is_exact_where_all_are_alike_and_else_a_bootstrap():
    scores = [1.0] * 8 + [0.0] * 2
    assert estimate(scores, seed=1) == Estimate(0.8, *bootstrap_interval(scores, seed=1))
    assert estimate([0.0] * 30, seed=1) == Estimate(0.0, *exact_interval(0, 30))
    assert estimate([1.0] * 30, seed=1) == Estimate(1.0, *exact_interval(30, 30))


def test_a_difference_is_paired():
    base = [0.0, 0.25, 0.5, 0.75]
    of = estimate_difference([b + 0.25 for b in base], base, seed=0)
    assert of == Estimate(0.25, 0.25, 0.25)  # the problems differ, the gains do not
    assert estimate_difference(base, base, seed=0) == Estimate(0.0, 0.0, 0.0)
    of = estimate_difference([1.0, 0.5, 0.5, 1.0], base, seed=0)
    assert of.low < of.value == 0.375 < of.high


@pytest.mark.parametrize("n", [1, 4, 7])
def test_pass_at_k_is_the_share_of_subsets_with_a_right_answer(n: int):
    for k in range(1, n + 1):
        for num_right in range(n + 1):
            samples = [True] * num_right + [False] * (n - num_right)
            subsets = list(combinations(samples, k))
            truth = sum(any(subset) for subset in subsets) / len(subsets)
            assert pass_at_k([num_right], n, k)[0] == pytest.approx(truth, abs=1e-12)
    with pytest.raises(ValueError, match="must lie in"):
        pass_at_k([0], n, n + 1)


def test_pass_at_k_is_exact_for_many_samples():
    # 1 - C(900, 100) / C(1000, 100), by logarithms of factorials
    from math import comb

    assert pass_at_k([100], 1000, 100)[0] == pytest.approx(1 - comb(900, 100) / comb(1000, 100))


def test_scores_count_what_they_say():
    problems = [
        answered("5", ("5", "5", "4", None), "5"),
        answered(None, ("4", None, None, "4"), "4"),
    ]
    of = score("amc", problems, seed=0)
    assert (of.num_problems, of.num_samples) == (2, 4)
    assert of.greedy.value == 0.5
    assert of.mean_at_k.value == 0.25
    assert of.maj_at_k.value == 0.5
    assert of.pass_at == pytest.approx({1: 0.25, 2: (1 - 1 / 6) / 2, 4: 0.5})
    assert of.unanswered == 3 / 8
    assert of.greedy_unanswered == of.greedy_truncated == 0.5
    assert of.truncated == 0.25
    assert of.mean_tokens == 1.5
    assert powers_of_two(6) == [1, 2, 4, 6]


def test_a_benchmark_that_nobody_solves_still_has_an_interval():
    of = score("aime24", [answered("4", ("4",), "4")] * 30, seed=0)
    assert (of.mean_at_k.value, of.mean_at_k.low) == (0.0, 0.0)
    assert of.mean_at_k.high == pytest.approx(0.1157, abs=1e-4)
