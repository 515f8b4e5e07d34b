"""Roles that take turns: two steps of the Solver and one question to the Challenger, with real
engines and a real learner on the same devices."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import ray
import torch

from rzero_ray.config.config import Config
from rzero_ray.run.clock import StageClock
from rzero_ray.tasks.registry import ArithmeticTask
from rzero_ray.types import Role, SampleRequest, Sampling, Step, SyncReport
from tests.unit.builders import opposed_rollouts, phase_of

TASK = ArithmeticTask()
NUM_STEPS = 2


@dataclass(frozen=True)
class Turn:
    """When the devices passed to another holder."""

    holder: str
    at: float
    """Seconds on a monotonic clock."""
    free_bytes: int
    """Of the GPU at that moment; 0 on a CPU."""


@dataclass(frozen=True)
class Taken:
    """What was seen."""

    turns: list[Turn]
    syncs: list[SyncReport]
    """Each was held against `weights.max_probe_difference`."""
    stages: Mapping[str, float]
    """Seconds by stage of the clock: `turns` are those in which devices passed."""


def take_turns(config: Config, model: Path, max_tokens: int = 64) -> Taken:
    """Go through them on a Ray of their own, both roles beginning from `model`."""
    ray.init(address="local", include_dashboard=False, log_to_driver=False)
    try:
        with tempfile.TemporaryDirectory() as folder:
            return asyncio.run(_go(config, model, Path(folder), max_tokens))
    finally:
        ray.shutdown()


async def _go(config: Config, model: Path, folder: Path, max_tokens: int) -> Taken:
    from actors.cluster import choose_layout, start_cluster

    turns: list[Turn] = []
    syncs: list[SyncReport] = []
    clock = StageClock()
    models: dict[Role, Path] = {"challenger": model, "solver": model}
    phase = phase_of(model, final_model=folder / "final")
    request = SampleRequest(
        messages=TASK.solver_messages("7+5-6"),
        num_samples=8,
        seed=0,
        sampling=Sampling(temperature=1.0, top_p=1.0, top_k=-1, max_tokens=max_tokens),
    )
    cluster = await start_cluster(config, choose_layout(config), models, TASK, model)
    cast = cluster.cast(
        config,
        TASK,
        clock,
        syncs.append,
        lambda holder: turns.append(Turn(holder, time.monotonic(), _free_bytes())),
    )
    try:
        solver = cast.solver
        await solver.start_phase(phase)
        for index in range(1, NUM_STEPS + 1):
            completions = await solver.sample(request)
            step = Step(iteration=1, phase="solver", index=index)
            await solver.update(opposed_rollouts(completions), step)
        await solver.finish_phase(phase)
        await cast.challenger.hold(model)
        await cast.challenger.sample(request)
    finally:
        await cluster.close()
    return Taken(turns, syncs, clock.lap().busy)


def _free_bytes() -> int:
    return torch.cuda.mem_get_info()[0] if torch.cuda.is_available() else 0
