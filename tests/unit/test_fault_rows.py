"""Which rows the table of kills has, and when each of them strikes."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from tests.faults.kills import SETTINGS, Row, rows
from tests.faults.runs import ShortRun


def test_everybody_dies_in_each_phase_and_what_computes_hangs_too():
    table = rows(SETTINGS)
    assert len(table) == len(set(table)) == 6 * 3 + 3 * 3
    stopped = {row.target for row in table if row.sent is signal.SIGSTOP}
    assert stopped == {"challenger-engine", "solver-engine", "rank"}


def test_rows_are_chosen_and_others_are_refused():
    asked = {"targets": "driver,rank", "phases": "solver", "signals": "SIGKILL"}
    assert rows({**SETTINGS, **asked}) == [Row("rank", "solver"), Row("driver", "solver")]
    for wrong in ({"targets": "engine"}, {"phases": "judge"}, {"signals": "SIGTERM"}):
        with pytest.raises(ValueError, match="there are"):
            rows({**SETTINGS, **wrong})


def test_a_row_strikes_while_its_phase_is_at_work(tmp_path: Path):
    run = ShortRun(tmp_path)
    engine, rank = Row("solver-engine", "solver"), Row("rank", "solver")
    idle_rank = Row("rank", "curriculum")
    assert not any(row.is_reached(run) for row in (engine, rank, idle_rank))
    steps = ["iteration-01/curriculum/step-001", "iteration-01/solver/step-001"]
    (tmp_path / "manifest.json").write_text(json.dumps({"finished": steps}))
    assert engine.is_reached(run) and idle_rank.is_reached(run) and not rank.is_reached(run)
    (tmp_path / "iteration-01/solver/step-002").mkdir(parents=True)
    (tmp_path / "iteration-01/solver/step-002/rollouts.parquet").touch()
    assert rank.is_reached(run)
    assert "learned" in rank.moment and "sampled" in engine.moment and "sampled" in idle_rank.moment
