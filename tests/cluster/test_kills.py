"""Each role dies once, and the run goes on by itself: rows of `python -m tests.faults kills`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.faults.kills import Row, run_course
from tests.faults.replay import replay
from tests.marks import long

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

COURSES = (
    [
        Row("challenger-engine", "challenger"),
        Row("reward-worker", "curriculum"),
        Row("solver-engine", "curriculum"),
        Row("rank", "solver"),
    ],
    long([Row("node", "solver")]),  # minutes more
)


@pytest.mark.parametrize("course", COURSES, ids=["all-actors", "node"])
def test_a_run_goes_on_without_whom_it_has_lost(course: Sequence[Row], tmp_path: Path):
    outcomes = run_course(course, tmp_path)
    assert all(outcome.good for outcome in outcomes), [outcome.told for outcome in outcomes]


@pytest.mark.long  # test_driver kills one, too
def test_a_driver_that_is_started_again_goes_on_and_a_step_too_many_or_too_few_shows(
    tmp_path: Path,
):
    row = Row("driver", "challenger")
    (outcome,) = run_course([row], tmp_path)
    assert outcome.good, outcome.told
    for change in (lambda steps: [*steps[:1], *steps], lambda steps: steps[:-1]):
        replayed = replay(tmp_path / row.name, change)
        assert [phase.is_equal for phase in replayed] == [False, False]
