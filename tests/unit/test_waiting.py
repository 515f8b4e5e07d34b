"""What the log says of waits that take long, and that nothing of them stays behind."""

import asyncio
import logging
import re

import pytest

from actors import waiting
from actors.waiting import DeadlineError, within


@pytest.fixture(autouse=True)
def quick_reminders(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "_REMINDER_S", 0.2)
    monkeypatch.setattr(waiting, "_TOLERANCE_S", 0.1)


def _wait_for(seconds: float, count: int, stage: str | None, deadline_s: float = 60.0) -> None:
    async def go() -> None:
        sleeps = (asyncio.sleep(seconds, k) for k in range(count))
        waits = [within(deadline_s, f"number {k}", s, stage) for k, s in enumerate(sleeps)]
        assert await asyncio.gather(*waits) == list(range(count))

    asyncio.run(go())


def test_a_stage_speaks_once_a_minute_however_much_is_under_way(caplog):
    with caplog.at_level(logging.WARNING):
        _wait_for(0.5, 1000, "sampling")
    said = [record.getMessage() for record in caplog.records]
    assert 1 <= len(said) < 20  # and not a line for each
    line = r"still waiting for 1000 calls of sampling, the oldest of them number 0 \(\d+ s\)"
    assert re.fullmatch(line, said[0])


def test_a_wait_alone_speaks_of_itself(caplog):
    with caplog.at_level(logging.WARNING):
        _wait_for(0.3, 1, None)
    said = [record.getMessage() for record in caplog.records]
    assert said
    assert all(re.fullmatch(r"still waiting for number 0 \(\d+ s\)", line) for line in said)


def test_stages_speak_for_themselves(caplog):
    async def go() -> None:
        await asyncio.gather(
            *(within(60.0, s, asyncio.sleep(0.3), s) for s in ("sampling", "grading"))
        )

    with caplog.at_level(logging.WARNING):
        asyncio.run(go())
    assert {r.getMessage() for r in caplog.records} == {
        "still waiting for sampling (0 s)",
        "still waiting for grading (0 s)",
    }


@pytest.mark.parametrize("stage", [None, "sampling"])
def test_nothing_of_a_wait_stays(stage):
    _wait_for(0.3, 3, stage)
    with pytest.raises(DeadlineError):
        _wait_for(0.5, 3, stage, deadline_s=0.05)
    assert not waiting._under_way and not waiting._reminded
