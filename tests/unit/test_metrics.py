from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from rzero_ray.evaluation.statistics import bootstrap_interval
from rzero_ray.phases.metrics import curriculum_metrics, staleness
from rzero_ray.run import clock as clock_module
from rzero_ray.run.clock import NO_STAGE, StageClock
from rzero_ray.run.seeds import derive_seed
from rzero_ray.tasks.registry import LadderTask
from rzero_ray.types import Candidate, Step


def test_stage_clock_counts_the_union_of_overlapping_blocks(monkeypatch: pytest.MonkeyPatch):
    now = [0.0]
    monkeypatch.setattr(clock_module.time, "monotonic", lambda: now[0])
    clock = StageClock()
    with clock.stage("a"):
        now[0] = 1.0
        with clock.stage("a"), clock.stage("b"):
            now[0] = 3.0
        now[0] = 4.0
    lap = clock.lap()
    assert (lap.busy, lap.wall) == ({"a": 4.0, "b": 2.0}, 4.0)
    assert lap.alone == {"a": 2.0}
    with clock.stage("a"):
        now[0] = 6.0
        lap = clock.lap()
        assert (lap.busy, lap.alone, lap.wall) == ({"a": 2.0}, {"a": 2.0}, 2.0)
        now[0] = 7.0
    lap = clock.lap()
    assert (lap.busy, lap.wall) == ({"a": 1.0}, 1.0)


def test_stage_clock_tells_work_from_overhead(monkeypatch: pytest.MonkeyPatch):
    now = [0.0]
    monkeypatch.setattr(clock_module.time, "monotonic", lambda: now[0])
    clock = StageClock()
    now[0] = 1.0  # nothing is under way
    with clock.stage("weight_sync"):
        now[0] = 3.0
        with clock.stage("sampling"):
            now[0] = 7.0
    lap = clock.lap()
    assert lap.alone == {NO_STAGE: 1.0, "weight_sync": 2.0}
    assert lap.overhead == 3.0
    assert lap.busy == {"weight_sync": 6.0, "sampling": 4.0}


def test_interval_agrees_with_the_normal_approximation():
    scores = np.random.default_rng(0).random(400)
    low, high = bootstrap_interval(scores.tolist(), seed=1)
    half = 1.96 * scores.std(ddof=1) / 20
    assert low == pytest.approx(scores.mean() - half, abs=0.15 * half)
    assert high == pytest.approx(scores.mean() + half, abs=0.15 * half)


def test_seeds_are_stable_distinct_and_leave_room_for_the_sample_index():
    assert derive_seed(0, 1, "solver", 2, 3) == derive_seed(0, 1, "solver", 2, 3)
    seeds = {derive_seed(0, i, p, j) for i in range(20) for p in "ab" for j in range(20)}
    assert len(seeds) == 800
    assert all(0 <= seed < 2**47 for seed in seeds)
    # Pinned: a resumed run must draw what an earlier version of the program would have drawn.
    assert derive_seed(0, "iteration-01/solver/step-001", 0) == 42963986944002


@pytest.mark.parametrize(
    ("had", "expected"),
    [((4, 4), {"staleness": 0.0}), ((3, 2, None), {"staleness": 1.5}), ((None, None), {})],
)
def test_staleness_counts_steps_and_is_left_out_where_rows_do_not_tell(had, expected):
    samples: list[Any] = [SimpleNamespace(weight_num_steps=steps) for steps in had]
    assert staleness(samples, Step(iteration=1, phase="solver", index=5)) == expected


@pytest.mark.parametrize("label", ["89", None])
def test_a_question_without_an_answer_has_a_wrong_label_whatever_the_votes_say(label: str | None):
    coin = Candidate(
        text="",
        question="coin:7[?1][?2]",
        answers=(label,) * 4,
        label=label,
        num_agree=4,
        num_votes=4,
        num_tokens=1,
        dropped=None,
        truth=None,
    )
    found = curriculum_metrics([coin], LadderTask(), 4)
    assert (found["label_accuracy"], found["label_accuracy_all"]) == (0.0, 0.0)
