"""The order in which roles that share devices work, on actors that only note their calls."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

import pytest

from actors.fleet.fleet import Fleet
from actors.fleet.life import Whereabouts
from actors.fleet.member import Member
from actors.learning.group import LearnerGroup
from actors.placement import demands
from actors.sampling.pool import PooledSampler, SamplerPool
from actors.turns import NoTurns, SharedDevices
from rzero_ray.config.cluster import DeadlineConfig
from rzero_ray.config.config import sampling_settings
from rzero_ray.config.layout import disaggregated, resolve_layout
from rzero_ray.config.load import load_config
from rzero_ray.run.clock import StageClock
from rzero_ray.types import Role, RunError

MODELS: dict[Role, Path] = {"challenger": Path("base"), "solver": Path("base")}


class _Actor:
    """An actor handle whose calls take a moment and are noted when they begin and end."""

    def __init__(self, name: str, log: list[tuple[str, str]]) -> None:
        self._name, self._log = name, log

    def __getattr__(self, method: str) -> Any:
        actor = self

        class Method:
            def remote(self, *arguments: object) -> Awaitable[Whereabouts]:
                return asyncio.ensure_future(actor._call(method, arguments))

        return Method()

    async def _call(self, method: str, arguments: tuple[object, ...]) -> Whereabouts:
        given = f" {arguments[0]}" if arguments else ""
        self._log.append((self._name, f"{method}{given}"))
        await asyncio.sleep(0.001)
        self._log.append((self._name, f"{method} done"))
        return Whereabouts(1, "127.0.0.1", "node")  # what `start` says


def _engine(name: str, role: Role, log: list[tuple[str, str]]) -> PooledSampler:
    actor: Any = _Actor(name, log)
    return PooledSampler(Member(name, actor), home=role, role=role, model=None)


class _Shared:
    """Two engines and a rank that take turns; `log` has what began, `turns` what was told."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str]] = []
        self.turns: list[str] = []
        self.challenger = _engine("C", "challenger", self.calls)
        self.solver = _engine("S", "solver", self.calls)
        rank: Any = _Actor("L", self.calls)
        learner = LearnerGroup([Member("L", rank)], DeadlineConfig())
        pool = SamplerPool([self.challenger, self.solver], 5.0)
        self.shared = SharedDevices(pool, learner, 5.0)
        self.shared.tell(StageClock(), self.turns.append)

    @property
    def log(self) -> list[tuple[str, str]]:
        return [(who, what) for who, what in self.calls if not what.endswith("done")]


def test_a_step_passes_the_devices_round():
    async def go(at: _Shared) -> None:
        await at.shared.samplers()  # theirs from the start
        assert at.log == []
        await at.shared.learner()
        await at.shared.learner()
        await at.shared.handover([at.challenger])
        await at.shared.samplers()

    at = _Shared()
    asyncio.run(go(at))
    assert at.log == [
        ("C", "sleep"),
        ("S", "sleep"),
        ("L", "return_to_device"),
        ("L", "leave_device True"),  # and keeps its parameters
        ("C", "wake ['weights']"),
        ("L", "leave_device False"),
        ("S", "wake ['weights', 'kv_cache']"),
        ("C", "wake ['kv_cache']"),
    ]
    assert at.turns == ["learner", "handover", "samplers"]
    # Each waits for the one before: room is made before it is taken.
    for who, first, second in (
        ("L", ("S", "sleep done"), "return_to_device"),
        ("C", ("L", "leave_device done"), "wake ['weights']"),
        ("S", ("C", "wake done"), "wake ['weights', 'kv_cache']"),
    ):
        assert at.calls.index(first) < at.calls.index((who, second))


def test_a_phase_that_ends_without_weights_wakes_everyone_whole():
    async def go(at: _Shared) -> None:
        await at.shared.learner()
        await at.shared.samplers()

    at = _Shared()
    asyncio.run(go(at))
    whole = "wake ['weights', 'kv_cache']"
    assert at.log[3:] == [("L", "leave_device False"), ("C", whole), ("S", whole)]


def test_many_requests_wake_the_engines_once():
    async def go(at: _Shared) -> None:
        await at.shared.learner()
        await asyncio.gather(*(at.shared.samplers() for _ in range(50)))

    at = _Shared()
    asyncio.run(go(at))
    assert at.turns == ["learner", "samplers"]
    assert len([call for call in at.log if call[1].startswith("wake")]) == 2


def test_the_learner_does_not_take_the_devices_from_engines_at_work():
    async def go(at: _Shared) -> None:
        at.solver.outstanding_tokens = 7
        await at.shared.learner()

    at = _Shared()
    with pytest.raises(RunError, match="S still sample"):
        asyncio.run(go(at))
    assert at.log == []


def test_with_devices_of_their_own_nobody_is_asked():
    log: list[tuple[str, str]] = []

    async def go() -> None:
        turns = NoTurns()
        await turns.learner()
        await turns.handover([_engine("C", "challenger", log)])
        await turns.samplers()

    asyncio.run(go())
    assert log == []


@pytest.mark.parametrize("takes_turns", [True, False])
def test_engines_of_one_gpu_start_one_after_the_other(
    monkeypatch: pytest.MonkeyPatch, takes_turns: bool
):
    config = load_config(["conf=qwen3_4b"])
    layout = resolve_layout(config, {"GPU": 2.0}) if takes_turns else disaggregated(config)
    log: list[tuple[str, str]] = []
    places: Any = None
    settings = sampling_settings(config)
    fleet = Fleet(settings, layout, places, demands(config, layout))

    def create(name: str, model: Path, life: int) -> _Actor:
        log.append((name, "created"))  # the engine itself starts with its actor
        return _Actor(name, log)

    monkeypatch.setattr(fleet.maker, "sampler", create)
    engines = asyncio.run(fleet.start_samplers(MODELS))
    assert {(e.name.partition("/")[0], e.home, e.model) for e in engines} == {
        (role, role, model) for role, model in MODELS.items()
    }
    assert len(engines) == 4

    def moment(name: str, what: str) -> int:
        return log.index((name, what))

    for k in range(2):
        first, second = (f"{role}/sampler-{k}" for role in ("challenger", "solver"))
        if takes_turns:
            assert moment(first, "start done") < moment(second, "created")
    # Different GPUs do not wait for each other.
    before = log[: next(k for k, (_, what) in enumerate(log) if what == "start done")]
    assert [what for _, what in before].count("created") == (2 if takes_turns else 4)
