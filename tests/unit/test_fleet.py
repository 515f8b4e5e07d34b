"""Who is alive, who is replaced, and where requests go: the fleet's rules, on actors in memory."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from ray.exceptions import (
    ActorDiedError,
    ActorUnavailableError,
    OutOfMemoryError,
    RayTaskError,
)

from actors.fleet import watch as watch_module
from actors.fleet.member import Member, State
from actors.fleet.watch import Watch
from actors.judge import ClusterJudge
from actors.sampling.pool import PooledSampler, SamplerPool
from actors.waiting import ActorLostError, DeadlineError
from rzero_ray.config.cluster import DeadlineConfig, RecoveryConfig
from rzero_ray.run.clock import StageClock
from rzero_ray.types import ActorChange, RunError
from tests.unit.until import until


class Actor:
    """An actor handle: its methods are called as Ray's are, and answer as `how` says."""

    def __init__(self, how: Callable[[str], Awaitable[Any]]) -> None:
        self._how = how
        self.asked: list[str] = []

    def __getattr__(self, method: str) -> Any:
        actor = self

        class Method:
            def remote(self, *arguments: Any) -> Awaitable[Any]:
                actor.asked.append(method)
                return asyncio.ensure_future(actor._how(method))

        return Method()


async def _well(method: str) -> str:
    return f"{method} answered"


async def _dead(method: str) -> None:
    raise ActorDiedError


async def _out_of_memory(method: str) -> None:
    raise OutOfMemoryError("the node was running low on memory")


async def _silent(method: str) -> None:
    await asyncio.sleep(60)


async def _cut_off(method: str) -> None:
    raise ActorUnavailableError("its node cannot be reached", None)


async def _broken(method: str) -> None:
    raise RayTaskError("pulse", "", RunError("vLLM failed"))


def _member(how: Callable[[str], Awaitable[Any]], name: str = "solver/sampler-0") -> Member:
    actor: Any = Actor(how)
    return Member(name, actor)


def _watch(silence: float = 0.3, max_restarts: int = 2) -> Watch:
    return Watch(RecoveryConfig(silence=silence, max_restarts=max_restarts))


def _states(watch: Watch) -> list[str]:
    told: list[str] = []

    def note(change: ActorChange) -> None:
        told.append(change.state)

    watch.tell(note)
    return told


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch_module, "_PERIOD_S", 0.05)
    monkeypatch.setattr(watch_module.ray, "kill", lambda actor: None)


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        (_dead, "died unexpectedly"),
        (_out_of_memory, "low on memory"),
        (_broken, "vLLM failed"),
        (_silent, "no sign of life"),
    ],
)
def test_an_actor_is_dead_by_ray_s_word_its_own_or_its_silence(how: Any, reason: str):
    async def go() -> None:
        watch, member = _watch(), _member(how)
        watch.enter(member)
        assert not await watch.is_alive(member, "a request failed")
        assert member.state is State.DEAD
        assert reason in str(watch.lost(member.name))
        watch.close()

    asyncio.run(go())


def test_a_failed_call_or_a_short_silence_makes_an_actor_suspect_and_no_more():
    async def go() -> None:
        watch, member = _watch(silence=5.0), _member(_cut_off)
        watch.enter(member)
        told = _states(watch)
        asked = asyncio.create_task(watch.is_alive(member))
        await until(lambda: member.state is State.SUSPECT)
        actor: Any = member.actor
        actor._how = _well  # the link is back
        assert await asked
        assert told == ["HEALTHY", "SUSPECT", "HEALTHY"]
        watch.close()

    asyncio.run(go())


def test_one_without_weights_is_not_made_healthy_by_a_sign_of_life():
    async def go() -> None:
        watch, member = _watch(), _member(_well)
        watch.enter(member)
        watch.set(member, State.STALE)
        assert await watch.is_alive(member, "a publication failed")
        assert member.state is State.STALE
        watch.close()

    asyncio.run(go())


def test_the_dead_are_replaced_within_the_budget_and_then_given_up():
    async def go() -> None:
        watch, member = _watch(max_restarts=2), _member(_dead)
        lives: list[int] = []

        async def renew(dead: Member) -> None:
            dead.life += 1
            lives.append(dead.life)
            if dead.life == 2:
                raise RunError("no engine starts here")
            watch.set(dead, State.HEALTHY)

        watch.enter(member, renew)
        told = _states(watch)
        await until(lambda: watch.given_up(member))  # life 3 is found dead, too
        assert lives == [2, 3]
        new_life = ["RESTARTING", "DEAD", "RESTARTING", "HEALTHY"]
        assert told == ["HEALTHY", "DEAD", *new_life, "DEAD"]
        assert "3 of its actors died" in str(watch.lost(member.name))
        watch.close()

    asyncio.run(go())


def test_a_new_actor_that_does_not_get_its_weights_is_replaced_again():
    async def go() -> None:
        watch, member = _watch(), _member(_well)
        lives: list[int] = []

        async def renew(dead: Member) -> None:
            dead.life += 1
            lives.append(dead.life)
            watch.set(dead, State.STALE)  # the role has got other weights since it was begun
            if dead.life == 3:
                watch.set(dead, State.HEALTHY)

        watch.enter(member, renew)
        watch.condemn(member, "hung")
        await until(lambda: member.state is State.HEALTHY)
        assert lives == [2, 3]
        assert not watch.given_up(member)
        watch.close()

    asyncio.run(go())


def test_a_job_outlives_its_worker_and_one_that_hangs_is_ended_and_tried_once_more():
    async def go() -> None:
        watch = _watch(silence=5.0)
        for how in (_dead, _out_of_memory):
            gone, well = _member(how, "reward/worker-0"), _member(_well, "reward/worker-1")
            judge = ClusterJudge([gone, well], DeadlineConfig(grade=0.2), StageClock(), watch)
            assert await judge.grade(["x"], "1") == "grade answered"
            assert gone.state is State.DEAD

        async def hangs(method: str) -> None:
            if method != "pulse":
                await asyncio.sleep(60)

        stuck = [_member(hangs, f"reward/worker-{k}") for k in range(3)]
        judge = ClusterJudge(stuck, DeadlineConfig(grade=0.2), StageClock(), watch)
        with pytest.raises(DeadlineError, match="reward/worker-1 to grade"):
            await judge.grade(["x"], "1")
        assert [worker.state for worker in stuck] == [State.DEAD, State.DEAD, State.HEALTHY]

    asyncio.run(go())


def test_a_job_that_fails_on_workers_that_live_fails_itself():
    async def go() -> None:
        async def unreachable(method: str) -> None:
            if method != "pulse":
                raise ActorUnavailableError("its node cannot be reached", None)

        member = _member(unreachable, "reward/worker-0")
        judge = ClusterJudge([member], DeadlineConfig(), StageClock(), _watch())
        with pytest.raises(ActorLostError, match="reward/worker-0 to grade"):
            await judge.grade(["x"], "1")
        assert member.state is State.HEALTHY

    asyncio.run(go())


def test_deaths_count_for_an_hour_and_beyond_it_until_there_is_progress(
    monkeypatch: pytest.MonkeyPatch,
):
    now = [0.0]
    monkeypatch.setattr(watch_module.time, "monotonic", lambda: now[0])
    watch, member = _watch(max_restarts=1), _member(_dead)
    for hour in (0.0, 1.5):  # a step of an hour and a half that kills whoever takes it up
        now[0] = 3600 * hour
        member.state = State.HEALTHY
        watch.bury(member, "out of memory")
    assert not watch.may_restart(member.name)
    now[0] = 3600 * 3.0
    assert not watch.may_restart(member.name)
    watch.progress()
    assert watch.may_restart(member.name)


def test_an_old_question_is_not_answered_for_a_new_life():
    async def go() -> None:
        watch, member = _watch(silence=3.0), _member(_silent)
        watch.enter(member)
        old = asyncio.create_task(watch.is_alive(member))
        await asyncio.sleep(0.1)
        member.life += 1
        alive: Any = Actor(_well)
        member.actor = alive
        assert await watch.is_alive(member)
        assert not await old
        watch.close()

    asyncio.run(go())


def _sampler(how: Callable[[str], Awaitable[Any]], name: str) -> PooledSampler:
    return PooledSampler(_member(how, name), home="solver", role="solver", model=None)


def test_weights_wait_for_whoever_is_suspected_meanwhile():
    """One that is left out while it is suspected would come back with what it held before."""

    async def go() -> None:
        watch = _watch(silence=3.0)
        first, second = _sampler(_silent, "first"), _sampler(_silent, "second")
        pool = SamplerPool([first, second], 5.0, watch=watch)
        watch.set(first.member, State.SUSPECT)
        found = asyncio.create_task(pool.loadable([first, second]))
        await asyncio.sleep(0.05)
        watch.set(second.member, State.SUSPECT)
        for sampler in (first, second):
            actor: Any = sampler.member.actor
            actor._how = _well
        assert await found == [first, second]

    asyncio.run(go())


def test_nobody_samples_until_all_who_want_quiet_have_had_it():
    async def go() -> None:
        pool = SamplerPool([_sampler(_well, "first")], 5.0, watch=_watch())
        async with pool.quiet():
            async with pool.quiet():
                pass
            asked = asyncio.create_task(pool.available("solver"))
            await asyncio.sleep(0.05)
            assert not asked.done()
        assert (await asked).name == "first"

    asyncio.run(go())


def test_a_full_disk_does_not_end_the_watch():
    async def go() -> None:
        watch, member = _watch(), _member(_dead)

        async def renew(dead: Member) -> None:
            watch.set(dead, State.HEALTHY)

        def refuse(change: ActorChange) -> None:
            raise OSError("no space left on device")

        watch.enter(member, renew)
        watch.tell(refuse)
        watch.condemn(member, "hung")
        await until(lambda: member.state is State.HEALTHY)
        watch.close()

    asyncio.run(go())
