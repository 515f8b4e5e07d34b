"""An engine in its sampler's process takes the actor with it: who waits is told, in one line."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
from ray.util.state import list_actors

from actors.cluster import SamplingCluster, start_sampling
from actors.waiting import ActorLostError
from rzero_ray.config.config import Config, sampling_settings
from rzero_ray.run.clock import StageClock
from rzero_ray.tasks.registry import ArithmeticTask
from rzero_ray.types import Completion, SampleRequest, Sampling

pytestmark = pytest.mark.slow  # an engine of its own, which it kills

TASK = ArithmeticTask()


@pytest.fixture
def running(tiny_config: Config) -> Iterator[SamplingCluster]:
    ray.init(address="local", num_cpus=2, include_dashboard=True, log_to_driver=False)
    model = Path(tiny_config.model.path)
    cluster = asyncio.run(start_sampling(sampling_settings(tiny_config), model, StageClock()))
    yield cluster
    asyncio.run(cluster.close())
    ray.shutdown()


def _request(seed: int) -> SampleRequest:
    sampling = Sampling(temperature=1.0, top_p=1.0, top_k=-1, max_tokens=96)
    messages = TASK.solver_messages("20+19-18+17-16+15")
    return SampleRequest(messages=messages, num_samples=10, seed=seed, sampling=sampling)


def test_a_crash_of_native_code_is_the_loss_of_an_actor(running: SamplingCluster):
    address = ray.get_runtime_context().gcs_address
    samplers: list[Any] = list_actors(address, filters=[("name", "=", "solver/sampler-0")])
    process = psutil.Process(samplers[0].pid)
    assert not process.children(recursive=True)  # the engine is in there

    async def go() -> tuple[list[list[Completion] | BaseException], float]:
        asked = [asyncio.create_task(running.sample(_request(100 * k))) for k in range(400)]
        await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
        os.kill(process.pid, signal.SIGKILL)  # as after a crash, with no time to go on
        begin = time.monotonic()
        found = await asyncio.gather(*asked, return_exceptions=True)
        return found, time.monotonic() - begin

    found, seconds = asyncio.run(go())
    errors = [answer for answer in found if isinstance(answer, BaseException)]
    assert errors and seconds < 30
    for error in errors:
        assert isinstance(error, ActorLostError)
        text = str(error)
        assert text.startswith("waited for solver/sampler-0 to sample, but an actor was lost: ")
        assert "\n" not in text
    assert not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
