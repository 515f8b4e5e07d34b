"""Waiting with a deadline: nothing waits for ever, and the log says what is waited for.

Thousands of calls may be under way at a time. Those of a stage share one reminder a minute, which
counts them and names the oldest.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import ray
from ray.exceptions import (
    ActorUnschedulableError,
    GetTimeoutError,
    NodeDiedError,
    OutOfMemoryError,
    RayActorError,
    RayTaskError,
)

from rzero_ray.disk.errors import disk_error
from rzero_ray.types import RunError, UserError

T = TypeVar("T")

logger = logging.getLogger(__name__)

_REMINDER_S = 60.0
"""Time between two log lines about one stage."""
_TOLERANCE_S = 1.0
"""How early a wait may wake up and still remind."""

LOSSES = (RayActorError, OutOfMemoryError, NodeDiedError, ActorUnschedulableError)
"""What Ray raises of an actor that has died, or cannot be reached: not all of it is an
`RayActorError`."""

_under_way: dict[str, dict[asyncio.Future[Any], tuple[str, float]]] = {}
"""By stage: what each wait is for and since when, the oldest first."""
_reminded: dict[str, float] = {}
"""When the log last spoke of a stage."""


class DeadlineError(RunError):
    """Something did not happen in time; the text says what, and after how long."""


class ActorLostError(RunError):
    """An actor died; the text names what was waited for and Ray's account of the death."""


class EngineFailedError(RunError):
    """vLLM has failed in an actor that lives: it answers nothing any more; the text says why."""


async def within(
    deadline_s: float, what: str, awaitable: Awaitable[T], stage: str | None = None
) -> T:
    """Await with a deadline; `what` completes the sentence 'waited for ...'.

    Waits of one `stage` are reminded of together; one without is a stage by itself.
    """
    stage = what if stage is None else stage
    task = asyncio.ensure_future(awaitable)
    start = time.monotonic()
    _under_way.setdefault(stage, {})[task] = what, start
    task.add_done_callback(lambda done: _forget(stage, done))
    while True:
        left = start + deadline_s - time.monotonic()
        try:
            done, _ = await asyncio.wait({task}, timeout=max(0.0, min(left, _REMINDER_S)))
        except asyncio.CancelledError:
            _abandon(task)
            raise
        if done:
            with _one_line_errors(what):
                return task.result()
        if time.monotonic() - start >= deadline_s:
            _abandon(task)
            raise DeadlineError(_too_late(what, deadline_s))
        _remind(stage)


def get_within(deadline_s: float, what: str, refs: Sequence[ray.ObjectRef]) -> list[Any]:
    """Return `ray.get(refs)` with a deadline, outside an event loop."""
    start = time.monotonic()
    while True:
        left = start + deadline_s - time.monotonic()
        try:
            with _one_line_errors(what):
                return ray.get(list(refs), timeout=max(0.0, min(left, _REMINDER_S)))
        except GetTimeoutError:
            if time.monotonic() - start >= deadline_s:
                raise DeadlineError(_too_late(what, deadline_s)) from None
            logger.warning("still waiting for %s (%.0f s)", what, time.monotonic() - start)


def _forget(stage: str, task: asyncio.Future[Any]) -> None:
    _under_way[stage].pop(task)
    if not _under_way[stage]:
        del _under_way[stage]
        _reminded.pop(stage, None)


def _remind(stage: str) -> None:
    """Log one line about a stage, unless it was spoken of within the last minute."""
    now = time.monotonic()
    if stage in _reminded and now - _reminded[stage] < _REMINDER_S - _TOLERANCE_S:
        return
    _reminded[stage] = now
    waits = _under_way[stage]
    what, since = next(iter(waits.values()))
    count = f"{len(waits)} calls of {stage}, the oldest of them " if len(waits) > 1 else ""
    logger.warning("still waiting for %s%s (%.0f s)", count, what, now - since)


@contextmanager
def _one_line_errors(what: str) -> Iterator[None]:
    """Turn Ray's wrapped errors into those that the driver shows in one line.

    Errors of ours keep their text without the remote traceback; a bug keeps its traceback.
    """
    try:
        yield
    except RayTaskError as error:
        if isinstance(error.cause, RunError | UserError):
            raise error.cause from None
        refused = disk_error(error.cause)
        if refused is not None:
            raise RunError(f"waited for {what}: {refused}") from None
        raise
    except LOSSES as error:
        cause = " ".join(str(error).split())
        raise ActorLostError(f"waited for {what}, but an actor was lost: {cause}") from None


def _abandon(task: asyncio.Future[Any]) -> None:
    """Cancel what nobody waits for any more; how it ends is not worth a traceback in the log."""
    task.add_done_callback(lambda done: done.cancelled() or done.exception())
    task.cancel()


def _too_late(what: str, deadline_s: float) -> str:
    return (
        f"waited {deadline_s:.0f} s for {what}; the deadlines are the config's section `deadline`"
    )
