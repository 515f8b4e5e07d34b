"""An engine that comes while weights are on their way to others samples from none that are old."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from actors.fleet import watch as watch_module
from actors.fleet.member import Member, State
from actors.fleet.watch import Watch
from actors.learning.group import LearnerGroup
from actors.learning.options import PhaseOptions
from actors.policy import ClusterPolicy
from actors.sampling import renewal as renewal_module
from actors.sampling.pool import PooledSampler, SamplerPool
from actors.sampling.renewal import EngineRenewal
from actors.turns import NoTurns
from actors.weights.delivery import Publication
from actors.weights.probe import Probe
from rzero_ray.config.cluster import RecoveryConfig
from rzero_ray.config.load import load_config
from rzero_ray.run.clock import StageClock
from rzero_ray.types import Phase, RunError, TransferReport, Weights, WeightVersion
from tests.unit.until import until

BASE, FINAL = Path("/models/base"), Path("/models/solver-1")


class Remote:
    """A method of an actor handle."""

    def __init__(self, method: Callable[..., Any]) -> None:
        self._method = method

    async def remote(self, *arguments: Any) -> Any:
        answer = self._method(*arguments)
        return await answer if asyncio.iscoroutine(answer) else answer


class Engine:
    """An engine whose weights are one number, which its log-probabilities show."""

    def __init__(self, weights: float) -> None:
        self.weights = weights
        self.gate = asyncio.Event()
        self.gate.set()
        self.pulse = Remote(lambda: None)
        self.prompt_logprobs = Remote(self._score)

    async def _score(self, prompts: list[Any]) -> list[Any]:
        weights = self.weights
        await self.gate.wait()
        return [np.full(2, weights, np.float32) for _ in prompts]


class Rank:
    """A learner whose weights are one number; it publishes when the gate is open."""

    def __init__(self) -> None:
        self.weights = 0.0
        self.gate = asyncio.Event()
        self.gate.set()
        self.pulse = Remote(lambda: None)
        self.start_phase = Remote(lambda *_: None)
        self.publish = Remote(self._publish)
        self.prompt_logprobs = Remote(
            lambda prompts: [np.full(2, self.weights, np.float32) for _ in prompts]
        )

    async def _publish(self, version: Weights, engines: list[Engine]) -> Publication:
        await self.gate.wait()
        for engine in engines:
            engine.weights = self.weights
        report = TransferReport(num_bytes=0, num_engines=1, seconds=0, seconds_engines_paused=0)
        kept: Any = [self.weights]
        return Publication(report, kept)


class Fleet:
    """Starts the engine `newcomer`, once there is a place."""

    def __init__(self, watch: Watch) -> None:
        self.watch = watch
        self.newcomer: Any = None
        self.place = asyncio.Event()
        self.place.set()

    async def placed(self, member: Member) -> None:
        await self.place.wait()

    async def renew_engine(self, member: Member, model: Path) -> bool:
        member.life += 1
        member.actor = self.newcomer
        self.watch.set(member, State.STALE)
        return True


class Ground:
    """A Solver that learns, with one engine."""

    def __init__(self) -> None:
        config = load_config(["conf=tiny"])
        self.watch = Watch(RecoveryConfig())
        engine: Any = Engine(0.0)
        first = PooledSampler(
            Member("solver/sampler-0", engine), home="solver", role="solver", model=BASE
        )
        self.pool = SamplerPool([first], 10.0, watch=self.watch)
        self.rank = Rank()
        rank: Any = self.rank
        self.learner = LearnerGroup(
            [Member("learner/rank-0", rank)], config.deadline, watch=self.watch
        )
        self.fleet = Fleet(self.watch)
        fleet: Any = self.fleet
        self.renewal = EngineRenewal(fleet, self.pool, NoTurns(), BASE, 10.0, "float32", 1 << 20)
        self.policy = ClusterPolicy(
            "solver",
            config,
            PhaseOptions.of(config.solver),
            self.pool,
            self.learner,
            NoTurns(),
            Probe([np.zeros(3, np.int32)], "float32", bound=1e-3),
            StageClock(),
            lambda sync: None,
            self.renewal,
        )

    async def begin(self) -> None:
        await self.policy.start_phase(
            Phase(
                iteration=1,
                role="solver",
                initial_model=BASE,
                checkpoint=None,
                num_finished_steps=0,
                final_model=FINAL,
            )
        )

    def join(self, weights: float) -> PooledSampler:
        """Have an engine come that starts with these weights."""
        self.fleet.newcomer = Engine(weights)
        peer = self.pool.own("solver")[0]
        member = Member("solver/sampler-1", None, State.JOINING, 0)
        newcomer = PooledSampler(
            member, home="solver", role=peer.role, model=peer.model, expected=peer.expected
        )
        self.pool.samplers.append(newcomer)
        self.watch.join(member, self.renewal.renew, "it is wanted")
        return newcomer

    def publish(self, weights: float) -> asyncio.Task[Any]:
        self.rank.weights = weights
        version = WeightVersion(role="solver", iteration=1, num_steps=int(weights))
        samplers = self.pool.samplers_of("solver")
        return asyncio.create_task(self.policy._publish(version, samplers))


def run(story: Callable[[Ground], Awaitable[None]], monkeypatch: pytest.MonkeyPatch) -> None:
    async def deliver(
        buckets: Any, version: Weights, engine: Engine, attempt: int, each_s: float
    ) -> None:
        async for bucket in buckets:
            engine.weights = bucket

    monkeypatch.setattr(renewal_module, "deliver", deliver)
    monkeypatch.setattr(watch_module.ray, "kill", lambda actor: None)

    async def go() -> None:
        ground = Ground()
        try:
            await story(ground)
        finally:
            ground.watch.close()

    asyncio.run(go())


def _weights(sampler: PooledSampler) -> float:
    engine: Any = sampler.actor
    return engine.weights


def test_it_is_not_admitted_with_what_was_replaced_while_it_was_probed(monkeypatch):
    async def story(ground: Ground) -> None:
        await ground.begin()
        newcomer = ground.join(9.0)
        ground.fleet.newcomer.gate.clear()
        await until(lambda: newcomer.is_loading)
        await asyncio.sleep(0.02)
        ground.rank.gate.clear()
        publication = ground.publish(1.0)
        await asyncio.sleep(0.02)
        ground.fleet.newcomer.gate.set()
        await asyncio.sleep(0.02)
        assert newcomer.member.state is State.STALE
        ground.rank.gate.set()
        await publication
        await until(lambda: newcomer.member.state is State.HEALTHY)
        assert _weights(newcomer) == 1.0

    run(story, monkeypatch)


def test_one_that_comes_before_a_phase_has_its_learner_learns_of_the_phase(monkeypatch):
    async def story(ground: Ground) -> None:
        regrouped = asyncio.Event()
        monkeypatch.setattr(ground.learner, "regroup", regrouped.wait)
        ground.fleet.place.clear()
        begun = asyncio.create_task(ground.begin())
        await asyncio.sleep(0.02)
        newcomer = ground.join(0.0)
        regrouped.set()
        await begun
        await ground.publish(1.0)
        ground.fleet.place.set()
        await until(lambda: newcomer.member.state is State.HEALTHY)
        assert _weights(newcomer) == 1.0
        assert newcomer.member.life == 1

    run(story, monkeypatch)


def test_one_that_leaves_stays_one_that_leaves(monkeypatch):
    async def story(ground: Ground) -> None:
        await ground.begin()
        newcomer = ground.join(9.0)
        await until(lambda: newcomer.member.state is State.HEALTHY)
        ground.rank.gate.clear()
        publication = ground.publish(1.0)
        await asyncio.sleep(0.02)
        assert ground.pool.is_publishing
        ground.watch.let_go(newcomer.member, "its node drains")
        ground.rank.gate.set()
        await publication
        assert newcomer.member.state is State.LEAVING
        assert not ground.pool.is_publishing

    run(story, monkeypatch)


def test_weights_that_are_gone_with_their_owner_are_taken_from_the_learner(monkeypatch):
    async def story(ground: Ground) -> None:
        await ground.begin()

        async def gone(*_: Any) -> None:
            raise ValueError("the owner of this object has died")

        monkeypatch.setattr(renewal_module, "deliver", gone)
        newcomer = ground.join(9.0)
        await until(lambda: newcomer.member.state is State.HEALTHY)
        assert _weights(newcomer) == 0.0
        assert newcomer.member.life == 1

    run(story, monkeypatch)


def test_an_engine_whose_node_sees_nothing_and_that_nobody_can_give_weights_says_so(monkeypatch):
    async def story(ground: Ground) -> None:
        async def without_weights(member: Member, model: Path) -> bool:
            await Fleet.renew_engine(ground.fleet, member, model)
            return False

        fleet: Any = ground.fleet
        fleet.renew_engine = without_weights
        ground.renewal._bucket_bytes = 0  # as with nccl
        member = Member("solver/sampler-1", None, State.JOINING, 0, node="10.0.0.2")
        ground.fleet.newcomer = Engine(9.0)
        ground.pool.samplers.append(
            PooledSampler(member, home="solver", role="solver", model=FINAL)
        )
        with pytest.raises(RunError, match="does not see /models/solver-1, whose weights"):
            await ground.renewal.renew(member)

    run(story, monkeypatch)
