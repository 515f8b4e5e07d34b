"""Says that a run stands still, and what each of its actors is doing then, while it stands."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence, Set
from contextlib import asynccontextmanager

from rzero_ray.run.pace import Pace
from rzero_ray.run.run import Run

logger = logging.getLogger(__name__)

_PERIOD_S = 15.0

Stacks = Callable[[], Awaitable[Mapping[str, str]]]
"""Returns what each actor is doing, by its name."""
Shortages = Callable[[], Awaitable[Sequence[tuple[str, str]]]]
"""Returns what is short, each with a name that stays the same and a line that tells how much."""


@asynccontextmanager
async def watched(
    run: Run, pace: Pace, stacks: Stacks, shortages: Shortages
) -> AsyncIterator[None]:
    """Look, every few seconds of the block, whether the run goes on and has what it needs.

    A late step and each shortage are told once, until they are over and begin again: a line for
    the user, and an event, with the stacks of all actors where a step is late.
    """
    watching = asyncio.create_task(_watch(run, pace, stacks, shortages))
    try:
        yield
    finally:
        watching.cancel()


async def _watch(run: Run, pace: Pace, stacks: Stacks, shortages: Shortages) -> None:
    told: set[str] = set()
    while True:
        await asyncio.sleep(_PERIOD_S)
        try:
            told = await _look(run, pace, stacks, shortages, told)
        except Exception:  # a full disk, which the run finds out for itself
            logger.exception("the watchdog could not look")


async def _look(
    run: Run, pace: Pace, stacks: Stacks, shortages: Shortages, told: Set[str]
) -> set[str]:
    """Tell what is not among `told`; return what is to be told no more."""
    found = dict(await shortages())
    for name in found.keys() - told:
        run.add_event("short", what=name, told=found[name])
        run.say(f"warning: {found[name]}")
    late = pace.lateness()
    if late and _LATE not in told:
        run.add_event("stalled", what=late, stacks=dict(await stacks()))
        run.say(f"warning: {late}; what each actor does is in events.jsonl ('stalled')")
    return found.keys() | ({_LATE} if late else set())


_LATE = "a late step"
