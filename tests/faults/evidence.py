"""What a run tells of a disturbance: who serves, who was replaced, what was drawn again."""

from __future__ import annotations

import hashlib
import json
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Event = dict[str, Any]
"""A line of `events.jsonl`."""


def events(root: Path) -> list[Event]:
    """Return the lines of `events.jsonl`, without one that is just being written."""
    path = root / "events.jsonl"
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines(True) if line.endswith("\n")]


@dataclass(frozen=True)
class Life:
    """A process that serves as an actor."""

    actor: str
    number: int
    """From 1."""
    pid: int
    since: float
    """Seconds since 1970."""


def lives(lines: Iterable[Event]) -> dict[str, Life]:
    """Return, by name, the process that has served as each actor since the last start."""
    found: dict[str, Life] = {}
    for line in lines:
        if line["event"] == "start":
            found.clear()
        if line["event"] == "actor" and line["state"] == "HEALTHY" and "pid" in line:
            actor = line["actor"]
            found[actor] = Life(actor, line["life"], line["pid"], line["time"])
    return found


def witness(lines: Iterable[Event], actor: str, after: float) -> Event | None:
    """Return the first event after a moment that says that an actor is gone, or another has come.

    A suspicion is none: it comes to nothing where the actor answers again.
    """
    told = (line for line in lines if line["event"] == "actor" and line["actor"] == actor)
    return next(
        (line for line in told if line["time"] > after and line["state"] != "SUSPECT"), None
    )


def next_life(lines: Iterable[Event], before: Life, after: float) -> Life | None:
    """Return the first process after a moment that serves in another's place."""
    for line in lines:
        if line["time"] > after and before.actor in (found := lives([line])):
            life = found[before.actor]
            if life.pid != before.pid:
                return life
    return None


def has_begun(lines: Iterable[Event], iteration: int, phase: str) -> bool:
    """Return whether a phase of steps has begun."""
    return any(
        line["event"] == "phase" and (line["iteration"], line["phase"]) == (iteration, phase)
        for line in lines
    )


def num_starts(lines: Iterable[Event]) -> int:
    """Return how many drivers have begun or resumed the run."""
    return sum(line["event"] == "start" for line in lines)


@dataclass(frozen=True)
class _Sampled:
    """The files of a step's samples, when the manifest first listed it."""

    at: float
    files: dict[str, tuple[int, int, str]]


class FinishedSteps:
    """What a run's manifest has listed, and the samples of the listed steps as they then were.

    `look` is to be called many times a second while the run is at work.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._first: dict[str, _Sampled] = {}

    def look(self) -> None:
        """Remember what is listed for the first time."""
        manifest = self._root / "manifest.json"
        if not manifest.exists():
            return
        for key in json.loads(manifest.read_text())["finished"]:
            if key not in self._first:
                self._first[key] = _Sampled(time.time(), _files(self._root / key))

    def first_after(self, moment: float) -> float | None:
        """Return when something was finished for the first time after a moment."""
        return min((seen.at for seen in self._first.values() if seen.at > moment), default=None)

    def times(self, phase: str) -> list[float]:
        """Return when each step of a phase, such as `iteration-01/solver`, was finished."""
        return [seen.at for key, seen in self._first.items() if key.startswith(f"{phase}/step-")]

    def drawn_again(self) -> list[str]:
        """Return the steps whose samples are other files than when they were first listed."""
        return sorted(
            key
            for key, seen in self._first.items()
            if "/step-" in key and _files(self._root / key) != seen.files
        )


def _files(folder: Path) -> dict[str, tuple[int, int, str]]:
    """Return the inode, the time of change and the content of a step's files: the same samples may
    be drawn again, and be equal."""
    return {
        path.name: (path.stat().st_ino, path.stat().st_mtime_ns, _digest(path))
        for path in sorted(folder.glob("*.parquet"))
    }


def _digest(path: Path) -> str:
    return hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest()


def doubled(rows: Sequence[str]) -> list[str]:
    """Return the steps that have more than one row of figures (`ShortRun.updates`)."""
    return sorted(step for step, count in Counter(rows).items() if count > 1)
