"""How requests travel to a sampler: together, and each is answered by itself."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from actors.fleet.member import Member
from actors.sampling import gathering, sampler
from actors.sampling.packing import pack
from actors.sampling.pool import PooledSampler, SamplerPool
from rzero_ray.types import Completion, RunError, SampleRequest, Sampling, TooLongError
from tests.unit.fakes import fake_text

SAMPLING = Sampling(temperature=1.0, top_p=1.0, top_k=-1, max_tokens=8)


class FakeSampler:
    """In place of an actor's handle: streams what the test finishes."""

    def __init__(self) -> None:
        self.sample = self
        self.calls: list[list[str]] = []
        """The questions of each call."""
        self.streams: list[asyncio.Queue[Any]] = []

    def remote(self, requests: list[SampleRequest]) -> Any:
        self.calls.append([request.messages[0]["content"] for request in requests])
        self.streams.append(asyncio.Queue())
        return self._stream(self.streams[-1])

    def finish(self, call: int, **answers: RunError | None) -> None:
        """End requests of a call, named by their questions, in one part of its stream."""
        ended = [
            (self.calls[call].index(q), error or pack([fake_text(f"re {q}")], False))
            for q, error in answers.items()
        ]
        self.streams[call].put_nowait(ended)

    @staticmethod
    async def _stream(parts: asyncio.Queue[Any]) -> Any:
        while (part := await parts.get()) is not None:
            reference = asyncio.get_running_loop().create_future()
            if isinstance(part, Exception):
                reference.set_exception(part)
            else:
                reference.set_result(part)
            yield reference


@pytest.fixture
def ended_early(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Return the streams that were cancelled."""
    cancelled: list[Any] = []
    monkeypatch.setattr(gathering.ray, "cancel", cancelled.append)
    return cancelled


def _pool(*actors: FakeSampler, deadline_s: float = 5.0) -> SamplerPool:
    return SamplerPool(
        [
            PooledSampler(
                Member(f"solver/sampler-{k}", actor), home="solver", role="solver", model=None
            )
            for k, actor in enumerate(actors)
        ],
        deadline_s,
    )


def _ask(pool: SamplerPool, question: str) -> asyncio.Task[list[Completion]]:
    messages = ({"role": "user", "content": question},)
    request = SampleRequest(
        messages=messages, num_samples=1, seed=0, sampling=SAMPLING, reads_tokens=False
    )
    return asyncio.create_task(pool.sample("solver", request))


async def _until(condition: Callable[[], object]) -> None:
    """Let the loop turn, without a clock, until something is so."""
    for _ in range(50):
        if condition():
            return
        await asyncio.sleep(0)
    raise AssertionError("50 turns of the loop were not enough")


def test_what_is_asked_in_one_turn_is_one_call_and_the_next_turn_another(ended_early):
    async def go() -> None:
        actor = FakeSampler()
        pool = _pool(actor)
        tasks = [_ask(pool, q) for q in "abc"]
        for _ in range(3):  # of the loop's turns: to ask, to send, to call
            assert not actor.calls
            await asyncio.sleep(0)
        await _until(lambda: actor.calls)
        tasks.append(_ask(pool, "d"))
        await _until(lambda: len(actor.calls) == 2)
        assert actor.calls == [["a", "b", "c"], ["d"]]
        actor.finish(1, d=None)
        actor.finish(0, c=None, a=None, b=None)
        answers = [(await task)[0].text for task in tasks]
        assert answers == ["re a", "re b", "re c", "re d"]
        assert pool.samplers[0].outstanding_tokens == 0

    asyncio.run(go())


def test_an_answer_does_not_wait_for_the_others_of_its_call(ended_early):
    async def go() -> None:
        actor = FakeSampler()
        pool = _pool(actor)
        slow, quick = _ask(pool, "slow"), _ask(pool, "quick")
        await _until(lambda: actor.calls)
        actor.finish(0, quick=None)
        await _until(quick.done)
        assert not slow.done()
        actor.finish(0, slow=None)
        actor.streams[0].put_nowait(None)
        assert (await slow)[0].text == "re slow"
        assert not ended_early

    asyncio.run(go())


def test_each_sampler_gets_a_call_of_its_own(ended_early):
    async def go() -> None:
        actors = [FakeSampler(), FakeSampler()]
        pool = _pool(*actors)
        tasks = [_ask(pool, q) for q in "abcd"]
        await _until(lambda: all(actor.calls for actor in actors))
        assert [actor.calls for actor in actors] == [[["a", "c"]], [["b", "d"]]]
        actors[0].finish(0, a=None, c=None)
        actors[1].finish(0, b=None, d=None)
        await asyncio.gather(*tasks)

    asyncio.run(go())


def test_an_error_of_one_request_is_no_error_of_its_call(ended_early):
    async def go() -> None:
        actor = FakeSampler()
        pool = _pool(actor)
        long, short = _ask(pool, "long"), _ask(pool, "short")
        await _until(lambda: actor.calls)
        actor.finish(0, long=TooLongError("no room"), short=None)
        with pytest.raises(TooLongError, match="no room"):
            await long
        assert (await short)[0].text == "re short"

    asyncio.run(go())


def test_an_error_of_the_call_reaches_all_who_wait(ended_early):
    async def go() -> None:
        actor = FakeSampler()
        pool = _pool(actor)
        tasks = [_ask(pool, q) for q in "abc"]
        await _until(lambda: actor.calls)
        actor.finish(0, a=None)
        actor.streams[0].put_nowait(RunError("the engine died"))
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        assert ended[0][0].text == "re a"
        assert [str(error) for error in ended[1:]] == ["the engine died"] * 2

    asyncio.run(go())


def test_a_call_that_cannot_be_made_is_an_error_for_all_who_wait(ended_early):
    async def go() -> None:
        actor = FakeSampler()

        def refuse(requests: list[SampleRequest]) -> Any:
            raise TypeError("cannot be pickled")

        actor.remote = refuse
        pool = _pool(actor)
        ended = await asyncio.gather(*(_ask(pool, q) for q in "ab"), return_exceptions=True)
        assert [str(error) for error in ended] == ["cannot be pickled"] * 2

    asyncio.run(go())


def test_a_stream_that_ends_early_is_an_error_for_those_it_left_out(ended_early):
    async def go() -> None:
        actor = FakeSampler()
        pool = _pool(actor)
        answered, left_out = _ask(pool, "a"), _ask(pool, "b")
        await _until(lambda: actor.calls)
        actor.finish(0, a=None)
        actor.streams[0].put_nowait(None)
        assert (await answered)[0].text == "re a"
        with pytest.raises(RunError, match="solver/sampler-0 ended its answers"):
            await left_out

    asyncio.run(go())


def test_what_takes_too_long_names_the_sampler_and_is_ended_in_the_engine(ended_early):
    async def go() -> None:
        pool = _pool(FakeSampler(), deadline_s=0.05)
        with pytest.raises(RunError, match=r"sampler-0 died .*for solver/sampler-0 to sample"):
            await _ask(pool, "a")
        assert len(ended_early) == 1
        assert pool.samplers[0].outstanding_tokens == 0

    asyncio.run(go())


def test_a_call_is_ended_in_the_engine_once_nobody_waits_for_any_of_it(ended_early):
    async def go() -> None:
        actor = FakeSampler()
        pool = _pool(actor)
        first, second = _ask(pool, "a"), _ask(pool, "b")
        await _until(lambda: actor.calls)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        await asyncio.sleep(0.01)
        assert not ended_early
        second.cancel()
        await asyncio.gather(second, return_exceptions=True)
        await _until(lambda: ended_early)
        assert pool.samplers[0].outstanding_tokens == 0

    asyncio.run(go())


def test_what_is_cancelled_before_it_leaves_is_never_sent(ended_early):
    async def go() -> None:
        actor = FakeSampler()
        pool = _pool(actor)
        dropped, kept = _ask(pool, "dropped"), _ask(pool, "kept")
        asyncio.get_running_loop().call_soon(dropped.cancel)
        await _until(lambda: actor.calls)
        assert actor.calls == [["kept"]]
        actor.finish(0, kept=None)
        await kept

    asyncio.run(go())


def test_an_engine_that_ends_other_requests_is_waited_for_beyond_the_deadline(ended_early):
    """The deadline is about an engine that ends nothing, not about how long its queue is."""

    async def go() -> None:
        actor = FakeSampler()
        pool = _pool(actor, deadline_s=0.2)
        late = _ask(pool, "late")
        await _until(lambda: actor.calls)
        for _ in range(6):
            await asyncio.sleep(0.1)
            actor.streams[0].put_nowait([])
        actor.finish(0, late=None)
        assert (await late)[0].text == "re late"
        actor.streams[0].put_nowait(None)
        silent = _ask(pool, "silent")
        with pytest.raises(RunError, match=r"sampler-0 died .*for solver/sampler-0 to sample"):
            await silent

    asyncio.run(go())


def test_a_sampler_tells_waiting_calls_that_it_ends_others_and_is_silent_otherwise(monkeypatch):
    monkeypatch.setattr(sampler, "_HEARTBEAT_S", 0.05)
    gates = {name: asyncio.Event() for name in ("slow", "quick")}

    async def answer(request: Any) -> str:
        await gates[request].wait()
        return request

    async def go() -> None:
        made: Any = object.__new__(sampler.Sampler)
        made._asleep, made._num_ended, made._answer = set(), 0, answer
        slow, quick = made.sample(["slow"]), made.sample(["quick"])
        first = asyncio.ensure_future(anext(slow))
        others = asyncio.ensure_future(anext(quick))
        await asyncio.sleep(0.2)
        assert not first.done()  # nothing has ended anywhere
        gates["quick"].set()
        assert await others == [(0, "quick")]
        assert await asyncio.wait_for(first, 5) == []
        silent = asyncio.ensure_future(anext(slow))
        await asyncio.sleep(0.2)
        assert not silent.done()
        gates["slow"].set()
        assert await silent == [(0, "slow")]

    asyncio.run(go())
