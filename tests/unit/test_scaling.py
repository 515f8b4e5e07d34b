"""Engines come and go: who joins, who leaves and when, and where requests wait meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from actors.fleet import watch as watch_module
from actors.fleet.member import Member, State
from actors.fleet.watch import Watch
from actors.nodes import Node
from actors.sampling import scaling as scaling_module
from actors.sampling.pool import PooledSampler, SamplerPool
from actors.sampling.scaling import Scaling
from rzero_ray.config.cluster import RecoveryConfig
from rzero_ray.config.layout import Layout
from rzero_ray.types import (
    Completion,
    Role,
    SampleRequest,
    Sampling,
    ScaleChange,
    ScaleRequest,
    UserError,
)
from tests.unit.until import until

MODEL = Path("/models/base")
REQUEST = SampleRequest(
    messages=(),
    num_samples=4,
    seed=0,
    sampling=Sampling(temperature=1.0, top_p=1.0, top_k=-1, max_tokens=8),
)


class Engine:
    """An actor handle that lives, and is told to stop."""

    class _Method:
        def remote(self, *arguments: Any) -> Any:
            return asyncio.sleep(0)

    def __getattr__(self, name: str) -> Any:
        return Engine._Method()


class Fleet:
    """`actors.fleet.Fleet` without Ray: places are there when `has_room`."""

    def __init__(self, watch: Watch) -> None:
        self.watch = watch
        self.has_room = asyncio.Event()
        self.asked: list[str] = []
        self.given_back: list[str] = []
        self.moved: list[str] = []
        self.lives: set[tuple[str, int]] = set()

    def expect_engine(self, name: str, life: int) -> Member:
        self.asked.append(name)
        return Member(name, None, State.JOINING, life)

    async def renew(self, member: Member) -> None:
        assert (member.name, member.life) not in self.lives, "Ray keeps the names of the dead"
        self.lives.add((member.name, member.life))
        await self.has_room.wait()
        member.life += 1
        actor: Any = Engine()
        member.actor = actor
        self.watch.set(member, State.HEALTHY)

    async def stop_engine(self, member: Member) -> None:
        await asyncio.sleep(0.05)

    def give_up(self, member: Member) -> None:
        self.given_back.append(member.name)

    async def move_worker(self, worker: Member, reason: str) -> None:
        self.moved.append(worker.name)


class Ground:
    """A pool of one Solver and one Challenger engine, whose requests end when they are told to."""

    def __init__(self, most: int, idle_s: float = 60.0, max_num_seqs: int = 4) -> None:
        self.watch = Watch(RecoveryConfig())
        self.fleet = Fleet(self.watch)
        homes: tuple[Role, ...] = ("challenger", "solver")
        samplers = [
            PooledSampler(_member(f"{role}/sampler-0"), home=role, role=role, model=MODEL)
            for role in homes
        ]
        self.pool = SamplerPool(samplers, 10.0, watch=self.watch, max_num_seqs=max_num_seqs)
        self.under_way: list[tuple[str, asyncio.Future[Any]]] = []
        """(sampler, what ends it) of each request that a sampler has."""
        self.pool._requests.ask = self._ask  # type: ignore[method-assign]
        self.told: list[ScaleChange] = []
        renewal: Any = self.fleet
        fleet: Any = self.fleet
        layout = Layout(
            kind="disaggregated",
            num_engines={"challenger": 1, "solver": 1},
            most_engines={"solver": most},
            num_ranks=1,
            gpus_per_engine=0.0,
            gpus_per_rank=0.0,
            gpu_memory_utilization=0.9,
            weight_backend="object_store",
            reason="",
        )
        self.worker = _member("reward/worker-0")
        self.scaling = Scaling(fleet, self.pool, renewal, [self.worker], layout, idle_s)
        self.scaling.tell(self.told.append)
        self.scaling.begin()

    async def _ask(self, name: str, actor: object, request: SampleRequest) -> Any:
        end: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.under_way.append((name, end))
        await end
        self.under_way.remove((name, end))
        return []

    def ask(self, count: int) -> list[asyncio.Task[list[Completion]]]:
        return [asyncio.create_task(self.pool.sample("solver", REQUEST)) for _ in range(count)]

    def end(self, name: str | None = None) -> None:
        """End what the named sampler has, or all of it."""
        for sampler, end in list(self.under_way):
            if name in (None, sampler) and not end.done():
                end.set_result(None)

    def names(self) -> set[str]:
        return {sampler.name for sampler in self.pool.own("solver")}

    def state(self, name: str) -> State:
        return next(s.member.state for s in self.pool.samplers if s.name == name)

    def with_requests(self) -> set[str]:
        return {name for name, _ in self.under_way}

    async def close(self) -> None:
        await self.scaling.close()
        self.watch.close()


def _member(name: str) -> Member:
    actor: Any = Engine()
    return Member(name, actor, node_id="first")


DRAINING: set[str] = set()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    async def draining() -> set[str]:
        return DRAINING

    DRAINING.clear()
    monkeypatch.setattr(scaling_module, "_PERIOD_S", 0.01)
    monkeypatch.setattr(scaling_module, "_LOOK_S", 0.01)
    monkeypatch.setattr(scaling_module, "draining_nodes", draining)
    nodes = [Node("first", "10.0.0.1", {}), Node("second", "10.0.0.2", {})]
    monkeypatch.setattr(scaling_module, "living_nodes", lambda: nodes)
    monkeypatch.setattr(watch_module.ray, "kill", lambda actor: None)
    monkeypatch.setattr("actors.sampling.pool.unpack", lambda packed: packed)


def run(story: Callable[[Ground], Any], **settings: Any) -> None:
    async def go() -> None:
        ground = Ground(**settings)
        try:
            await story(ground)
        finally:
            await ground.close()

    asyncio.run(go())


def test_an_engine_that_joins_takes_requests_that_wait():
    async def story(ground: Ground) -> None:
        asked = ground.ask(6)
        await until(lambda: len(ground.under_way) == 2)  # twice what it decodes at once
        await until(lambda: ground.fleet.asked == ["solver/sampler-1"])
        assert ground.with_requests() == {"solver/sampler-0"}
        ground.fleet.has_room.set()
        await until(lambda: len(ground.under_way) == 4)
        assert ground.with_requests() == {"solver/sampler-0", "solver/sampler-1"}
        while not all(task.done() for task in asked):
            ground.end()
            await asyncio.sleep(0)
        assert ground.pool.num_waiting["solver"] == 0
        assert not any(s.outstanding_samples for s in ground.pool.samplers)

    run(story, most=2)


def test_without_requests_that_wait_nobody_more_is_asked_for():
    async def story(ground: Ground) -> None:
        ground.ask(1)
        await asyncio.sleep(0.1)
        assert ground.fleet.asked == []

    run(story, most=4)


def test_an_engine_that_nobody_asks_is_given_back_and_a_place_that_is_not_there_too():
    async def story(ground: Ground) -> None:
        asked = ground.ask(6)
        ground.fleet.has_room.set()
        await until(lambda: len(ground.under_way) >= 4)
        ground.fleet.has_room.clear()
        ground.scaling.scale(ScaleRequest(role="solver", least=1, most=4))
        await until(lambda: len(ground.fleet.asked) == 3)  # two that wait for a place
        while not all(task.done() for task in asked):
            ground.end()
            await asyncio.sleep(0)
        await until(lambda: ground.names() == {"solver/sampler-0"})
        assert sorted(ground.fleet.given_back) == [f"solver/sampler-{k}" for k in (1, 2, 3)]
        await asyncio.sleep(0.05)
        assert ground.names() == {"solver/sampler-0"}
        assert ground.told[-1].present == 1 and ground.told[-1].asked == 0

    run(story, most=2, idle_s=0.2)


def test_the_engine_that_came_last_is_given_back_though_the_first_fell_idle_before_it():
    async def story(ground: Ground) -> None:
        asked = ground.ask(6)
        ground.fleet.has_room.set()
        await until(lambda: len(ground.with_requests()) == 2)
        while sum(task.done() for task in asked) < 4:  # all but what the other one has
            ground.end("solver/sampler-0")
            await asyncio.sleep(0)
        await asyncio.sleep(0.1)
        while not all(task.done() for task in asked):
            ground.end()
            await asyncio.sleep(0)
        await until(lambda: len(ground.names()) == 1)
        assert ground.names() == {"solver/sampler-0"}

    run(story, most=2, idle_s=0.2)


def test_the_time_for_which_an_engine_waits_for_its_place_is_not_idle():
    async def story(ground: Ground) -> None:
        asked = ground.ask(2)
        await until(lambda: ground.fleet.asked == ["solver/sampler-1"])
        await asyncio.sleep(0.6)
        ground.fleet.has_room.set()
        await until(lambda: ground.state("solver/sampler-1") is State.HEALTHY)
        await asyncio.sleep(0.1)
        assert ground.state("solver/sampler-1") is State.HEALTHY
        ground.end()
        await asyncio.gather(*asked)

    run(story, most=2, idle_s=0.4)


def test_an_engine_that_leaves_answers_what_it_has_and_gets_nothing_more():
    async def story(ground: Ground) -> None:
        ground.fleet.has_room.set()
        ground.scaling.scale(ScaleRequest(role="solver", least=2, most=2))
        await until(lambda: len(ground.names()) == 2 and ground.told[-1].present >= 0)
        await until(lambda: ground.state("solver/sampler-1") is State.HEALTHY)
        asked = ground.ask(4)
        await until(lambda: len(ground.under_way) == 4)
        ground.scaling.scale(ScaleRequest(role="solver", least=1, most=1))
        await until(lambda: ground.state("solver/sampler-1") is State.LEAVING)
        more = ground.ask(2)
        ground.end("solver/sampler-0")
        await until(lambda: sum(name == "solver/sampler-0" for name, _ in ground.under_way) == 2)
        assert "solver/sampler-1" in ground.names()  # it still has two
        assert sum(name == "solver/sampler-1" for name, _ in ground.under_way) == 2
        ground.end("solver/sampler-1")
        await until(lambda: ground.names() == {"solver/sampler-0"})
        ground.end()
        await asyncio.gather(*asked, *more)

    run(story, most=1)


def test_a_name_that_comes_back_has_another_life():
    async def story(ground: Ground) -> None:
        ground.fleet.has_room.set()
        for _ in range(2):
            ground.scaling.scale(ScaleRequest(role="solver", least=2, most=2))
            await until(lambda: len(ground.names()) == 2)
            await until(lambda: ground.state("solver/sampler-1") is State.HEALTHY)
            life = next(s.member.life for s in ground.pool.own("solver") if "-1" in s.name)
            ground.scaling.scale(ScaleRequest(role="solver", least=1, most=1))
            await until(lambda: ground.state("solver/sampler-1") is State.LEAVING)
            ground.scaling.scale(ScaleRequest(role="solver", least=2, most=2))
            await until(lambda: "solver/sampler-2" in ground.names())  # the name is not free yet
            ground.scaling.scale(ScaleRequest(role="solver", least=1, most=1))
            await until(lambda: len(ground.names()) == 1)
        assert life == 2

    run(story, most=1)


def test_the_only_engine_of_a_role_serves_until_another_has_taken_its_place_elsewhere():
    async def story(ground: Ground) -> None:
        DRAINING.add("first")
        await until(lambda: ground.fleet.asked == ["challenger/sampler-1", "solver/sampler-1"])
        ground.ask(1)
        await until(lambda: ground.with_requests() == {"solver/sampler-0"})
        assert ground.fleet.moved[:1] == ["reward/worker-0"]
        ground.fleet.has_room.set()
        await until(lambda: ground.state("solver/sampler-0") is State.LEAVING)
        ground.end()
        await until(lambda: ground.names() == {"solver/sampler-1"})

    run(story, most=1)


def test_where_every_node_drains_reward_workers_stay_where_they_are():
    async def story(ground: Ground) -> None:
        DRAINING.update({"first", "second"})
        await until(lambda: len(ground.fleet.asked) == 2)
        await asyncio.sleep(0.05)
        assert ground.fleet.moved == []

    run(story, most=1)


def test_an_engine_that_is_lent_is_not_idle():
    async def story(ground: Ground) -> None:
        ground.fleet.has_room.set()
        ground.scaling.scale(ScaleRequest(role="challenger", least=1, most=2))
        ground.scaling._join("challenger")
        ground.pool.assign("solver")
        await until(lambda: len(ground.pool.samplers_of("solver")) == 3)
        await asyncio.sleep(0.3)
        assert len(ground.pool.own("challenger")) == 2
        ground.pool.send_home()
        await until(lambda: len(ground.pool.own("challenger")) == 1)

    run(story, most=1, idle_s=0.1)


@pytest.mark.parametrize(
    ("role", "least", "most", "line"),
    [
        ("verifier", 1, 1, "verifier has no engines of its own in this run; it has those of"),
        ("solver", 0, 1, "solver=0..1 must be a number from 1"),
        ("solver", 3, 2, "solver=3..2 must be a number from 1"),
        ("solver", 1, 10**6, "must be a number from 1 to 1,000"),
    ],
)
def test_what_cannot_be_is_refused_in_a_line(role: Role, least: int, most: int, line: str):
    async def story(ground: Ground) -> None:
        with pytest.raises(UserError, match=line):
            ground.scaling.scale(ScaleRequest(role=role, least=least, most=most))
        assert ground.told == []

    run(story, most=1)


def test_requests_in_line_go_in_their_order_and_one_that_is_cancelled_holds_nobody_up():
    async def story(ground: Ground) -> None:
        asked = ground.ask(5)
        await until(lambda: len(ground.under_way) == 2)
        asked[2].cancel()
        await asyncio.sleep(0)
        for _ in range(4):
            ground.end()
            await asyncio.sleep(0.02)
        done = [task.done() and not task.cancelled() for task in asked]
        assert done == [True, True, False, True, True]

    run(story, most=1)


def test_requests_in_line_find_another_engine_when_theirs_dies():
    async def story(ground: Ground) -> None:
        asked = ground.ask(4)
        await until(lambda: len(ground.under_way) == 2)
        member = ground.pool.own("solver")[0].member
        ground.watch.set(member, State.SUSPECT)
        ground.end()
        await asyncio.sleep(0.05)
        assert not ground.under_way  # nobody is asked
        ground.watch.set(member, State.HEALTHY)
        await until(lambda: len(ground.under_way) == 2)
        ground.end()
        await asyncio.gather(*asked)

    run(story, most=1)


def test_a_request_of_more_samples_than_an_engine_takes_is_answered_all_the_same():
    async def story(ground: Ground) -> None:
        asked = ground.ask(2)
        await until(lambda: len(ground.under_way) == 1)
        await asyncio.sleep(0.02)
        assert len(ground.under_way) == 1
        while not all(task.done() for task in asked):
            ground.end()
            await asyncio.sleep(0)

    run(story, most=1, max_num_seqs=1)


def test_an_engine_into_which_kept_weights_go_is_left_out_of_a_publication():
    sampler = PooledSampler(_member("solver/sampler-1"), home="solver", role="solver", model=None)
    sampler.member.state = State.STALE
    assert sampler.can_load
    sampler.is_loading = True
    assert not sampler.can_load
    assert np.isfinite(sampler.last_used)
