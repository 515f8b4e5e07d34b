"""What a run shows at the metrics endpoint of its Ray nodes, for Prometheus and Grafana.

Every metric of ours is declared here once. Names are those of OpenTelemetry's proposal for
reinforcement learning (`rl.loop.*`, `rl.sample.*`, `rl.reward.*`, `rl.train.*`, `rl.sync.*`,
`rl.environment.*`) in the form of Prometheus, which has no dots: Ray drops a metric with a dot in
its name and raises nothing. Ray writes `ray_` before each name. The driver shows what it is told as
an observer; a gauge keeps its value until the next, and is gone seconds after its process.

vLLM's own metrics come from the engines (`sampling.vllm_metrics`), under `ray_vllm_*`.
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter as Tally
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar

from ray.exceptions import RayError
from ray.util.metrics import Counter, Gauge

from actors.fleet.looks import repeated
from actors.fleet.member import Member, State
from actors.sampling.pool import SamplerPool
from rzero_ray.protocols import Observer

M = TypeVar("M", Gauge, Counter)

_LOOK_S = 5.0
"""Time between two looks at the queues; Ray exports every few seconds."""


@dataclass(frozen=True, slots=True)
class Declared:
    """A metric: its name, its unit, what it says, and its tags beside `run`."""

    name: str
    unit: str
    says: str
    tags: tuple[str, ...] = ("role",)

    @property
    def description(self) -> str:
        """The help text of the endpoint."""
        return f"{self.says} [{self.unit}]"

    @property
    def tag_keys(self) -> tuple[str, ...]:
        """All its tags."""
        return ("run", *self.tags)


OF_A_STEP: Mapping[str, Declared] = {
    "reward": Declared("rl_reward_mean", "1", "Mean reward of the samples of the last step"),
    "agreement": Declared(
        "rl_sample_agreement_ratio", "0..1", "Mean share of votes that the majority answer has"
    ),
    "well_formed": Declared(
        "rl_sample_well_formed_ratio", "0..1", "Share of samples that hold one question"
    ),
    "answered": Declared("rl_sample_answered_ratio", "0..1", "Share of samples with an answer"),
    "repetition_share": Declared(
        "rl_sample_repetition_ratio", "0..1", "Mean share of the batch in a question's cluster"
    ),
    "completion_tokens": Declared("rl_sample_length_tokens", "tokens", "Mean length of a sample"),
    "kept": Declared(
        "rl_curriculum_kept_questions", "questions", "Questions kept in the last step"
    ),
    "kept_share": Declared(
        "rl_curriculum_kept_ratio", "0..1", "Share of candidates that were kept"
    ),
    "label_accuracy": Declared(
        "rl_reward_label_accuracy_ratio", "0..1", "Share of pseudo-labels that are right (oracle)"
    ),
    "loss": Declared("rl_train_loss", "1", "Loss of the last step"),
    "kl": Declared("rl_train_kl_nats", "nats", "KL of the policy to its reference, per token"),
    "entropy": Declared("rl_train_entropy_nats", "nats", "Entropy of the next token"),
    "grad_norm": Declared("rl_train_gradient_norm", "1", "Norm of the gradient before clipping"),
    "clip_share": Declared("rl_train_clipped_ratio", "0..1", "Share of tokens that the clip cut"),
    "logprob_difference_mean": Declared(
        "rl_train_logprob_difference_mean_nats", "nats", "Learner against sampler, mean, per token"
    ),
    "logprob_difference_max": Declared(
        "rl_train_logprob_difference_max_nats", "nats", "Learner against sampler, largest"
    ),
    "staleness": Declared(
        "rl_sample_staleness_updates", "updates", "How far the weights behind samples are behind"
    ),
}
"""By key of a line of `metrics.jsonl`. The tag `role` is the phase: who learns in it, else its
name."""

OF_AN_EVALUATION: Mapping[str, Declared] = {
    "greedy": Declared(
        "rl_environment_accuracy_greedy_ratio", "0..1", "Held-out accuracy, one greedy answer", ()
    ),
    "mean": Declared(
        "rl_environment_accuracy_mean_ratio", "0..1", "Held-out accuracy, mean over samples", ()
    ),
}
"""Of an evaluation."""

ITERATION = Declared("rl_loop_iteration", "iterations", "The iteration under way, from 1", ())
STEPS = Declared("rl_loop_steps", "steps", "Steps finished in the phase under way")
PHASE = Declared("rl_loop_phase", "0 or 1", "1 for the phase under way")
BUSY = Declared(
    "rl_loop_busy_ratio", "0..1", "Share of the last step in which a stage was at work", ("stage",)
)
STEP_SECONDS = Declared("rl_loop_step_seconds", "s", "Wall-clock time of the last step")
TOKENS = Declared("rl_sample_tokens", "tokens", "Tokens sampled")
THROUGHPUT = Declared(
    "rl_sample_throughput_tokens_per_second", "tokens/s", "Tokens sampled per second of a step"
)
SYNC_SECONDS = Declared("rl_sync_seconds", "s", "Time of the last publication of weights")
SYNC_PAUSED = Declared("rl_sync_paused_seconds", "s", "For which it had engines stand still")
SYNC_DIFFERENCE = Declared(
    "rl_sync_probe_difference_nats", "nats", "Largest difference that the probe of it has found"
)
SYNCS = Declared("rl_syncs", "publications", "Publications of weights")
FLEET = Declared("rl_fleet_actors", "actors", "Actors in each state", ("role", "state"))
RESTARTS = Declared("rl_fleet_restarts", "restarts", "Actors made anew", ("role", "engine"))
GRADER_KILLS = Declared(
    "rl_reward_grader_kills",
    "kills",
    "Comparisons that overran their limits",
    ("engine",),
)
QUEUE = Declared("rl_sample_queue_requests", "requests", "Requests without an answer yet")
OUTSTANDING = Declared(
    "rl_sample_outstanding_samples",
    "samples",
    "What an engine was asked and has not ended",
    ("role", "engine"),
)

GAUGES = (
    *OF_A_STEP.values(),
    *OF_AN_EVALUATION.values(),
    *(ITERATION, STEPS, PHASE, BUSY, STEP_SECONDS, THROUGHPUT, SYNC_SECONDS, SYNC_PAUSED),
    *(SYNC_DIFFERENCE, FLEET, QUEUE, OUTSTANDING),
)
"""What goes up and down."""
COUNTERS = (TOKENS, SYNCS, RESTARTS, GRADER_KILLS)
"""What only grows; Prometheus adds `_total` to the names."""


class Shown:
    """The metrics of one run as one process shows them."""

    def __init__(self, run: str) -> None:
        """`run` is the value of the tag by which runs on one cluster are told apart."""
        self._run = run
        self._gauges = cache(lambda metric: _made(Gauge, metric))
        self._counters = cache(lambda metric: _made(Counter, metric))

    def set(self, metric: Declared, value: Any, **tags: str) -> None:
        """Show a value; one that is no number, as a figure that was not measured, is left out."""
        if isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value):
            return
        self._gauges(metric).set(float(value), {"run": self._run, **tags})

    def add(self, metric: Declared, value: float, **tags: str) -> None:
        """Count; nothing is counted where `value` is 0."""
        if value > 0:
            self._counters(metric).inc(float(value), {"run": self._run, **tags})


def _made(kind: type[M], metric: Declared) -> M:
    return kind(metric.name, description=metric.description, tag_keys=metric.tag_keys)


class RunMetrics(Observer):
    """Shows a run's progress, which it is told of in the driver."""

    def __init__(self, run: str) -> None:
        """`run` is the name of the run's directory."""
        self._shown = Shown(run)
        self._phase = ""
        self._actors: dict[str, str] = {}
        """How each actor is, by its name."""
        self._states: set[tuple[str, str]] = set()
        """The pairs of role and state that have been shown."""

    def start_phase(self, iteration: int, phase: str, num_steps: int, num_done: int) -> None:
        """See `protocols.Observer`."""
        if self._phase:
            self._shown.set(PHASE, 0, role=self._phase)
        self._phase = phase
        self._shown.set(ITERATION, iteration)
        self._shown.set(PHASE, 1, role=phase)
        self._shown.set(STEPS, num_done, role=phase)

    def finish_step(self, row: dict[str, Any]) -> None:
        """See `protocols.Observer`."""
        phase = row["phase"]
        for key, metric in OF_A_STEP.items():
            self._shown.set(metric, row.get(key), role=phase)
        self._shown.set(STEPS, row["step"], role=phase)
        self._spent(row, phase)

    def finish_iteration(self, row: dict[str, Any]) -> None:
        """See `protocols.Observer`."""
        for name, metric in OF_AN_EVALUATION.items():
            figures = (row[key] for key in row if key == name or key.startswith(f"{name}@"))
            for figure in figures:
                self._shown.set(metric, figure)
        self._spent(row, "evaluation")

    def see_event(self, event: str, details: Mapping[str, Any]) -> None:
        """See `protocols.Observer`."""
        if event == "actor":
            self._see_actor(details["actor"], details["state"])
        elif event == "weight sync":
            role = details["role"]
            self._shown.set(SYNC_SECONDS, details["seconds"], role=role)
            self._shown.set(SYNC_PAUSED, details["seconds_paused"], role=role)
            self._shown.set(SYNC_DIFFERENCE, details["max_logprob_difference"], role=role)
            self._shown.add(SYNCS, 1, role=role)

    def _spent(self, row: Mapping[str, Any], phase: str) -> None:
        seconds = row.get("seconds", {})
        wall = seconds.get("wall", 0.0)
        if not wall:
            return
        for stage, busy in seconds.items():
            if stage != "wall":
                self._shown.set(BUSY, busy / wall, stage=stage)
        self._shown.set(STEP_SECONDS, wall, role=phase)
        self._shown.set(THROUGHPUT, row["tokens_sampled"] / wall, role=phase)
        self._shown.add(TOKENS, row["tokens_sampled"], role=phase)

    def _see_actor(self, actor: str, state: str) -> None:
        self._actors[actor] = state
        if state == State.RESTARTING:
            self._shown.add(RESTARTS, 1, role=_kind(actor), engine=actor)
        counts = Tally((_kind(name), how) for name, how in self._actors.items())
        self._states |= counts.keys()
        for kind, how in self._states:
            self._shown.set(FLEET, counts[kind, how], role=kind, state=how)


def _kind(actor: str) -> str:
    """`solver/sampler-0` -> `solver`, `reward/worker-1` -> `reward`."""
    return actor.partition("/")[0]


@asynccontextmanager
async def shown_work(run: str, pool: SamplerPool, workers: Sequence[Member]) -> AsyncIterator[None]:
    """Show in the block, every few seconds, who waits for engines, what these have to do, and how
    many comparisons the reward workers had to end."""
    shown = Shown(run)

    engines: set[tuple[str, str]] = set()
    kills: dict[tuple[str, int], int] = {}

    async def look() -> None:
        for role, count in pool.num_waiting.items():
            shown.set(QUEUE, count, role=role)
        now = {(s.home, s.name): s.outstanding_samples for s in pool.samplers}
        for home, name in engines | now.keys():  # one that has left has nothing to do
            shown.set(OUTSTANDING, now.get((home, name), 0), role=home, engine=name)
        engines.update(now)
        await asyncio.gather(*(_show_kills(shown, worker, kills) for worker in workers))

    async with repeated(look, _LOOK_S, "metrics of queues and reward workers are not shown"):
        yield


async def _show_kills(shown: Shown, worker: Member, kills: dict[tuple[str, int], int]) -> None:
    """Count what a worker's life has ended since the last look, if it says so at once."""
    life = worker.name, worker.life
    if worker.state is State.HEALTHY and worker.actor is not None:
        with suppress(TimeoutError, RayError):  # whether it lives is for the fleet to find out
            count = await asyncio.wait_for(_num_killed(worker.actor), _LOOK_S)
            shown.add(GRADER_KILLS, count - kills.get(life, 0), engine=worker.name)
            kills[life] = count


async def _num_killed(worker: Any) -> int:
    return await worker.num_killed.remote()
