"""A run that stands still says so once, with what its actors do, and so do nodes that run short."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from rzero_ray.run import pace as pace_module
from rzero_ray.run import watchdog
from rzero_ray.run.pace import Pace


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


class Told:
    """What a run is told: lines for the user, and events."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.events: list[dict[str, Any]] = []

    def say(self, text: str) -> None:
        self.lines.append(text)

    def add_event(self, event: str, **details: Any) -> None:
        self.events.append({"event": event, **details})


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(pace_module, "time", clock)
    monkeypatch.setattr(watchdog, "_PERIOD_S", 0.01)
    return clock


def _after_steps(clock: Clock, *seconds: float) -> Pace:
    pace = Pace()
    pace.start_phase(2, "solver", 15, 0)
    for taken in seconds:
        clock.now += taken
        pace.finish_step({"phase": "solver"})
    return pace


def test_a_step_is_late_after_six_times_the_median_of_its_phase(clock: Clock):
    pace = _after_steps(clock, 10.0, 12.0, 500.0)
    clock.now += 71
    assert pace.lateness() == ""
    clock.now += 2
    assert pace.lateness() == (
        "iteration 2, solver: a step has been open for 73 s, which usually takes 12.0 s"
    )
    pace.start_phase(2, "drift", 1, 0)  # a phase of which nothing is known
    clock.now += 1e6
    assert pace.lateness() == ""


def test_no_step_is_late_before_half_a_minute_or_before_three_are_known(clock: Clock):
    quick = _after_steps(clock, 1.0, 1.0, 1.0)
    clock.now += 29
    assert quick.lateness() == ""
    clock.now += 2
    assert quick.lateness() != ""
    few = _after_steps(clock, 1.0, 1.0)
    clock.now += 1000
    assert few.lateness() == ""


def test_what_stands_still_or_runs_short_is_told_once_while_it_lasts(clock: Clock):
    pace, told = _after_steps(clock, 1.0, 1.0, 1.0), Told()
    short: list[tuple[str, str]] = []

    async def stacks() -> dict[str, str]:
        return {"reward/worker-0": "SUSPECT, no answer"}

    async def shortages() -> list[tuple[str, str]]:
        return list(short)

    async def go() -> None:
        run: Any = told
        async with watchdog.watched(run, pace, stacks, shortages):
            clock.now += 40
            await asyncio.sleep(0.1)
            assert [event["event"] for event in told.events] == ["stalled"]
            assert told.events[0]["stacks"] == await stacks()
            short.append(("memory of 10.0.0.7", "node 10.0.0.7 has 3.0% of its memory left"))
            await asyncio.sleep(0.1)
            assert told.lines[1:] == ["warning: node 10.0.0.7 has 3.0% of its memory left"]
            pace.finish_step({"phase": "solver"})
            short.clear()
            await asyncio.sleep(0.1)
            clock.now += 60
            await asyncio.sleep(0.1)
        assert [event["event"] for event in told.events] == ["stalled", "short", "stalled"]

    asyncio.run(go())
