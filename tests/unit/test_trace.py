"""The timeline that a run leaves for Perfetto."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from rzero_ray.run.clock import StageClock
from rzero_ray.run.trace import TRACE_FILE, TraceFile


def _events(root: Path) -> list[dict[str, Any]]:
    text = (root / TRACE_FILE).read_text()
    assert text.startswith("[\n") and text.endswith(",\n")
    return json.loads(text.rstrip(",\n") + "]")


def _spans(root: Path) -> dict[str, tuple[float, float]]:
    events = [e for e in _events(root) if e["ph"] == "X"]
    return {e["name"]: (e["ts"] / 1e6, e["dur"] / 1e6) for e in events}


def test_stages_steps_syncs_and_turns_have_their_times(tmp_path: Path):
    trace = TraceFile(tmp_path)
    clock = StageClock(trace.add_stage)
    begin = time.time()
    trace.start_phase(1, "solver", 2, 0)
    trace.see_event("turn", {"holder": "samplers"})
    with clock.stage("sampling"):
        time.sleep(0.02)
        with clock.stage("sampling"):
            time.sleep(0.02)
    trace.see_event("turn", {"holder": "learner"})
    sync = {"version": "solver-01-001", "seconds": 0.5}
    trace.see_event("weight sync", sync)
    trace.finish_step({"iteration": 1, "phase": "solver", "step": 1, "reward": 0.5})
    end = time.time()
    spans = _spans(tmp_path)
    assert spans.keys() == {"sampling", "samplers", "solver-01-001", "iteration 1 solver step 1"}
    start, seconds = spans["sampling"]  # blocks that overlap are one time of work
    assert 0.04 <= seconds <= end - begin and begin - 0.01 <= start <= end
    assert spans["solver-01-001"][1] == 0.5
    assert spans["samplers"][1] >= 0.04
    assert spans["iteration 1 solver step 1"][1] >= 0.04
    figures = [e["args"] for e in _events(tmp_path) if e["name"].endswith("step 1")]
    assert figures == [{"iteration": 1, "step": 1, "reward": 0.5}]


def test_each_kind_and_each_actor_has_a_track_of_its_own(tmp_path: Path):
    trace = TraceFile(tmp_path)
    trace.add_stage("grading", time.time(), 0.1)
    for actor, state in (("a/0", "HEALTHY"), ("b/0", "HEALTHY"), ("a/0", "DEAD")):
        trace.see_event("actor", {"actor": actor, "state": state, "life": 1})
    events = _events(tmp_path)
    tracks = {e["args"]["name"]: e["tid"] for e in events if e["name"] == "thread_name"}
    assert tracks.keys() == {"a/0", "b/0", "grading"} and len(set(tracks.values())) == 3
    seen = [(e["tid"], e["name"]) for e in events if e["ph"] == "i"]
    assert seen == [
        (tracks["a/0"], "HEALTHY"),
        (tracks["b/0"], "HEALTHY"),
        (tracks["a/0"], "DEAD"),
    ]


def test_a_run_that_goes_on_goes_on_in_the_same_file(tmp_path: Path):
    for k in (1, 2):
        TraceFile(tmp_path).finish_step({"iteration": 1, "phase": "solver", "step": k})
    assert list(_spans(tmp_path)) == [f"iteration 1 solver step {k}" for k in (1, 2)]
    assert (tmp_path / TRACE_FILE).read_text().count("[\n") == 1


def test_phases_follow_each_other_and_one_that_learns_begins_with_loading(tmp_path: Path):
    trace = TraceFile(tmp_path)
    seen = [("phase", "challenger"), ("phase", "curriculum"), ("loading", "solver")]
    seen += [("loading", "solver"), ("phase", "solver"), ("phase", "evaluation")]
    for event, phase in seen:
        trace.see_event(event, {"iteration": 1, "phase": phase})
    trace.finish_iteration({"iteration": 1})
    trace.see_event("phase", {"iteration": 0, "phase": "evaluation"})
    turns = [e.get("name", "end") for e in _events(tmp_path) if e["ph"] in "BE"]
    names = [f"iteration 1: {of}" for of in ("challenger", "curriculum", "solver", "evaluation")]
    assert turns == [*(turn for name in names for turn in (name, "end")), "base model: evaluation"]
