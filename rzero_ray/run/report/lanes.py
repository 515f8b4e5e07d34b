"""Reads `trace.json`: phases, and a lane for each actor, with what it did and when.

The file may have a hundred megabytes and grow while it is read. So it is read by lines, of which
sums stay; the spans of a window are read again, from the place where they begin. Lines are not
trusted: one that is not as `run.trace` writes it is counted and left out.
"""

from __future__ import annotations

import json
import os
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rzero_ray.run.trace import (
    ACTIVITIES,
    LONGEST_LINE,
    PHASES_TRACK,
    START,
    TRACE_FILE,
    WORK,
)

_MARK_BYTES = 1 << 18
"""Between two places from which a window can be read."""
_LATEST_US = 1e17
"""Microseconds since 1970; what is later is damage."""
_MOST_LANES = 2000
"""Actors of one file; more is damage."""
_LEAST_PHASE_S = 0.05
"""Phases that are shorter had nothing left to do: a run that is resumed goes through them."""

_Tracks = dict[tuple[int, int], str]


@dataclass(slots=True)
class Lane:
    """An actor, over all starts of a run."""

    name: str
    node: str = ""
    """The address of the node on which it was last."""
    gpus: tuple[str, ...] = ()
    """Ray's ids of the GPUs that it had there."""
    busy_s: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    """By activity: the seconds at work in the whole run."""


@dataclass(slots=True)
class PhaseSpan:
    """A phase; `start` and `end` are seconds since the run's start."""

    iteration: int
    phase: str
    start: float
    end: float


class IterationSpan(NamedTuple):
    """An iteration, from its first phase to its last, in seconds since the run's start."""

    start: float
    end: float


def iterations_of(phases: Sequence[PhaseSpan]) -> dict[int, IterationSpan]:
    """Return the iterations that phases are of, by number, in their order."""
    found: dict[int, IterationSpan] = {}
    for of in phases:
        start = found[of.iteration].start if of.iteration in found else of.start
        found[of.iteration] = IterationSpan(start, of.end)
    return found


class Window(NamedTuple):
    """A part of a run, in equal bins."""

    start: float
    """Seconds since the run's start, as `end` is."""
    end: float
    shares: dict[str, dict[str, NDArray[np.float64]]]
    """By lane and activity: [bins] the share of each bin in which the actor was at that work."""


class _Span(NamedTuple):
    """What an actor did in some seconds since 1970."""

    lane: str
    activity: str
    start: float
    seconds: float
    busy_s: float


class _Mark(NamedTuple):
    """A place in the file from which it can be read on."""

    offset: int
    latest: float
    """The latest moment that is named before it, in seconds since 1970."""
    tracks: _Tracks


class TraceReader:
    """The timeline of a run, as far as it is written."""

    def __init__(self, root: Path) -> None:
        """`root` is the run directory, in which nothing is read before `read_on`."""
        self._path = root / TRACE_FILE
        self._forget()

    def _forget(self) -> None:
        self.lanes: dict[str, Lane] = {}
        self.phases: list[PhaseSpan] = []
        self.num_damaged = 0
        """Lines that cannot be read."""
        self.problem = ""
        """Why there is no timeline, in one line."""
        self._inode = self._offset = 0
        self._tracks: _Tracks = {}
        self._process: int | None = None
        self._starts: list[tuple[float, float]] = []
        """(first, last) moment of each start, in seconds since 1970."""
        self._phase_is_open = False
        self._marks: list[_Mark] = [_Mark(0, 0.0, {})]

    @property
    def origin(self) -> float:
        """The run's first moment, in seconds since 1970."""
        return self._starts[0][0] if self._starts else 0.0

    @property
    def seconds(self) -> float:
        """Seconds from the run's first moment to its last, pauses between starts included."""
        return self._latest() - self.origin

    @property
    def work_seconds(self) -> float:
        """Seconds in which a driver was at work, of all starts."""
        return sum(last - first for first, last in self._starts)

    def read_on(self) -> None:
        """Read what has been written since the last call, up to the last whole line."""
        try:
            with self._path.open("rb") as file:
                found = os.fstat(file.fileno())
                if found.st_ino != self._inode or found.st_size < self._offset:
                    self._forget()
                    self._inode = found.st_ino
                for line in _lines(file, self._offset):
                    self._take(line)
                    self._offset = file.tell()
                    if self._offset - self._marks[-1].offset >= _MARK_BYTES:
                        tracks = dict(self._tracks)
                        self._marks.append(_Mark(self._offset, self._latest(), tracks))
        except OSError as error:
            self._forget()
            self.problem = f"{TRACE_FILE} cannot be read: {error.strerror or error}"
            return
        is_told = any(lane.busy_s for lane in self.lanes.values())
        self.problem = "" if is_told else f"{TRACE_FILE} does not say when actors were at work"

    def window(self, start: float, end: float, num_bins: int) -> Window:
        """Return what the lanes did between two moments, in seconds since the run's start."""
        shares: dict[str, dict[str, NDArray[np.float64]]] = defaultdict(dict)
        width, begin = (end - start) / num_bins, self.origin + start
        with suppress(OSError):  # it is gone since `read_on`
            for span in self._spans_from(begin):
                if span.start < self.origin + end and span.start + span.seconds > begin:
                    bins = shares[span.lane].setdefault(span.activity, np.zeros(num_bins))
                    density = span.busy_s / span.seconds
                    _spread(bins, (span.start - begin) / width, span.seconds / width, density)
        return Window(start, end, dict(shares))

    def last_iterations(self, at_most_s: float) -> tuple[float, float]:
        """Return from when to when the last iterations went that take `at_most_s` seconds together,
        at least one of them; the whole run where no phase is known."""
        if not self.phases:
            return 0.0, self.seconds
        spans = iterations_of(self.phases)
        end = self.phases[-1].end
        fitting = [of.start for of in spans.values() if end - of.start <= at_most_s]
        return min(fitting, default=spans[self.phases[-1].iteration].start), end

    # Lines.

    def _latest(self) -> float:
        return max((last for _, last in self._starts), default=self.origin)

    def _take(self, line: bytes) -> None:
        """Add a line to the sums, or to those that are damaged."""
        if line.strip() in (b"", b"[", b"]"):
            return
        event = _event(line)
        if event is None:
            self.num_damaged += 1
            return
        self._pass_time(event)
        args = event["args"]
        if event["ph"] == "M":
            _name_track(self._tracks, event)
        elif event["cat"] == WORK:
            self._add_work(event)
        elif event["ph"] == "i" and isinstance(args.get("actor"), str):
            self._see_actor(args["actor"], args)
        elif event["ph"] in ("B", "E") and self._track(event) == PHASES_TRACK:
            self._end_phase(event["ts"] - self.origin)
            if event["ph"] == "B":
                self._begin_phase(args, event["ts"] - self.origin)

    def _pass_time(self, event: dict[str, Any]) -> None:
        """Have the run last until an event."""
        if event["name"] == START or event["pid"] != self._process:
            self._process = event["pid"]
            self._phase_is_open = False
            if event["ts"]:
                self._starts.append((event["ts"], event["ts"]))
        if event["ts"] and self._starts:
            first, last = self._starts[-1]
            self._starts[-1] = first, max(last, event["ts"] + event["dur"])
            if self._phase_is_open:
                self.phases[-1].end = self._starts[-1][1] - self.origin

    def _track(self, event: dict[str, Any]) -> str | None:
        return self._tracks.get((event["pid"], event["tid"]))

    def _add_work(self, event: dict[str, Any]) -> None:
        span = _span(event, self._tracks)
        lane = None if span is None else self._lane(span.lane)
        if span is None or lane is None:
            self.num_damaged += 1
        else:
            lane.busy_s[span.activity] += span.busy_s

    def _see_actor(self, name: str, args: dict[str, Any]) -> None:
        lane = self._lane(name)
        if lane is not None:
            node, gpus = args.get("node", ""), args.get("gpus", [])
            lane.node = node if isinstance(node, str) else ""
            lane.gpus = tuple(map(str, gpus)) if isinstance(gpus, list) else ()

    def _lane(self, name: str) -> Lane | None:
        if name not in self.lanes and len(self.lanes) < _MOST_LANES:
            self.lanes[name] = Lane(name)
        return self.lanes.get(name)

    def _end_phase(self, now: float) -> None:
        if self._phase_is_open:
            self._phase_is_open = False
            self.phases[-1].end = now
            if now - self.phases[-1].start < _LEAST_PHASE_S:
                del self.phases[-1]

    def _begin_phase(self, args: dict[str, Any], now: float) -> None:
        iteration, phase = args.get("iteration"), args.get("phase")
        if isinstance(iteration, int) and isinstance(phase, str):
            self._phase_is_open = True
            self.phases.append(PhaseSpan(iteration, phase, now, now))
        else:
            self.num_damaged += 1

    def _spans_from(self, moment: float) -> Iterator[_Span]:
        """Yield the spans that end after a moment, and some before."""
        at = bisect_right(self._marks, moment, key=lambda mark: mark.latest) - 1
        mark = self._marks[max(0, at)]
        tracks = dict(mark.tracks)
        with self._path.open("rb") as file:
            for line in _lines(file, mark.offset):
                event = _event(line)
                if event is not None and event["ph"] == "M":
                    _name_track(tracks, event)
                elif event is not None and event["cat"] == WORK:
                    span = _span(event, tracks)
                    if span is not None:
                        yield span
                if file.tell() >= self._offset:
                    return


def _lines(file: BinaryIO, offset: int) -> Iterator[bytes]:
    """Yield the whole lines from a place on; the start of one that is too long stands for it."""
    file.seek(offset)
    while (line := file.readline(LONGEST_LINE)).endswith(b"\n") or len(line) == LONGEST_LINE:
        rest = line
        while not rest.endswith(b"\n"):
            rest = file.readline(LONGEST_LINE)
            if not rest:
                return
        yield line


def _event(line: bytes) -> dict[str, Any] | None:
    """Return an event with all fields that are read here, times in seconds; None of damage."""
    try:
        found = json.loads(line.strip().rstrip(b","))
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, dict):
        return None
    event = {"ts": 0, "dur": 0, "tid": 0, "pid": 0, "name": "", "cat": "", "args": {}, **found}
    for key, kind in _KINDS.items():
        if not isinstance(event.get(key), kind):
            return None
    if not (0 <= event["ts"] <= _LATEST_US and 0 <= event["dur"] <= _LATEST_US):
        return None
    event["ts"], event["dur"] = event["ts"] / 1e6, event["dur"] / 1e6
    return event


_KINDS: dict[str, Any] = {
    "ph": str,
    "ts": int | float,
    "dur": int | float,
    "tid": int,
    "pid": int,
    "name": str,
    "cat": str,
    "args": dict,
}


def _name_track(tracks: _Tracks, event: dict[str, Any]) -> None:
    """Note what a thread of the trace stands for. A start may have the process number of another
    one, and says all names anew."""
    name = event["args"].get("name")
    if event["name"] == "thread_name" and isinstance(name, str):
        tracks[event["pid"], event["tid"]] = name


def _span(event: dict[str, Any], tracks: _Tracks) -> _Span | None:
    """Return what an actor did, or None of damage."""
    lane, busy_s = tracks.get((event["pid"], event["tid"])), event["args"].get("busy_s")
    if lane is None or event["name"] not in ACTIVITIES or not event["dur"]:
        return None
    if not isinstance(busy_s, int | float) or not busy_s >= 0:
        return None
    seconds = event["dur"]
    return _Span(lane, event["name"], event["ts"], seconds, min(busy_s, seconds))


def _spread(bins: NDArray[np.float64], start: float, length: float, share: float) -> None:
    """Add a share of `length` bins from `start` on, which may lie beyond either end."""
    begin, end = max(0.0, start), min(float(len(bins)), start + length)
    first, last = int(begin), min(int(end), len(bins) - 1)
    if first >= last:
        bins[last] += share * max(0.0, end - begin)
        return
    bins[first] += share * (first + 1 - begin)
    bins[first + 1 : last] += share
    bins[last] += share * (end - last)
