"""What a weight sync is held to, and what it must not pass."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest

from actors.weights.probe import Probe, WeightMismatchError
from rzero_ray.types import ProbeReport, WeightVersion

LEARNER = [np.linspace(-3.0, -1.0, 40, dtype=np.float32)]
VERSION = WeightVersion(role="solver", iteration=1, num_steps=3)


def probe(dtype: Literal["float32", "bfloat16"], bound: float = 0.05) -> Probe:
    return Probe([np.zeros(41, np.int32)], dtype, bound)


def off(made: Probe, difference: float, equal: tuple[str, ...] = ()) -> ProbeReport:
    """Compare an engine whose log-probabilities are all so far off."""
    return made.compare(LEARNER, {"solver/sampler-0": [LEARNER[0] + difference]}, VERSION, equal)


def test_before_equal_weights_were_seen_the_configured_bound_holds():
    made = probe("bfloat16")
    assert off(made, 0.04).bound == 0.05
    with pytest.raises(WeightMismatchError, match=r"solver-01-003.*0\.06 nats, allowed are 0\.05:"):
        off(made, 0.06)


def test_equal_weights_show_what_rounding_is_and_a_sync_far_above_it_is_refused():
    made = probe("bfloat16")
    assert off(made, 0.004, ("solver/sampler-0",)).bound == pytest.approx(0.016, rel=1e-3)
    assert off(made, 0.012).bound == pytest.approx(0.016, rel=1e-3)
    with pytest.raises(WeightMismatchError, match="4 times what equal weights have shown"):
        off(made, 0.02)  # below the bound that is configured


def test_other_engines_of_a_publication_are_held_to_what_equal_ones_show():
    scores = {"equal": [LEARNER[0] + 0.002], "lent": [LEARNER[0] + 0.03]}
    with pytest.raises(WeightMismatchError, match="lent does not sample"):
        probe("bfloat16").compare(LEARNER, scores, VERSION, {"equal"})


def test_the_bound_stays_between_a_tenth_of_the_configured_one_and_that():
    made = probe("bfloat16")
    assert off(made, 0.0, ("solver/sampler-0",)).bound == pytest.approx(0.005)
    assert off(made, 0.04, ("solver/sampler-0",)).bound == 0.05
    with pytest.raises(WeightMismatchError):
        off(made, 0.06, ("solver/sampler-0",))


def test_float32_keeps_its_bound_and_its_largest_difference():
    made = probe("float32", 1e-3)
    assert off(made, 1e-6, ("solver/sampler-0",)).bound == 1e-3
    single = [LEARNER[0].copy()]
    single[0][7] += 2e-3
    with pytest.raises(WeightMismatchError, match=r"0\.002 nats"):
        made.compare(LEARNER, {"solver/sampler-0": single}, VERSION)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_what_is_no_number_is_refused(dtype: Literal["float32", "bfloat16"]):
    with pytest.raises(WeightMismatchError, match="nan nats"):
        off(probe(dtype), float("nan"))
    with pytest.raises(WeightMismatchError, match="nan nats"):
        off(probe(dtype), float("nan"), ("solver/sampler-0",))
