"""What is read out of a run whose engines come and go: each thing that is off is told as BAD."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from ray.autoscaler._private.util import prepare_config, validate_config

from rzero_ray.config.load import load_config
from tests.faults import autoscaled
from tests.faults.autoscaler import Autoscaling, NodeType
from tests.faults.calls import Call, read_calls
from tests.faults.elastic import CASES, SETTINGS, came, died, went
from tests.faults.presence import Coming, Going, comings, goings, present_on, standstill
from tests.faults.provider import HEAD_TYPE, WORKER_TYPE
from tests.faults.samples import misfits
from tests.faults.table import chosen

HERE, THERE = "10.77.0.1", "10.77.0.2"
ENGINE = "solver/sampler-1"


def _line(time: float, state: str, **details: Any) -> dict[str, Any]:
    told = {"actor": ENGINE, "node": THERE, "reason": ""} | details
    return {"time": time, "event": "actor", "state": state, **told}


CAME = [_line(10.0, "JOINING", node=""), _line(30.0, "HEALTHY")]
WENT = [*CAME, _line(50.0, "LEAVING"), _line(54.0, "DEAD", reason="it has left: its node drains")]
KILLED = [*CAME, _line(52.0, "SUSPECT"), _line(55.0, "DEAD", reason="its node has died")]
EVENLY = [float(second) for second in range(60)]
"""A step was finished in each second."""


def test_who_came_and_who_went():
    assert comings(CAME) == comings(WENT) == [Coming(ENGINE, THERE, 10.0, 30.0)]
    assert comings(CAME[1:]) == []  # it was there from the start
    assert comings([*CAME[:1], _line(20.0, "DEAD")]) == []
    assert goings(WENT) == [Going(ENGINE, THERE, 50.0, 54.0)]
    assert goings(KILLED) == []
    shot = [*WENT[:3], _line(54.0, "DEAD", reason="its process has ended")]
    assert goings(shot) == goings(WENT[:3]) == [Going(ENGINE, THERE, 50.0, None)]
    assert present_on(WENT[:3], THERE) == {ENGINE}
    assert present_on(WENT, THERE) == present_on(WENT[:3], HERE) == set()


def test_a_run_that_waits_for_somebody_who_comes_stands_still():
    assert not standstill(EVENLY, 20.0, 30.0).is_one
    waits = [second for second in EVENLY if not 20 < second < 30]
    still = standstill(waits, 18.0, 32.0)
    assert still.is_one and (still.meanwhile_s, still.before_s) == (10.0, 1.0)
    # As slow as before, or short beside what went on: no standstill.
    assert not standstill([0.0, 9.0, 18.0, 28.0], 18.0, 32.0).is_one
    assert not standstill(waits, 0.0, 60.0).is_one
    assert standstill([], 0.0, 1.0).meanwhile_s == 0.0


def test_an_engine_has_joined_once_it_was_asked_to_sample():
    first = Call(ENGINE, THERE, 31.0, 32.0)
    found = came(CAME, EVENLY, [first], THERE, 5.0)
    assert found.good
    assert "ready 25.0 s after the host or the command, 20.0 s after it was asked for" in found.told
    assert "first asked to sample +1.0 s later" in found.told
    assert not came(CAME, EVENLY, [], THERE, 5.0).good
    assert not came(CAME, EVENLY, [Call("solver/sampler-0", THERE, 31.0, 32.0)], THERE, 5.0).good
    assert not came(CAME, EVENLY, [Call(ENGINE, HERE, 31.0, 32.0)], THERE, 5.0).good
    assert not came(CAME[:1], EVENLY, [first], THERE, 5.0).good
    assert not came(CAME, EVENLY, [first], HERE, 5.0).good
    assert not came(CAME, EVENLY, [first], THERE, 40.0).good  # it was there before
    waits = [second for second in EVENLY if not 11 < second < 29]
    assert not came(CAME, waits, [first], THERE, 5.0).good


def test_an_engine_has_left_once_it_has_answered_what_it_had():
    found = went(WENT, EVENLY, THERE, 49.0, 54.0)
    assert found.good and "let go 1.0 s later, gone after 4.0 s" in found.told
    shot = [*WENT[:3], _line(54.0, "DEAD", reason="its process has ended")]
    for lines in (shot, WENT[:3], KILLED, CAME):
        assert not went(lines, EVENLY, THERE, 49.0, 54.0).good
    waits = [second for second in EVENLY if not 50 < second < 59]
    assert not went(WENT, waits, THERE, 49.0, 58.0).good


def test_each_actor_of_a_host_that_died_is_found_dead():
    found = died(KILLED, EVENLY, THERE, 51.0, [ENGINE])
    assert found.good and f"{ENGINE} dead after 4.0 s" in found.told
    assert not died(KILLED[:3], EVENLY, THERE, 51.0, [ENGINE]).good
    assert not died(KILLED, EVENLY, THERE, 51.0, [ENGINE, "reward/worker-0"]).good
    assert not died(KILLED, EVENLY, THERE, 51.0, []).good  # nobody was there to be lost


def test_calls_are_those_to_sample_with_the_engine_s_name():
    def event(cat: str, worker: str, ts: float, dur: float) -> dict[str, Any]:
        return {"cat": cat, "tid": worker, "pid": THERE, "ts": ts * 1e6, "dur": dur * 1e6}

    timeline = [
        event("task::Sampler.sample", "worker:1", 7.0, 2.0),
        event("task::Sampler.sample", "worker:1", 5.0, 1.0),
        event("task::Sampler.pulse", "worker:1", 4.0, 1.0),
        event("task:execute", "worker:1", 5.0, 1.0),
        event(f"task::{ENGINE}:Sampler.__init__", "worker:1", 1.0, 3.0),
    ]
    assert read_calls(timeline) == [Call(ENGINE, THERE, 5.0, 6.0), Call(ENGINE, THERE, 7.0, 9.0)]


@pytest.mark.parametrize("samples", [[0, 0, 1], [0, 0, 0, 1, 1], [0, 0, 1, 1, 2, 2]])
def test_a_sample_too_few_or_too_many_is_told(tmp_path: Path, samples: list[int]):
    sizes = ["solver.num_prompts=2", "solver.prompts_per_update=2", "solver.samples_per_prompt=2"]
    config = load_config(["conf=tiny", *sizes])
    right, wrong = (tmp_path / f"iteration-01/solver/step-00{k}" for k in (1, 2))
    for folder, rows in ((right, [1, 0, 0, 1]), (wrong, samples)):
        folder.mkdir(parents=True)
        pq.write_table(pa.table({"prompt_index": rows}), folder / "rollouts.parquet")
    (told,) = misfits(tmp_path, config)
    assert told.startswith("iteration-01/solver/step-002: 1 prompts")


def test_rows_are_named_by_how_they_begin_and_others_are_refused():
    assert chosen(SETTINGS["cases"], CASES) == list(CASES)
    with pytest.raises(ValueError, match="there are grow, "):
        chosen("fly", CASES)
    with pytest.raises(ValueError, match="there are groups, run"):
        next(autoscaled.run({**autoscaled.SETTINGS, "cases": "clouds"}))
    with pytest.raises(ValueError, match="Ray has 1 and 2"):
        autoscaled._CLUSTER.of_version(3)


def test_the_autoscaler_s_configuration_is_one_of_ray_s(tmp_path: Path):
    cluster = Autoscaling(NodeType(2, 1 << 30), NodeType(1, 1 << 31), most=3, idle_s=15.0)
    config = prepare_config(cluster.config("10.77.0.1:6379", tmp_path))
    validate_config(config)
    kinds = config["available_node_types"]
    assert kinds[HEAD_TYPE]["max_workers"] == 0 and kinds[WORKER_TYPE]["max_workers"] == 3
    assert kinds[WORKER_TYPE]["resources"]["memory"] == 1 << 31
    assert config["idle_timeout_minutes"] == 0.25
