"""Waiting for many things at once."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

S = TypeVar("S")
T = TypeVar("T")


async def gather_all(coroutines: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Return all results in order; the first failure cancels the others and is raised as it is.

    `asyncio.gather` would leave the others running, each to report the same failure later.
    """
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(coroutine) for coroutine in coroutines]
    except BaseExceptionGroup as failures:
        raise _first_leaf(failures) from None
    return [task.result() for task in tasks]


@asynccontextmanager
async def made_ahead(
    steps: Iterable[S], make: Callable[[S], Coroutine[Any, Any, T]], ahead: int
) -> AsyncIterator[AsyncIterator[tuple[S, T]]]:
    """Give (step, made) in order, while up to `ahead` later steps are being made already.

    With `ahead` 0 a step is made when it is asked for. What is still under way at the end of the
    block, because of an error in it, is cancelled.
    """
    under_way: deque[tuple[S, asyncio.Task[T]]] = deque()

    async def in_order() -> AsyncIterator[tuple[S, T]]:
        for step in steps:
            under_way.append((step, asyncio.create_task(make(step))))
            if len(under_way) > ahead:
                yield await _first(under_way)
        while under_way:
            yield await _first(under_way)

    try:
        yield in_order()
    finally:
        for _, task in under_way:
            task.cancel()
        await asyncio.gather(*(task for _, task in under_way), return_exceptions=True)


async def _first(under_way: deque[tuple[S, asyncio.Task[T]]]) -> tuple[S, T]:
    step, task = under_way[0]
    made = await task
    under_way.popleft()
    return step, made


async def gather_limited(coroutines: Iterable[Coroutine[Any, Any, T]], limit: int) -> list[T]:
    """Return all results in order, as `gather_all`, with at most `limit` under way at a time."""
    gate = asyncio.Semaphore(limit)

    async def run(coroutine: Coroutine[Any, Any, T]) -> T:
        try:
            async with gate:
                return await coroutine
        finally:
            coroutine.close()  # one that was cancelled before its turn was never started

    return await gather_all(run(coroutine) for coroutine in coroutines)


def _first_leaf(group: BaseExceptionGroup[Any]) -> BaseException:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
