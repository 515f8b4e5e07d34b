"""Cost against size: a step at 1, 2 and 4 times the samples, and the driver's own time per sample
at 1, 4 and 16 engines that cost nothing."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import ray

from actors.fleet.member import Member
from actors.sampling.packing import FinishedRequests, PackedCompletions, pack
from actors.sampling.pool import PooledSampler, SamplerPool
from rzero_ray.config.config import Config
from rzero_ray.config.load import load_config
from rzero_ray.phases.challenger import sample_challenger
from rzero_ray.tasks.base_model import obtain_model
from rzero_ray.types import Completion, SampleRequest, Step, WeightVersion
from tests.bench.engines import start_roles
from tests.bench.harness import Figure, gather_groups
from tests.bench.pool import SETTINGS, requests

_NUM_ENGINES = (1, 4, 16)
_NUM_REQUESTS = 1000
_REPEATS = 7
_NUM_TOKENS = 40
_STEP_SIZES = (128, 256, 512)
"""Questions of a Challenger step, each with its votes."""
_STEP_REPEATS = 5

_VERSION = WeightVersion(role="solver", iteration=1, num_steps=0)


class FakeEngine:
    """Answers at once, with as many bytes as a real answer has."""

    async def sample(self, requests: Sequence[SampleRequest]) -> AsyncIterator[FinishedRequests]:
        """Yield completions that were never sampled."""
        yield [(k, self._answer(request)) for k, request in enumerate(requests)]

    def _answer(self, request: SampleRequest) -> PackedCompletions:
        completion = Completion(
            prompt_ids=np.zeros(30, dtype=np.int32),
            token_ids=np.zeros(_NUM_TOKENS, dtype=np.int32),
            logprobs=np.zeros(_NUM_TOKENS, dtype=np.float32),
            text="1" * _NUM_TOKENS,
            num_tokens=_NUM_TOKENS,
            finished=True,
            weight_versions=((_VERSION, 0, _NUM_TOKENS),),
        )
        return pack([completion] * request.num_samples, request.reads_tokens)


def run() -> list[Figure]:
    """Measure steps on real engines, then the driver alone."""
    return [*_step_figures(), *_driver_figures()]


def _step_figures() -> list[Figure]:
    config = load_config(["conf=tiny"])
    model = obtain_model(config.model)
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        seconds = asyncio.run(_step_seconds(config, model))
    finally:
        ray.shutdown()
    first = _STEP_SIZES[0]
    return [
        Figure(
            name=f"time of a Challenger step per question, {size // first} times the samples",
            value=(seconds[size] / size) / (seconds[first] / first),
            unit="x",
            target="about 1, or below",
            details=f"{size} questions with {config.challenger.num_votes} votes each in "
            f"{seconds[size]:.1f} s, {first} in {seconds[first]:.1f} s; median of {_STEP_REPEATS}",
        )
        for size in _STEP_SIZES[1:]
    ]


async def _step_seconds(config: Config, model: Path) -> Mapping[int, float]:
    """Return the median seconds of sampling, voting and grading a step, by its size."""
    cluster, cast = await start_roles(config, model)
    taken: dict[int, list[float]] = {size: [] for size in _STEP_SIZES}
    try:
        for turn in range(_STEP_REPEATS + 1):
            for size in _STEP_SIZES:
                sized = replace(config, challenger=replace(config.challenger, num_prompts=size))
                step = Step(iteration=turn + 1, phase="challenger", index=size)
                start = time.perf_counter()
                await sample_challenger(sized, step, cast, [], gather_groups)
                taken[size].append(time.perf_counter() - start)
    finally:
        await cluster.close()
    return {size: statistics.median(seconds[1:]) for size, seconds in taken.items()}


def _driver_figures() -> list[Figure]:
    """Measure the driver's CPU time: it does not depend on how busy the machine is otherwise."""
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        actors: list[Any] = [
            ray.remote(FakeEngine).options(num_cpus=0, max_concurrency=1000).remote()
            for _ in range(max(_NUM_ENGINES))
        ]
        engines = [
            PooledSampler(Member(f"fake-{k}", actor), home="solver", role="solver", model=None)
            for k, actor in enumerate(actors)
        ]
        for engine in engines:
            asyncio.run(_cpu_seconds([engine], 5))  # starts the actor
        turns = [
            {count: asyncio.run(_cpu_seconds(engines[:count], turn)) for count in _NUM_ENGINES}
            for turn in range(_REPEATS + 1)
        ][1:]
    finally:
        ray.shutdown()
    cost = {count: statistics.median(turn[count] for turn in turns) for count in _NUM_ENGINES}
    samples = _NUM_REQUESTS * 10
    return [
        Figure(
            name=f"driver time per sample, {count} fake engines against 1",
            value=cost[count] / cost[1],
            unit="x",
            target="0.9 to 1.1",
            details=f"{1e6 * cost[count] / samples:.0f} against {1e6 * cost[1] / samples:.0f} "
            f"microseconds of CPU; 10 samples a request, median of {_REPEATS}",
        )
        for count in _NUM_ENGINES[1:]
    ]


async def _cpu_seconds(engines: list[PooledSampler], turn: int) -> float:
    """Return the CPU time of this process for `_NUM_REQUESTS` requests."""
    pool = SamplerPool(engines, deadline_s=600)
    asked = requests(turn, SETTINGS | {"prompts": str(_NUM_REQUESTS)})
    start = time.process_time()
    await asyncio.gather(*(pool.sample("solver", request) for request in asked))
    return time.process_time() - start
