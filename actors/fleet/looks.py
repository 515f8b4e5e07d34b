"""What is done again and again beside a run, and may fail without ending it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

logger = logging.getLogger(__name__)


@asynccontextmanager
async def repeated(
    look: Callable[[], Awaitable[None]], period_s: float, failure: str
) -> AsyncIterator[None]:
    """Have `look` called at once and every `period_s` seconds in the block.

    The first time that it raises, a warning says `failure`, such as "queues are not shown", and
    why; the next look is made all the same.
    """

    async def go_on() -> None:
        has_failed = False
        while True:
            try:
                await look()
            except Exception as error:
                if not has_failed:
                    reason = " ".join(str(error).split())
                    logger.warning("%s: %s: %s", failure, type(error).__name__, reason)
                has_failed = True
            await asyncio.sleep(period_s)

    looking = asyncio.create_task(go_on())
    try:
        yield
    finally:
        looking.cancel()
        await asyncio.gather(looking, return_exceptions=True)
