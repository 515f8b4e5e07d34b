"""An actor as the fleet knows it: its name, its life, and how it is."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from ray.actor import ActorHandle

from actors.fleet.life import Whereabouts
from actors.fleet.work import Work


class State(StrEnum):
    """How an actor is. Each change is an event of the run (`Change`)."""

    HEALTHY = "HEALTHY"
    """It does its work. A sampler holds the weights of its role, which a probe has confirmed."""
    SUSPECT = "SUSPECT"
    """It gave no sign of life, or a call failed: nobody asks it before it has answered."""
    DEAD = "DEAD"
    """Its process has ended, or was ended because it was silent for too long."""
    RESTARTING = "RESTARTING"
    """A new actor takes its place."""
    JOINING = "JOINING"
    """It is wanted beside the others: it waits for a place, or starts."""
    STALE = "STALE"
    """It runs, without the weights of its role: only a publication makes it HEALTHY."""
    LEAVING = "LEAVING"
    """It finishes what it was asked, is asked nothing more, and ends."""


@dataclass(slots=True, eq=False)
class Member:
    """One place in the fleet, which a new actor takes when the one before has died."""

    name: str
    """As in the dashboard, where later lives have their number behind it."""
    actor: ActorHandle | None
    """None before its first life."""
    state: State = State.HEALTHY
    life: int = 1
    """Which actor of this name it is, counted from 1."""
    pid: int = 0
    """The process of the actor, once it has started."""
    node: str = ""
    """The address of the node on which that runs."""
    node_id: str = ""
    """Ray's name of it."""
    gpus: tuple[str, ...] = ()
    """Ray's ids of its GPUs on that node."""
    work: Work = field(init=False)
    """What it does; its lives have one lane."""

    def __post_init__(self) -> None:
        """Begin with nothing to do."""
        self.work = Work(self.name)

    def found_at(self, where: Whereabouts) -> None:
        """Note what its actor says of where it runs."""
        self.pid, self.node, self.node_id = where.pid, where.node, where.node_id
        self.gpus = where.gpus

    @property
    def is_up(self) -> bool:
        """Whether there is a process that should answer."""
        return self.state in (State.HEALTHY, State.SUSPECT, State.STALE, State.LEAVING)
