"""Each role dies once, and the run goes on by itself: rows of `python -m tests.faults kills`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.kills import Row, run_row
from tests.faults.replay import replay

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

ROWS = (
    Row("challenger-engine", "challenger"),
    Row("reward-worker", "curriculum"),
    Row("solver-engine", "curriculum"),
    Row("rank", "solver"),
    Row("node", "solver"),
)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_a_run_goes_on_without_whom_it_has_lost(row: Row, tmp_path: Path):
    outcome = run_row(row, tmp_path)
    assert outcome.good, outcome.told


def test_a_driver_that_is_started_again_goes_on_and_a_step_too_many_or_too_few_shows(
    tmp_path: Path,
):
    row = Row("driver", "challenger")
    outcome = run_row(row, tmp_path)
    assert outcome.good, outcome.told
    for change in (lambda steps: [*steps[:1], *steps], lambda steps: steps[:-1]):
        replayed = replay(tmp_path / row.name, change)
        assert [phase.is_equal for phase in replayed] == [False, False]
