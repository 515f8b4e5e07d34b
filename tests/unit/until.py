"""Waiting in a test for something that others bring about."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

_LOOK_S = 0.005


async def until(condition: Callable[[], bool], seconds: float = 5.0) -> None:
    """Wait until a condition holds; TimeoutError where it does not in time."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(_LOOK_S)
