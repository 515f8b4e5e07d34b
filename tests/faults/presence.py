"""Which engines came and went while a run was at work, and whether it stood still meanwhile."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from tests.faults.evidence import Event

_HAS_LEFT = "it has left"
"""How the reason begins for which an engine counts as dead that was let go."""


@dataclass(frozen=True)
class Coming:
    """An engine that joined. Times are seconds since 1970."""

    actor: str
    node: str
    asked: float
    """When a place was asked for."""
    ready: float
    """When it had its role's weights, and was given requests."""


@dataclass(frozen=True)
class Going:
    """An engine that was let go."""

    actor: str
    node: str
    told: float
    """When it was given no more."""
    gone: float | None
    """When it had answered what it had, and was ended; None where it died before, or is there."""


def comings(lines: Iterable[Event]) -> list[Coming]:
    """Return the engines that have joined, in the order in which they were ready."""
    asked: dict[str, float] = {}
    found = []
    for line in _of_actors(lines):
        actor, state = line["actor"], line["state"]
        if state == "JOINING":
            asked[actor] = line["time"]
        elif state == "HEALTHY" and actor in asked:
            found.append(Coming(actor, line["node"], asked.pop(actor), line["time"]))
    return found


def goings(lines: Iterable[Event]) -> list[Going]:
    """Return the engines that were let go, in the order in which they were."""
    told: dict[str, Event] = {}
    found = {}
    for line in _of_actors(lines):
        actor, state = line["actor"], line["state"]
        if state == "LEAVING":
            told[actor] = line
            found[actor, line["time"]] = Going(actor, line["node"], line["time"], None)
        elif state == "DEAD" and actor in told:
            was = told.pop(actor)
            gone = line["time"] if line["reason"].startswith(_HAS_LEFT) else None
            found[actor, was["time"]] = Going(actor, was["node"], was["time"], gone)
    return list(found.values())


def present_on(lines: Iterable[Event], node: str) -> set[str]:
    """Return the actors of a run that are up on a node, by the last that was told of each."""
    last = {line["actor"]: line for line in _of_actors(lines)}
    up = ("HEALTHY", "SUSPECT", "STALE", "LEAVING")
    return {a for a, line in last.items() if line["state"] in up and line["node"] == node}


@dataclass(frozen=True)
class Standstill:
    """How long nothing was finished while something else went on, and before."""

    meanwhile_s: float
    before_s: float
    """The longest of either; 0.0 where nothing was finished at all."""
    lasted_s: float
    """How long the something went on."""

    @property
    def is_one(self) -> bool:
        """Whether it looks as if the run had waited: it paused much longer than before, and for
        most of the time."""
        return self.meanwhile_s > max(3 * self.before_s, self.lasted_s / 2)

    def __str__(self) -> str:
        return f"steps at most {self.meanwhile_s:.1f} s apart, {self.before_s:.1f} s before"


def standstill(finished: Sequence[float], begin: float, end: float) -> Standstill:
    """Compare the pauses between things that were finished, at these times, from `begin` to `end`
    with those before."""
    gaps = list(pairwise(sorted(finished)))
    meanwhile = [late - early for early, late in gaps if late > begin and early < end]
    before = [late - early for early, late in gaps if late <= begin]
    return Standstill(max(meanwhile, default=0.0), max(before, default=0.0), end - begin)


def _of_actors(lines: Iterable[Event]) -> Iterator[Event]:
    return (line for line in lines if line["event"] == "actor")
