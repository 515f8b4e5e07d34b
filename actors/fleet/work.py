"""What an actor is at, as spans of time: a lane of the run's timeline.

The driver knows it without asking: it sees each call begin and end. An engine is busy from its
first request in flight to its last, a learner rank from a call to its own answer.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress

from actors.fleet.looks import repeated
from rzero_ray.types import Activity, BusySpan, Role

_GAP_S = 0.05
"""Pauses up to here are a part of a span, which says how long it was busy without them: an engine
that gets its requests one by one has thousands of them a minute."""
_LEAST_S = 0.003
"""Shorter spans are not told."""
_MOST_SPANS = 1000
"""Spans kept until they are taken, the last ones: nobody takes those of an evaluation."""
_TELL_S = 5.0
"""Time between two tellings, and the longest span: a run that is killed loses no more."""

_Kind = tuple[Activity, Role | None]


class Work:
    """The spans of one actor, which do not overlap: where it has several kinds of work under way,
    as an engine that samples while weights come, the one that began last counts."""

    def __init__(self, actor: str) -> None:
        """`actor` is its name in the dashboard."""
        self._actor = actor
        self._under_way: dict[_Kind, int] = {}
        """How many calls of each kind there are, in the order in which the kinds have begun."""
        self._kind: _Kind | None = None
        """What counts at present."""
        self._since = 0.0
        """Since when that has counted, or the last kind has been told."""
        self._open: tuple[_Kind, float, float, float] | None = None
        """(kind, start, end, busy seconds) of what may be a part of the next span."""
        self._spans: deque[BusySpan] = deque(maxlen=_MOST_SPANS)

    def begin(self, activity: Activity, role: Role | None) -> None:
        """Note that a call begins, for the role."""
        kind = activity, role
        count = self._under_way.get(kind, 0)
        self._under_way[kind] = count + 1
        if not count:
            self._turn()

    def end(self, activity: Activity, role: Role | None) -> None:
        """Note that a call has ended that `begin` was told of."""
        kind = activity, role
        count = self._under_way[kind] - 1
        self._under_way[kind] = count
        if not count:
            del self._under_way[kind]
            self._turn()

    @contextmanager
    def at(self, activity: Activity, role: Role | None) -> Iterator[None]:
        """Have the block be a call."""
        self.begin(activity, role)
        try:
            yield
        finally:
            self.end(activity, role)

    def take(self) -> list[BusySpan]:
        """Return the spans since the last call; one that is not over is cut here."""
        if self._kind is not None:
            self._put_down(time.monotonic())
        self._close()
        spans = list(self._spans)
        self._spans.clear()
        return spans

    def _turn(self) -> None:
        """Go over to what counts from here on."""
        kind = next(reversed(self._under_way), None)
        if kind == self._kind:
            return
        now = time.monotonic()
        if self._kind is not None:
            self._put_down(now)
        self._kind, self._since = kind, now

    def _put_down(self, now: float) -> None:
        """Add the time since `_since` to the span that is open, if it goes on there."""
        assert self._kind is not None
        start, busy_s = self._since, 0.0
        if self._open is not None:
            kind, begun, end, before_s = self._open
            if kind == self._kind and start - end <= _GAP_S:
                start, busy_s = begun, before_s
            else:
                self._close()
        self._open = self._kind, start, now, busy_s + now - self._since
        self._since = now

    def _close(self) -> None:
        """Have no later work be a part of the span that is open."""
        if self._open is None:
            return
        (activity, role), start, end, busy_s = self._open
        self._open = None
        if end - start >= _LEAST_S:
            self._spans.append(
                BusySpan(
                    actor=self._actor,
                    activity=activity,
                    role=role,
                    start_s=time.time() - (time.monotonic() - start),
                    seconds=end - start,
                    busy_s=busy_s,
                )
            )


@contextmanager
def all_at(works: Iterable[Work], activity: Activity, role: Role | None) -> Iterator[None]:
    """Have the block be a call of each of several actors."""
    with ExitStack() as calls:
        for work in works:
            calls.enter_context(work.at(activity, role))
        yield


@asynccontextmanager
async def told_work(
    works: Callable[[], Iterable[Work]], tell: Callable[[BusySpan], None]
) -> AsyncIterator[None]:
    """Tell of what the actors do in the block, every few seconds and at its end."""

    async def tell_all() -> None:
        for work in works():
            for span in work.take():
                tell(span)

    for work in works():  # what they did before is no part of it
        work.take()
    try:
        async with repeated(tell_all, _TELL_S, "trace.json lacks what actors do"):
            yield
    finally:
        with suppress(OSError):  # a full disk; the run finds out by itself
            await tell_all()
