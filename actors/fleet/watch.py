"""Who of the fleet is alive: asks each member for a sign of life, and has the dead replaced.

No state rests on an exception alone. A call can fail while its actor lives, and calls to an actor
on a node that is cut off hang without one. So a failure makes a member SUSPECT; what it is then is
decided by `pulse`, an actor method that answers while the actor works: an answer, Ray's word that
the actor has died, or silence for `recovery.silence` seconds, after which it is ended.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any

import ray
from ray.exceptions import (
    ActorDiedError,
    ActorUnschedulableError,
    OutOfMemoryError,
    RayTaskError,
)

from actors.fleet.member import Member, State
from actors.waiting import LOSSES, within
from rzero_ray.config.cluster import RecoveryConfig
from rzero_ray.types import ActorChange, RunError

logger = logging.getLogger(__name__)

_PERIOD_S = 2.0
"""Time between two signs of life of a member that is well."""
_QUESTIONS = 3
"""How many questions in a row a member may leave unanswered, in `recovery.silence` together. After
the first one nobody asks it for its work any more."""
_WINDOW_S = 3600.0
"""Deaths that are longer ago do not count against `recovery.max_restarts`, if there was progress
since."""

_DEATHS = (ActorDiedError, OutOfMemoryError, ActorUnschedulableError, RayTaskError)
"""What is raised when an actor is gone for good, or says of itself that it is no use."""
_DEATH = "The actor is dead because"
"""Where in Ray's text the cause begins."""

Renew = Callable[[Member], Awaitable[None]]
"""Puts a new actor into a member's place and gives it what it needs; the member is HEALTHY then."""


class Watch:
    """Knows how each member is; see the module."""

    def __init__(self, settings: RecoveryConfig) -> None:
        self._settings = settings
        self.members: dict[str, Member] = {}
        """Those that were entered, by name."""
        self._renewals: dict[str, Renew] = {}
        self._deaths: dict[str, deque[float]] = {}
        self._reasons: dict[str, str] = {}
        """Why each member died last."""
        self._replacing: dict[str, asyncio.Task[None]] = {}
        """By name: who puts a new actor into the place."""
        self._given_up: set[str] = set()
        """Those that are dead for good."""
        self._progress = time.monotonic()
        """When there was progress last."""
        self._checks: dict[tuple[str, int], asyncio.Task[bool]] = {}
        """By name and life: who asks for a sign of life."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._waiting: list[asyncio.Future[None]] = []
        self._on_change: Callable[[ActorChange], None] = lambda change: None
        self.on_announce: Callable[[], None] = lambda: None
        """Is called when a member has changed its state, as whoever waits for that is woken."""

    def _tell(self, member: Member, reason: str) -> None:
        try:
            self._on_change(_as_change(member, reason))
        except Exception:  # a full disk; the run finds out, and the fleet is looked after meanwhile
            logger.exception("nobody was told that %s is %s", member.name, member.state)

    def tell(self, on_change: Callable[[ActorChange], None]) -> None:
        """Tell `on_change` of each change from now on, and at once how every member is."""
        self._on_change = on_change
        for member in self.members.values():
            self._tell(member, "")

    def enter(self, member: Member, renew: Renew | None = None, reason: str = "") -> None:
        """Look after a member, which is there for a `reason`. When it dies `renew` is called, as
        often as `recovery.max_restarts` allows; without it whoever uses the member replaces it."""
        self.members[member.name] = member
        self._tell(member, reason)
        if renew is not None:
            self._renewals[member.name] = renew
        self._spawn(self._look_after(member))

    def join(self, member: Member, renew: Renew, reason: str) -> None:
        """Have a member's first actor made by `renew`, and look after it as `enter` does."""
        member.state = State.JOINING
        self.enter(member, renew, reason)
        self._begin_to_replace(member, renew)

    def let_go(self, member: Member, reason: str) -> None:
        """Have a member finish what it was asked; nobody replaces it when it dies."""
        self._renewals.pop(member.name, None)
        self.set(member, State.LEAVING, reason)

    async def dismiss(self, member: Member, reason: str) -> None:
        """End a member that is not wanted any more, or does not even have an actor yet."""
        self._renewals.pop(member.name, None)
        self._given_up.discard(member.name)
        replacing = self._replacing.pop(member.name, None)
        if replacing is not None:
            replacing.cancel()
            await asyncio.wait({replacing})
        self.retire(member, reason)

    def move(self, member: Member, reason: str) -> None:
        """Put a new actor elsewhere into a member's place; that is not a death that counts."""
        renew = self._renewals[member.name]
        kill(member)
        self.set(member, State.DEAD, reason)
        self._begin_to_replace(member, renew)

    def retire(self, member: Member, reason: str) -> None:
        """End a member that has served; that is not a death that counts."""
        kill(member)
        self.set(member, State.DEAD, reason)
        if self.members.get(member.name) is member:
            del self.members[member.name]

    def close(self) -> None:
        """Look after nobody any more."""
        for task in [*self._tasks, *self._checks.values(), *self._replacing.values()]:
            task.cancel()

    async def change_among(self, members: Sequence[Member], what: str, deadline_s: float) -> None:
        """Wait until any member of the fleet changes its state; `what` says what for.

        Raises RunError where all of `members`, which are waited for, are dead for good.
        """
        if members and all(self.given_up(member) for member in members):
            raise self.lost(members[-1].name)
        await within(deadline_s, what, self.next_change())

    async def next_change(self) -> None:
        """Wait until a member changes its state."""
        change: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(change)
        await change

    def set(self, member: Member, state: State, reason: str = "") -> None:
        """Record how a member is."""
        if member.state is state:
            return
        member.state = state
        self.announce()
        if self.members.get(member.name) is member:
            self._tell(member, " ".join(reason.split()))

    def condemn(self, member: Member, reason: str) -> None:
        """End a member's actor, whatever it does, and have it replaced."""
        if not member.is_up:
            return
        self.bury(member, reason)
        renew = self._renewals.get(member.name)
        if renew is not None:
            self._begin_to_replace(member, renew)

    def _begin_to_replace(self, member: Member, renew: Renew) -> None:
        if member.name not in self._replacing:
            self._replacing[member.name] = asyncio.create_task(self._replace(member, renew))

    async def is_alive(self, member: Member, reason: str = "") -> bool:
        """Return whether a member is alive, once that is known; one with a `reason` is suspected.

        A dead one is replaced meanwhile, where `enter` was told how.
        """
        if not member.is_up:
            return False
        if reason:
            self._suspect(member, reason)
        who = member.name, member.life
        check = self._checks.get(who)
        if check is None or check.done():
            check = self._checks[who] = asyncio.create_task(self._check(member))
            check.add_done_callback(lambda done: self._checks.pop(who, None))
        return await asyncio.shield(check)

    def may_restart(self, name: str) -> bool:
        """Return whether a member that has died may be replaced once more.

        What counts are its deaths within an hour, and those since there was progress: a step that
        kills whoever takes it up may take longer than an hour.
        """
        deaths = self._deaths.setdefault(name, deque())
        while deaths and deaths[0] < min(time.monotonic() - _WINDOW_S, self._progress):
            deaths.popleft()
        return len(deaths) <= self._settings.max_restarts

    def progress(self) -> None:
        """Note that something was done that need not be done again."""
        self._progress = time.monotonic()

    def lost(self, name: str) -> RunError:
        """Return the error that says that a member is not replaced any more, and why it died."""
        count = len(self._deaths[name])
        return RunError(
            f"{name} died ({self._reasons[name]}) and is not replaced: {count} of its actors died "
            "within an hour or since an update, "
            f"recovery.max_restarts={self._settings.max_restarts}"
        )

    def given_up(self, member: Member) -> bool:
        """Return whether a member is dead for good."""
        nobody = member.state is State.DEAD and member.name not in self._renewals
        return nobody or member.name in self._given_up

    def announce(self) -> None:
        """Wake up whoever waits for the next change."""
        waiting, self._waiting = self._waiting, []
        for change in waiting:
            if not change.done():
                change.set_result(None)
        self.on_announce()

    async def _look_after(self, member: Member) -> None:
        while self.members.get(member.name) is member:
            await asyncio.sleep(_PERIOD_S)
            if member.is_up:
                await self.is_alive(member)

    async def _check(self, member: Member) -> bool:
        """Ask for signs of life until there is one, or the member is dead.

        Silence is counted by questions that were not answered: where this process itself stood
        still, one question is too late and the next one is not.
        """
        silent_s, actor = 0.0, member.actor
        patience = self._settings.silence / _QUESTIONS
        while member.is_up and member.actor is actor:
            try:
                await asyncio.wait_for(_pulse(actor), patience)
            except _DEATHS as error:  # it is gone, or says that it is no use
                self.condemn(member, _cause(error))
                break
            except LOSSES as error:  # its node cannot be reached, for now or for good
                self._suspect(member, _one_line(error))
                pause = min(1.0, patience)
                await asyncio.sleep(pause)
                silent_s += pause
            except TimeoutError:
                self._suspect(member, f"it has given no sign of life for {patience:.0f} s")
                silent_s += patience
            else:
                if member.state is State.SUSPECT and member.actor is actor:
                    self.set(member, State.HEALTHY, "it has given a sign of life")
                return member.is_up
            if silent_s > self._settings.silence - patience / 2:
                silence = f"it has given no sign of life for {self._settings.silence:g} s"
                self.condemn(member, f"{silence} (recovery.silence)")
        return False

    def _suspect(self, member: Member, reason: str) -> None:
        # One without its weights stays so, lest a sign of life passes for weights.
        if member.state is State.HEALTHY:
            self.set(member, State.SUSPECT, reason)

    async def _replace(self, member: Member, renew: Renew) -> None:
        """Have a dead member replaced, again where the new actor does not get that far."""
        while member.state not in (State.HEALTHY, State.SUSPECT, State.LEAVING):
            if not self.may_restart(member.name):
                self._given_up.add(member.name)
                self.announce()
                break
            if member.state is not State.JOINING:
                kill(member)
                self.set(member, State.RESTARTING)
            try:
                await renew(member)
            except Exception as error:
                if not isinstance(error, RunError):
                    logger.exception("%s could not be replaced", member.name)
                self.bury(member, f"the new actor failed: {error}")
        if self._replacing.get(member.name) is asyncio.current_task():  # it may be wanted no more
            del self._replacing[member.name]

    def bury(self, member: Member, reason: str) -> None:
        """Record a death, unless it is known, and end whatever is left of the actor."""
        kill(member)
        reason = " ".join(reason.split())
        if member.state is State.DEAD:
            return
        self._deaths.setdefault(member.name, deque()).append(time.monotonic())
        self._reasons[member.name] = reason
        self.set(member, State.DEAD, reason)

    def _spawn(self, coroutine: Any) -> None:
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def kill(member: Member) -> None:
    """End a member's process. A dead one loses its name, which Ray keeps as long as we hold it."""
    if member.actor is not None:
        with suppress(Exception):  # it may be gone, with its node
            ray.kill(member.actor)


async def _pulse(actor: Any) -> None:
    await actor.pulse.remote()


def _as_change(member: Member, reason: str) -> ActorChange:
    return ActorChange(
        actor=member.name,
        state=member.state,
        life=member.life,
        reason=reason,
        pid=member.pid,
        node=member.node,
        gpus=member.gpus,
    )


def _cause(error: Exception) -> str:
    """Return what Ray says of a death, or what a living actor says is wrong with it."""
    return _one_line(error.cause if isinstance(error, RayTaskError) else error)


def _one_line(error: BaseException) -> str:
    """Return what an error says, without the advice that Ray adds to each death, and without what
    the member's own record holds already."""
    text = " ".join(str(error).split()).partition(" Some common causes include")[0]
    return text[max(0, text.find(_DEATH)) :]
