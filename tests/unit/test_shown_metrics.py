"""The metrics of a run: their names, what feeds them, and the dashboard that asks for them."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from typing import Any, ClassVar

import pytest

from actors import metrics
from actors.fleet.member import Member
from actors.metrics import COUNTERS, GAUGES, OF_A_STEP, RunMetrics
from actors.sampling.pool import PooledSampler, SamplerPool

ROOT = Path(__file__).resolve().parents[2]
SERIES = {f"ray_{m.name}" for m in GAUGES} | {f"ray_{m.name}_total" for m in COUNTERS}


class Kept:
    """Keeps what a metric of Ray is told, by its name and tags."""

    values: ClassVar[dict[tuple[str, ...], float]] = {}

    def __init__(self, name: str, description: str, tag_keys: tuple[str, ...]) -> None:
        self._name, self._keys = name, tag_keys

    def set(self, value: float, tags: dict[str, str]) -> None:
        assert tags.keys() == set(self._keys), self._name
        assert type(value) is float and all(type(tag) is str for tag in tags.values())
        self.values[self._name, *(tags[key] for key in self._keys)] = value

    def inc(self, value: float, tags: dict[str, str]) -> None:
        assert value > 0
        known = self.values.get((self._name, *(tags[key] for key in self._keys)), 0.0)
        self.set(known + value, tags)


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> dict[tuple[str, ...], float]:
    monkeypatch.setattr(Kept, "values", {})
    monkeypatch.setattr(metrics, "Gauge", Kept)
    monkeypatch.setattr(metrics, "Counter", Kept)
    return Kept.values


def _row(**figures: Any) -> dict[str, Any]:
    spent = {"seconds": {"wall": 2.0, "sampling": 1.0}, "tokens_sampled": 100}
    return {"iteration": 1, "phase": "solver", "step": 1, **spent, **figures}


def test_names_are_those_that_ray_and_prometheus_take():
    names = [metric.name for metric in (*GAUGES, *COUNTERS)]
    assert len(names) == len(set(names))
    for name in names:  # Ray drops a name with a dot, or a dash, in silence
        assert re.fullmatch(r"rl_[a-z_]+", name)
    assert not any(name.endswith("_total") for name in names)  # Prometheus adds it


def test_a_step_is_shown_under_its_phase(shown):
    observer = RunMetrics("r")
    observer.start_phase(1, "solver", 3, 0)
    observer.finish_step(_row(reward=0.5, kl=None, agreement=float("nan"), loss=2))
    assert shown["rl_reward_mean", "r", "solver"] == 0.5
    assert shown["rl_train_loss", "r", "solver"] == 2.0
    assert shown["rl_loop_busy_ratio", "r", "sampling"] == 0.5
    assert shown["rl_sample_throughput_tokens_per_second", "r", "solver"] == 50.0
    assert not any(name[0] in ("rl_train_kl_nats", "rl_sample_agreement_ratio") for name in shown)
    observer.finish_step(_row(step=2))
    assert shown["rl_sample_tokens", "r", "solver"] == 200.0
    observer.start_phase(2, "challenger", 3, 0)
    assert shown["rl_loop_phase", "r", "solver"] == 0.0
    assert shown["rl_loop_phase", "r", "challenger"] == 1.0


def test_an_evaluation_a_sync_and_who_lives_are_shown(shown):
    observer = RunMetrics("r")
    accuracy = {"greedy": 0.25, "mean@8": 0.5, "mean@8_ci95": [0.4, 0.6], "maj@8": 0.7}
    observer.finish_iteration({"iteration": 1, **accuracy})
    assert shown["rl_environment_accuracy_greedy_ratio", "r"] == 0.25
    assert shown["rl_environment_accuracy_mean_ratio", "r"] == 0.5
    sync = {"seconds": 1.5, "seconds_paused": 0.5, "max_logprob_difference": 1e-6}
    observer.see_event("weight sync", {**sync, "role": "solver", "version": "solver-01-003"})
    observer.see_event("weight sync", {**sync, "role": "challenger", "version": "tiny-0-1f"})
    assert shown["rl_sync_seconds", "r", "solver"] == 1.5
    assert shown["rl_syncs", "r", "solver"] == shown["rl_syncs", "r", "challenger"] == 1.0
    assert {tags[-1] for tags in shown if tags[0] == "rl_syncs"} == {"solver", "challenger"}
    for actor, state in (("solver/sampler-0", "HEALTHY"), ("solver/sampler-1", "HEALTHY")):
        observer.see_event("actor", {"actor": actor, "state": state})
    assert shown["rl_fleet_actors", "r", "solver", "HEALTHY"] == 2.0
    for state in ("DEAD", "RESTARTING"):
        observer.see_event("actor", {"actor": "solver/sampler-1", "state": state})
    assert shown["rl_fleet_actors", "r", "solver", "HEALTHY"] == 1.0
    assert shown["rl_fleet_actors", "r", "solver", "DEAD"] == 0.0
    assert shown["rl_fleet_restarts", "r", "solver", "solver/sampler-1"] == 1.0


class Grader:
    """A worker that says how many comparisons it had to end, or does not answer."""

    def __init__(self, counts: list[int]) -> None:
        self._counts = counts
        self.num_killed = self

    async def remote(self) -> int:
        if not self._counts:
            await asyncio.Event().wait()
        return self._counts.pop(0)


def test_queues_and_what_graders_had_to_end_are_looked_at(shown, monkeypatch):
    monkeypatch.setattr(metrics, "_LOOK_S", 0.01)
    worker: Any = Member("reward/worker-0", Grader([1, 3]))  # type: ignore[arg-type]
    stuck: Any = Member("reward/worker-1", Grader([]))  # type: ignore[arg-type]
    engine = PooledSampler(Member("solver/sampler-0", None), "solver", "solver", None)
    pool = SamplerPool([engine], deadline_s=1.0)

    async def watch() -> None:
        async with metrics.shown_work("r", pool, [worker, stuck]):
            pool.num_waiting["solver"] = 5
            engine.outstanding_samples = 7
            async with asyncio.timeout(5):
                while shown.get(("rl_reward_grader_kills", "r", "reward/worker-0")) != 3.0:
                    await asyncio.sleep(0.01)
            worker.life, worker.actor = 2, Grader([2])  # a new actor counts from the start
            pool.samplers.remove(engine)
            async with asyncio.timeout(5):
                while shown["rl_reward_grader_kills", "r", "reward/worker-0"] != 5.0:
                    await asyncio.sleep(0.01)

    asyncio.run(watch())
    assert shown["rl_sample_queue_requests", "r", "solver"] == 5.0
    assert shown["rl_sample_outstanding_samples", "r", "solver", "solver/sampler-0"] == 0.0
    assert ("rl_reward_grader_kills", "r", "reward/worker-1") not in shown


def test_the_dashboard_asks_for_what_there_is():
    dashboard = json.loads((ROOT / "launch/grafana/rzero.json").read_text())
    asked = {name for t in _targets(dashboard) for name in re.findall(r"ray_rl_\w+", t["expr"])}
    assert asked <= SERIES
    assert {f"ray_{metric.name}" for metric in OF_A_STEP.values()} - asked <= {
        "ray_rl_sample_well_formed_ratio",
        "ray_rl_sample_answered_ratio",
        "ray_rl_curriculum_kept_questions",
        "ray_rl_train_loss",
        "ray_rl_train_gradient_norm",
        "ray_rl_train_clipped_ratio",
    }


def _targets(dashboard: dict[str, Any]) -> list[dict[str, Any]]:
    return [target for panel in dashboard["panels"] for target in panel.get("targets", ())]
