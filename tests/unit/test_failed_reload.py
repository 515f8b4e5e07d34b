"""What a sampler does with the calls of a publication that has failed or was given up."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from actors.sampling.sampler import Sampler
from actors.sampling.vllm_engine import VllmEngine
from rzero_ray.types import RunError, WeightVersion

VERSION = WeightVersion(role="solver", iteration=1, num_steps=0)


class FakeVllm:
    """Notes what it is told; `update_weights` fails where the part is `bad`."""

    def __init__(self) -> None:
        self.log: list[str] = []

    async def pause(self) -> None:
        self.log.append("pause")

    async def resume(self) -> None:
        self.log.append("resume")

    async def tell_worker(self, method: str, **arguments: Any) -> None:
        self.log.append(method)
        if arguments.get("update_info") == {"part": "bad"}:
            raise ValueError("shapes\ndo not match")

    async def set_weight_version(self, name: str) -> None:
        self.log.append(name)


@pytest.fixture
def vllm() -> FakeVllm:
    return FakeVllm()


@pytest.fixture
def sampler(vllm: FakeVllm, tmp_path) -> Sampler:
    """A sampler around a real `VllmEngine`, without vLLM."""
    engine: Any = VllmEngine.__new__(VllmEngine)
    engine._vllm, engine._published, engine._num_publications = vllm, {}, 0
    engine._is_connected = engine._is_reloading = False
    made: Any = Sampler.__new__(Sampler)
    made._name, made._engine = "solver/sampler-0", engine
    made._num_reloads = made._attempt = made._paused_since = 0
    return made


def test_a_failure_is_one_line_and_the_next_publication_drops_what_it_left(
    sampler: Sampler, vllm: FakeVllm
):
    async def go() -> None:
        first = await sampler.start_weight_update(1)
        with pytest.raises(RunError, match="solver/sampler-0 could not load new weights") as error:
            await sampler.update_weights({"part": "bad"}, first)
        assert "ValueError: shapes do not match" in str(error.value)
        second = await sampler.start_weight_update(1)
        with pytest.raises(RunError, match="given up"):  # a call of the first, come late
            await sampler.update_weights({"part": "late"}, first)
        last = await sampler.update_weights({"part": "good"}, second)
        await sampler.finish_weight_update(VERSION, last)

    asyncio.run(go())
    begun = ["pause", "start_weight_update", "update_weights"]
    again = ["pause", "drop_weight_update", "start_weight_update", "update_weights"]
    end = ["finish_weight_update", VERSION.name, "resume"]
    assert vllm.log == [*begun, *again, *end]


def test_an_engine_leaves_a_group_that_nobody_has_dissolved(sampler: Sampler, vllm: FakeVllm):
    async def go() -> None:
        await sampler.connect_weights({})
        await sampler.start_weight_update(1)
        await sampler.connect_weights({})

    asyncio.run(go())
    assert vllm.log == [
        "init_weight_transfer_engine",
        "pause",
        "start_weight_update",
        "drop_weight_update",
        "shutdown_weight_transfer_engine",
        "init_weight_transfer_engine",
    ]


def test_a_learner_that_has_been_replaced_loads_nothing_any_more(sampler: Sampler, vllm: FakeVllm):
    async def go() -> None:
        await sampler.connect_weights({})
        await sampler.start_weight_update(1)
        reload = await sampler.start_weight_update(2)  # of the learner in the first one's place
        before = list(vllm.log)
        with pytest.raises(RunError, match="takes no weights of a learner that has been replaced"):
            await sampler.start_weight_update(1)
        assert vllm.log == before
        await sampler.update_weights({"part": "good"}, reload)  # goes on as if nothing had been

    asyncio.run(go())
