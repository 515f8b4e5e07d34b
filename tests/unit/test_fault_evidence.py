"""What the harness of faults reads out of a run's files, on files that are made here."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from tests.faults.evidence import (
    FinishedSteps,
    Life,
    doubled,
    events,
    has_begun,
    lives,
    next_life,
    num_starts,
    witness,
)


def _actor(time: float, state: str, **details: Any) -> dict[str, Any]:
    return {"time": time, "event": "actor", "actor": "solver/sampler-0", "state": state, **details}


KILLED = [
    {"time": 0.0, "event": "start"},
    _actor(1.0, "HEALTHY", life=1, pid=10),
    {"time": 2.0, "event": "phase", "iteration": 1, "phase": "solver"},
    _actor(4.0, "SUSPECT", life=1),
    _actor(5.0, "DEAD", life=1, reason="killed"),
    _actor(6.0, "RESTARTING", life=2),
    _actor(7.0, "HEALTHY", life=2, pid=20),
]


def test_who_serves_who_is_gone_and_who_has_come():
    first = Life("solver/sampler-0", 1, 10, 1.0)
    assert lives(KILLED[:4]) == {"solver/sampler-0": first}
    assert lives(KILLED)["solver/sampler-0"].pid == 20
    assert witness(KILLED, "solver/sampler-0", 3.0) == KILLED[4]
    assert witness(KILLED[:4], "solver/sampler-0", 3.0) is None
    assert witness(KILLED, "reward/worker-0", 3.0) is None
    assert next_life(KILLED, first, 3.0) == Life("solver/sampler-0", 2, 20, 7.0)
    assert next_life(KILLED[:6], first, 3.0) is None
    assert next_life([*KILLED[:5], _actor(8.0, "HEALTHY", life=1, pid=10)], first, 3.0) is None


def test_a_new_driver_has_actors_of_its_own():
    again = [*KILLED, {"time": 8.0, "event": "start"}]
    assert lives(again) == {}
    assert (num_starts(KILLED), num_starts(again)) == (1, 2)
    assert has_begun(KILLED, 1, "solver") and not has_begun(KILLED, 1, "challenger")


def test_a_line_that_is_being_written_is_not_read(tmp_path: Path):
    assert events(tmp_path) == []
    (tmp_path / "events.jsonl").write_text(json.dumps(KILLED[0]) + "\n" + '{"time": 1.0, "ev')
    assert events(tmp_path) == KILLED[:1]


def _finish(root: Path, *keys: str) -> None:
    (root / "manifest.json").write_text(json.dumps({"finished": keys}))


def _sample(root: Path, key: str, content: bytes) -> None:
    path = root / key / "rollouts.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(".partial")
    partial.write_bytes(content)
    os.utime(partial, ns=(0, 0))
    partial.replace(path)


def test_samples_that_are_drawn_again_show_even_where_they_are_equal(tmp_path: Path):
    one, two, three = (f"iteration-01/solver/step-00{k}" for k in (1, 2, 3))
    steps = FinishedSteps(tmp_path)
    steps.look()  # before there is a manifest
    for key in (one, two):
        _sample(tmp_path, key, b"samples")
    _finish(tmp_path, one)
    steps.look()
    before = steps.first_after(0.0)
    assert before is not None and steps.first_after(before) is None
    _sample(tmp_path, two, b"drawn again before it was finished")
    _finish(tmp_path, one, two)
    steps.look()
    assert steps.drawn_again() == [] and steps.first_after(before) is not None
    held = tmp_path / three
    _sample(tmp_path, three, b"holds the inode")
    (tmp_path / one / "rollouts.parquet").rename(held / "before.parquet")
    _sample(tmp_path, one, b"samples")
    assert steps.drawn_again() == [one]


def test_a_step_with_two_rows_is_doubled():
    assert doubled(["1/solver/1", "1/solver/2", "1/solver/1"]) == ["1/solver/1"]
