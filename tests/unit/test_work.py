"""When an actor was at work: the spans that the driver sees, by a clock that the test moves."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from actors.fleet import looks
from actors.fleet import work as work_module
from actors.fleet.member import Member
from actors.fleet.work import Work, all_at, told_work
from actors.learning.group import LearnerGroup
from actors.sampling.pool import PooledSampler, SamplerPool
from rzero_ray.config.cluster import DeadlineConfig
from rzero_ray.types import BusySpan, SampleRequest, Sampling
from tests.unit.until import until

EPOCH = 1_000_000.0


class Time:
    """A clock that stands still."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return EPOCH + self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Time:
    clock = Time()
    monkeypatch.setattr(work_module, "time", clock)
    return clock


def told(work: Work) -> list[tuple[str, str | None, float, float, float]]:
    """What a lane has to tell: activity, role, start, end and busy seconds, by the test's clock."""
    return [
        (
            span.activity,
            span.role,
            round(span.start_s - EPOCH - 100, 4),
            round(span.start_s + span.seconds - EPOCH - 100, 4),
            round(span.busy_s, 4),
        )
        for span in work.take()
    ]


def test_an_actor_is_busy_from_its_first_call_to_its_last(clock: Time):
    work = Work("solver/sampler-0")
    for _ in range(3):
        work.begin("sampling", "solver")
        clock.now += 1.0
    for _ in range(3):
        clock.now += 0.5
        work.end("sampling", "solver")
    clock.now += 2.0
    assert told(work) == [("sampling", "solver", 0.0, 4.5, 4.5)]
    assert told(work) == []


def test_short_pauses_are_a_part_of_a_span_and_do_not_count(clock: Time):
    work = Work("solver/sampler-0")
    for pause in (0.01, 0.04, 0.06, 0.0):
        with work.at("sampling", "solver"):
            clock.now += 0.1
        clock.now += pause
    assert told(work) == [
        ("sampling", "solver", 0.0, 0.35, 0.3),
        ("sampling", "solver", 0.41, 0.51, 0.1),
    ]


def test_work_for_another_role_is_another_span_and_moments_are_not_told(clock: Time):
    work = Work("challenger/sampler-0")
    with work.at("sampling", "challenger"):
        clock.now += 1.0
    with work.at("sampling", "solver"):
        clock.now += 1.0
    clock.now += 1.0
    with work.at("scoring", "challenger"):
        clock.now += 0.001
    assert told(work) == [
        ("sampling", "challenger", 0.0, 1.0, 1.0),
        ("sampling", "solver", 1.0, 2.0, 1.0),
    ]


def test_spans_of_one_actor_do_not_overlap(clock: Time):
    """Weights come while requests are under way."""
    work = Work("solver/sampler-0")
    work.begin("sampling", "solver")
    clock.now += 1.0
    with work.at("weight sync", "solver"):
        clock.now += 0.5
        work.end("sampling", "solver")
        work.begin("sampling", "solver")  # it is the last to begin
        clock.now += 0.25
    clock.now += 1.0
    work.end("sampling", "solver")
    assert told(work) == [
        ("sampling", "solver", 0.0, 1.0, 1.0),
        ("weight sync", "solver", 1.0, 1.5, 0.5),
        ("sampling", "solver", 1.5, 2.75, 1.25),
    ]


def test_a_long_span_is_told_in_parts(clock: Time):
    work = Work("learner/rank-0")
    work.begin("learning", "solver")
    clock.now += 5.0
    assert told(work) == [("learning", "solver", 0.0, 5.0, 5.0)]
    clock.now += 2.0
    work.end("learning", "solver")
    assert told(work) == [("learning", "solver", 5.0, 7.0, 2.0)]


def test_what_nobody_takes_does_not_pile_up(clock: Time):
    work = Work("solver/sampler-0")
    for _ in range(3000):
        with work.at("sampling", "solver"):
            clock.now += 0.1
        clock.now += 0.1
    assert len(work.take()) == work_module._MOST_SPANS


REQUEST = SampleRequest(
    messages=(),
    num_samples=2,
    seed=0,
    sampling=Sampling(temperature=1.0, top_p=1.0, top_k=-1, max_tokens=8),
)


def test_the_pool_knows_when_its_engines_sample(clock: Time):
    """Two requests side by side, and one that fails, on the one engine of the Solver."""
    engine = PooledSampler(Member("solver/sampler-0", None), "solver", "solver", None)
    actor: Any = object()
    engine.member.actor = actor
    pool = SamplerPool([engine], deadline_s=10.0)
    ends: list[asyncio.Future[Any]] = []

    async def ask(name: str, actor: object, request: SampleRequest) -> Any:
        ends.append(asyncio.get_running_loop().create_future())
        return await ends[-1]

    pool._requests.ask = ask  # type: ignore[method-assign]

    async def go() -> None:
        asked = [asyncio.create_task(pool.sample("solver", REQUEST)) for _ in range(3)]
        await until(lambda: len(ends) == 3)
        clock.now += 1.0
        ends[0].cancel()
        clock.now += 1.0
        ends[1].set_exception(ValueError("refused"))
        await asyncio.wait(asked[1:2])
        clock.now += 1.0
        asked[2].cancel()
        await asyncio.gather(*asked, return_exceptions=True)

    asyncio.run(go())
    assert told(engine.member.work) == [("sampling", "solver", 0.0, 3.0, 3.0)]
    assert engine.outstanding_samples == 0


class Rank:
    """A rank that answers when it is told to."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.load_model = self

    def remote(self, *arguments: object) -> Any:
        return self.gate.wait()


def test_each_rank_is_busy_until_its_own_answer(clock: Time):
    async def go() -> LearnerGroup:
        actors: list[Any] = [Rank(), Rank()]
        ranks = [Member(f"learner/rank-{k}", actor) for k, actor in enumerate(actors)]
        group = LearnerGroup(ranks, DeadlineConfig())

        async def load() -> None:
            async with group.alone("solver"):
                await group.load_model(Path("/model"))

        loading = asyncio.create_task(load())
        await asyncio.sleep(0.01)
        clock.now += 1.0
        actors[1].gate.set()
        await asyncio.sleep(0.01)
        clock.now += 2.0
        actors[0].gate.set()
        await loading
        return group

    first, second = asyncio.run(go()).ranks
    assert told(first.work) == [("loading", "solver", 0.0, 3.0, 3.0)]
    assert told(second.work) == [("loading", "solver", 0.0, 1.0, 1.0)]


def test_all_is_told_while_a_run_goes_on_and_at_its_end(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(work_module, "_TELL_S", 0.02)
    works = [Work("a"), Work("b")]
    spans: list[BusySpan] = []
    with works[0].at("sampling", "solver"):
        _wait(0.01)

    async def go() -> None:
        async with told_work(lambda: works, spans.append):
            assert not spans  # what was before is no part of it
            with all_at(works, "weight sync", "solver"):
                await until(lambda: {span.actor for span in spans} == {"a", "b"})
            works[0].begin("sampling", "solver")
            await asyncio.sleep(0.01)

    asyncio.run(go())
    assert {(span.actor, span.activity) for span in spans} == {
        ("a", "weight sync"),
        ("b", "weight sync"),
        ("a", "sampling"),
    }


def _wait(seconds: float) -> None:
    end = work_module.time.monotonic() + seconds
    while work_module.time.monotonic() < end:
        pass


def test_a_look_that_fails_says_so_once_and_the_next_is_made(caplog: pytest.LogCaptureFixture):
    looked: list[int] = []

    async def look() -> None:
        looked.append(len(looked))
        if len(looked) != 2:
            raise ValueError("no\nway")

    async def go() -> None:
        async with looks.repeated(look, 0.005, "nothing is shown"):
            await until(_reached(looked, 5))

    with caplog.at_level(logging.WARNING):
        asyncio.run(go())
    assert [record.getMessage() for record in caplog.records] == [
        "nothing is shown: ValueError: no way"
    ]


def _reached(looked: list[int], count: int) -> Callable[[], bool]:
    return lambda: len(looked) >= count
