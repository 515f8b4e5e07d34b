"""An engine that dies or hangs under requests is replaced, and every request is answered."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import ray

from actors.cluster import SamplingCluster, start_sampling
from actors.fleet.member import State
from rzero_ray.config.cluster import RecoveryConfig
from rzero_ray.config.config import Config, sampling_settings
from rzero_ray.run.clock import StageClock
from rzero_ray.tasks.registry import ArithmeticTask
from rzero_ray.types import Completion, RunError, SampleRequest, Sampling

pytestmark = pytest.mark.slow  # engines of their own, which it kills

TASK = ArithmeticTask()
NUM_REQUESTS = 200


@pytest.fixture
def local_ray() -> Iterator[None]:
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


def _request(seed: int) -> SampleRequest:
    sampling = Sampling(temperature=1.0, top_p=1.0, top_k=-1, max_tokens=96)
    messages = TASK.solver_messages("20+19-18+17-16+15")
    return SampleRequest(messages=messages, num_samples=10, seed=seed, sampling=sampling)


async def _start(config: Config, recovery: RecoveryConfig) -> SamplingCluster:
    settings = replace(sampling_settings(config), recovery=recovery)
    return await start_sampling(settings, Path(config.model.path), StageClock())


async def _ask(running: SamplingCluster, seeds: Sequence[int]) -> list[list[Completion]]:
    return await asyncio.gather(*(running.sample(_request(1000 * seed)) for seed in seeds))


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_requests_outlive_their_engine(local_ray: None, tiny_config: Config, how: signal.Signals):
    async def go() -> None:
        running = await _start(tiny_config, RecoveryConfig(silence=6.0))
        try:
            member = running.pool.samplers[0].member
            # The engine is in there: after a crash of native code there is no time to go on.
            assert not psutil.Process(member.pid).children(recursive=True)
            asked = asyncio.create_task(_ask(running, range(NUM_REQUESTS)))
            while not running.pool.samplers[0].outstanding_tokens:
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.3)
            os.kill(member.pid, how)
            answers = await asyncio.wait_for(asked, 300)
            assert (member.life, member.state) == (2, State.HEALTHY)
            assert [len(completions) for completions in answers] == [10] * NUM_REQUESTS
            assert {c.prompt_ids.tobytes() for of in answers for c in of} == {
                answers[0][0].prompt_ids.tobytes()
            }
            again = await _ask(running, range(5))  # a seed gives its answer on any engine
            same = [
                one.text == other.text
                for first, second in zip(answers, again, strict=False)
                for one, other in zip(first, second, strict=True)
            ]
            assert sum(same) >= 45  # other requests beside it may round a probability otherwise
        finally:
            await running.close()

    asyncio.run(go())


def test_without_restarts_who_waits_is_told_in_one_line(local_ray: None, tiny_config: Config):
    async def go() -> float:
        running = await _start(tiny_config, RecoveryConfig(max_restarts=0))
        try:
            asked = asyncio.create_task(_ask(running, range(NUM_REQUESTS)))
            await asyncio.sleep(0.5)
            begin = time.monotonic()
            os.kill(running.pool.samplers[0].member.pid, signal.SIGKILL)
            with pytest.raises(RunError) as caught:
                await asked
            text = str(caught.value)
            assert text.startswith("solver/sampler-0 died (") and "\n" not in text
            assert text.endswith("recovery.max_restarts=0")
            return time.monotonic() - begin
        finally:
            await running.close()

    assert asyncio.run(go()) < 30
