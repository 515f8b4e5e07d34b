"""The slope of memory over time, and the drawing of interruptions, on known figures."""

from __future__ import annotations

import os
import random
from collections import Counter

import pytest

from tests.faults.growth import Memory, grown
from tests.faults.interruptions import draw


def _line(start: float, level: float, per_hour: float) -> list[tuple[float, float]]:
    """Return ten minutes of a process that loads half of its memory in its first minute."""
    return [
        (start + t, level / 2 if t < 60 else level + per_hour * (t - 60) / 3600)
        for t in range(0, 600, 5)
    ]


@pytest.mark.parametrize("per_hour", [0.0, 30.0, -12.0])
def test_the_slope_is_that_of_each_process_from_its_own_level(per_hour: float):
    one = grown([_line(0, 800, per_hour)])
    assert one.mib_per_hour == pytest.approx(per_hour, abs=1e-6)
    assert (one.num_samples, one.num_processes, one.first_mib) == (108, 1, 800)
    both = grown([_line(0, 800, per_hour), _line(1000, 500, per_hour)])
    assert both.mib_per_hour == pytest.approx(per_hour, abs=1e-6)
    assert both.num_processes == 2 and both.last_mib == pytest.approx(500, abs=6)


def test_memory_that_levels_off_grows_in_the_first_half_alone():
    rising = [(t, 500 + min(t, 300) / 6) for t in range(0, 600, 5)]
    found = grown([rising])
    assert found.mib_per_hour > 100
    assert found.late_mib_per_hour == pytest.approx(0, abs=1e-6)
    steady = grown([_line(0, 800, 30.0), _line(1000, 500, 30.0)])
    assert steady.late_mib_per_hour == pytest.approx(30.0, abs=1e-6)


def test_processes_that_ended_before_they_were_warm_tell_nothing():
    assert grown([_line(0, 800, 30)[:12], []]).num_samples == 0


def test_memory_of_a_process_that_is_gone_is_not_measured():
    memory = Memory()
    memory.look({os.getpid(): "driver", 1 << 30: "solver/sampler-0"})
    assert list(memory.samples) == ["driver"]
    ((_, mib),) = memory.samples["driver"][os.getpid()]
    assert mib > 10


def test_interruptions_meet_everybody_and_are_the_same_for_a_seed():
    chance = random.Random(0)
    drawn = [draw(chance) for _ in range(400)]
    again = random.Random(0)
    assert [draw(again) for _ in range(400)] == drawn
    targets = Counter(interruption.target(["learner/rank-0", "a", "b"]) for interruption in drawn)
    assert set(targets) == {"learner/rank-0", "a", "b", "driver"} and min(targets.values()) > 60
    assert {interruption.target([]) for interruption in drawn} == {"driver"}
    assert 0.55 < sum(interruption.at_work for interruption in drawn) / 400 < 0.78
