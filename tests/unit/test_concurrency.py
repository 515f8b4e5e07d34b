"""Making steps ahead of their use: order, how far ahead, and what an error leaves behind."""

import asyncio

import pytest

from rzero_ray.run.concurrency import made_ahead


async def _walk(num_steps: int, ahead: int) -> list[str]:
    log: list[str] = []

    async def make(step: int) -> int:
        log.append(f"make {step}")
        await asyncio.sleep(0)
        return step * 10

    async with made_ahead(range(num_steps), make, ahead) as batches:
        async for step, made in batches:
            assert made == step * 10
            await asyncio.sleep(0.001)
            log.append(f"use {step}")
    return log


def test_nothing_is_made_ahead_on_policy():
    log = asyncio.run(_walk(3, ahead=0))
    assert log == ["make 0", "use 0", "make 1", "use 1", "make 2", "use 2"]


def test_one_step_is_made_while_the_one_before_is_used():
    log = asyncio.run(_walk(4, ahead=1))
    assert log == ["make 0", "make 1", "use 0", "make 2", "use 1", "make 3", "use 2", "use 3"]


def test_more_ahead_than_there_are_steps():
    assert asyncio.run(_walk(2, ahead=5)) == ["make 0", "make 1", "use 0", "use 1"]
    assert asyncio.run(_walk(0, ahead=1)) == []


def test_an_error_in_use_cancels_what_is_being_made():
    cancelled: list[int] = []

    async def make(step: int) -> int:
        try:
            await asyncio.sleep(0 if step == 0 else 60)
        except asyncio.CancelledError:
            cancelled.append(step)
            raise
        return step

    async def go() -> None:
        async with made_ahead(range(5), make, 2) as batches:
            async for _ in batches:
                raise KeyError("in use")

    with pytest.raises(KeyError):
        asyncio.run(asyncio.wait_for(go(), 5))
    assert cancelled == [1, 2]


def test_an_error_in_making_is_raised_in_its_turn():
    async def make(step: int) -> int:
        if step == 1:
            raise ValueError("step 1")
        return step

    async def go() -> list[int]:
        seen = []
        async with made_ahead(range(3), make, 1) as batches:
            with pytest.raises(ValueError, match="step 1"):
                async for step, _ in batches:
                    seen.append(step)
        return seen

    assert asyncio.run(go()) == [0]
