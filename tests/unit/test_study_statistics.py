"""Means over base models: held against tables and values that were worked out by hand."""

import pytest
from scipy import stats

from rzero_ray.evaluation.statistics import bases_needed, holm, mean_over_bases


def test_a_t_interval_is_that_of_the_tables():
    found = mean_over_bases([0.01, 0.02, 0.03, 0.04, 0.05])
    # sd = .015811, divided by sqrt(5) = .0070711; t(.975, 4) = 2.7764; t = 4.2426
    assert (found.num, found.value, found.num_same_sign) == (5, pytest.approx(0.03), 5)
    assert found.sd == pytest.approx(0.0158114, abs=1e-7)
    assert found.low == pytest.approx(0.03 - 2.776445 * 0.00707107, abs=1e-7)
    assert found.high == pytest.approx(0.03 + 2.776445 * 0.00707107, abs=1e-7)
    assert found.p == pytest.approx(0.0132, abs=5e-5)


def test_p_and_interval_agree_with_a_library():
    values = [0.024, 0.021, 0.034, 0.005, -0.017]
    found, theirs = mean_over_bases(values), stats.ttest_1samp(values, 0.0)
    assert found.p == pytest.approx(theirs.pvalue)
    assert (found.low, found.high) == pytest.approx(tuple(theirs.confidence_interval()))
    assert found.num_same_sign == 4


def test_one_base_has_no_interval_and_none_is_refused():
    found = mean_over_bases([-0.5])
    assert (found.num, found.value, found.num_same_sign) == (1, -0.5, 1)
    assert found.low is found.high is found.sd is found.p is None
    with pytest.raises(ValueError):
        mean_over_bases([])


@pytest.mark.parametrize(("values", "p"), [([0.5, 0.5, 0.5], 0.0), ([0.0, 0.0], 1.0)])
def test_equal_values_are_a_point(values: list[float], p: float):
    found = mean_over_bases(values)
    assert (found.low, found.value, found.high, found.sd, found.p) == (*values[:1] * 3, 0.0, p)


def test_holm_steps_down_and_never_falls():
    # ordered .01 x 4, .02 x 3 = .06, .03 x 2 = .06 (as large as the one before), .9 x 1
    assert holm([0.03, 0.9, 0.01, 0.02]) == pytest.approx([0.06, 0.9, 0.04, 0.06])
    assert holm([0.6, 0.5]) == [1.0, 1.0]
    assert holm([]) == []


def test_a_comparison_without_a_value_counts_all_the_same():
    assert holm([None, 0.02, None]) == [None, pytest.approx(0.06), None]


def test_the_number_of_bases_is_the_least_with_that_power():
    # As tables of paired, two-sided tests have it: 15 for an effect of .8, 34 for .5.
    assert bases_needed(0.02, 0.025) == 15
    assert bases_needed(0.01, 0.02) == 34
    assert bases_needed(-0.02, 0.025) == 15


def test_the_number_of_bases_agrees_with_a_simulation():
    num = bases_needed(0.02, 0.03)
    draws = stats.norm.rvs(0.02, 0.03, size=(20_000, num), random_state=1)
    power = float((stats.ttest_1samp(draws, 0.0, axis=1).pvalue < 0.05).mean())
    assert power == pytest.approx(0.8, abs=0.03) and power > 0.79


def test_no_spread_needs_two_and_any_spread_an_end():
    assert bases_needed(0.02, 0.0) == 2
    assert bases_needed(0.02, 1e6) == 10_000
    assert bases_needed(0.02, 1e-12) == 2


def test_what_sums_round_to_is_no_difference():
    """0.1 + 0.2 is not 0.3 to a machine: two arms that are equal must not differ for sure."""
    rounding = mean_over_bases([0.1 + 0.2 - 0.3, 0.2 + 0.1 - 0.3])
    assert (rounding.value, rounding.p) == (0.0, 1.0)
    equal = mean_over_bases([0.1, 0.1, 0.1])
    assert (equal.sd, equal.p) == (0.0, 0.0)
    assert equal.low == equal.high == pytest.approx(0.1)
