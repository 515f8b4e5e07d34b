"""Which engine holds which weights: `ClusterPolicy` on actors that only write down their calls."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from actors.fleet.member import Member, State
from actors.learning import group
from actors.learning.group import LearnerGroup
from actors.learning.options import PhaseOptions
from actors.policy import ClusterPolicy
from actors.sampling.pool import PooledSampler, SamplerPool
from actors.turns import Holder, NoTurns, Turns
from actors.weights.delivery import Publication
from actors.weights.probe import Probe
from rzero_ray.config.config import Config
from rzero_ray.config.load import load_config
from rzero_ray.protocols import Clock
from rzero_ray.run.clock import StageClock
from rzero_ray.types import (
    Phase,
    Role,
    RunError,
    Step,
    SyncReport,
    TransferReport,
    Weights,
    WeightVersion,
)
from tests.unit.builders import phase_of, rollout
from tests.unit.fakes import fake_report

BASE, TRAINED = Path("/models/base"), Path("/models/solver-iteration-01")
VERSION = WeightVersion(role="solver", iteration=1, num_steps=7)


class Remote:
    """Called as an actor's method is; `await` gives the result."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    async def remote(self, *arguments: Any) -> Any:
        return self._function(*arguments)


class FakeActor:
    """A sampler: only its log-probabilities are asked for."""

    def __init__(self) -> None:
        self.pulse = Remote(lambda: None)
        self.prompt_logprobs = Remote(lambda prompts: [np.zeros(2, np.float32) for _ in prompts])


class FakeLearner(FakeActor):
    """A rank that writes down each model loaded, and (version, engines) of each publication."""

    def __init__(self) -> None:
        super().__init__()
        self.loads: list[Path] = []
        self.published: list[tuple[str, list[Any]]] = []
        self.start_phase = Remote(lambda phase, _: self.loads.append(phase.initial_model))
        self.load_model = Remote(self.loads.append)
        self.publish = Remote(self._publish)
        self.save_model = Remote(lambda path: {})

    def _publish(self, version: Weights, engines: list[Any]) -> Publication:
        self.published.append((version.name, engines))
        report = TransferReport(num_bytes=0, num_engines=1, seconds=0.0, seconds_engines_paused=0.0)
        return Publication(report, buckets=())


class Roles:
    """One engine of each role, one rank, both policies."""

    def __init__(self, config: Config, turns: Turns | None = None) -> None:
        roles: tuple[Role, Role] = ("challenger", "solver")
        self.engines = {
            role: PooledSampler(Member(role, FakeActor()), home=role, role=role, model=BASE)  # type: ignore[arg-type]
            for role in roles
        }
        self.learner = FakeLearner()
        self.syncs: list[SyncReport] = []
        pool = SamplerPool(list(self.engines.values()), deadline_s=10.0)
        options = PhaseOptions(
            optimizer=config.solver.optimizer,
            loss=config.solver.loss,
            prompts_per_update=1,
            temperature=1.0,
            max_tokens=8,
        )
        probe = Probe([np.zeros(3, np.int32)], config.model.dtype, bound=1e-3)
        self.challenger, self.solver = (
            ClusterPolicy(
                role,
                config,
                options,
                pool,
                LearnerGroup([Member("learner", self.learner)], config.deadline),  # type: ignore[arg-type]
                turns or NoTurns(),
                probe,
                StageClock(),
                self.syncs.append,
            )
            for role in roles
        )

    def actor(self, role: Role) -> Any:
        return self.engines[role].actor

    def solver_phase(self) -> Phase:
        return Phase(
            iteration=1,
            role="solver",
            initial_model=BASE,
            checkpoint=None,
            num_finished_steps=0,
            final_model=TRAINED,
        )

    async def train_solver(self) -> None:
        phase = self.solver_phase()
        await self.solver.start_phase(phase)
        await self.solver.finish_phase(phase)


@pytest.fixture(autouse=True)
def nothing_on_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(group, "keep_folder", lambda written, path, files: None)


@pytest.fixture
def roles() -> Roles:
    return Roles(load_config(["conf=tiny"]))


def test_engines_that_hold_the_model_are_left_alone(roles: Roles):
    async def go() -> None:
        await roles.challenger.hold(BASE)
        await roles.train_solver()
        await roles.solver.hold(TRAINED)

    asyncio.run(go())
    both = [roles.actor("challenger"), roles.actor("solver")]
    assert roles.learner.published == [("solver-01-000", both)]  # of the phase itself
    assert [sync.version.name for sync in roles.syncs] == ["solver-01-000"]


def test_engines_that_hold_a_phases_first_weights_calibrate_the_probe(
    roles: Roles, monkeypatch: pytest.MonkeyPatch
):
    seen: list[tuple[str, set[str]]] = []
    compare = Probe.compare

    def noted(self: Probe, learner: Any, engines: Any, version: Weights, equal: Any) -> Any:
        seen.append((version.name, set(equal)))
        return compare(self, learner, engines, version, equal)

    monkeypatch.setattr(Probe, "compare", noted)
    phase = roles.solver_phase()
    later = replace(phase, initial_model=TRAINED)
    resumed = replace(phase, checkpoint=Path("/checkpoints/step-001"), num_finished_steps=1)

    async def go() -> None:
        await roles.train_solver()
        await roles.challenger.hold(BASE)
        await roles.solver.start_phase(later)  # the Challenger's engine, lent, holds the base model
        await roles.solver.hold(BASE)
        await roles.solver.start_phase(resumed)

    asyncio.run(go())
    assert seen == [
        ("solver-01-000", {"challenger", "solver"}),
        ("base", set()),
        ("solver-01-000", {"solver"}),
        ("base", set()),
        ("solver-01-001", set()),
    ]


def test_lent_engines_come_home_and_get_their_roles_model_back(roles: Roles):
    async def go() -> None:
        await roles.train_solver()
        assert {e.model for e in roles.engines.values()} == {TRAINED}
        assert {e.role for e in roles.engines.values()} == {"solver"}
        await roles.challenger.hold(BASE)

    asyncio.run(go())
    assert roles.learner.loads[1:] == [BASE]
    assert roles.learner.published[1:] == [("base", [roles.actor("challenger")])]
    assert {role: (e.role, e.model) for role, e in roles.engines.items()} == {
        "challenger": ("challenger", BASE),
        "solver": ("solver", TRAINED),
    }


def test_with_a_shared_model_lent_engines_need_nothing(roles: Roles):
    async def go() -> None:
        await roles.train_solver()
        await roles.challenger.hold(TRAINED)

    asyncio.run(go())
    assert len(roles.learner.loads) == 1
    assert roles.engines["challenger"].role == "challenger"


def test_weights_in_training_are_no_finished_model(roles: Roles):
    async def go() -> None:
        phase = phase_of(BASE, role="challenger", final_model=TRAINED)
        await roles.challenger.start_phase(phase)

    asyncio.run(go())
    assert roles.engines["challenger"].model is None
    assert roles.engines["solver"].model == BASE


class _Asked(NoTurns):
    """Writes down who was asked for, among the calls of the fake actors."""

    def __init__(self, log: list[str]) -> None:
        self._log = log

    def tell(self, clock: Clock, on_turn: Callable[[Holder], None]) -> None:
        self._log.append("told")

    async def learner(self) -> None:
        self._log.append("learner:")

    async def handover(self, engines: Sequence[PooledSampler]) -> None:
        self._log.append(f"handover to {' and '.join(engine.name for engine in engines)}:")

    async def samplers(self) -> None:
        self._log.append("samplers:")


def test_policies_ask_for_the_devices_before_anyone_works():
    log: list[str] = []
    roles = Roles(load_config(["conf=tiny"]), _Asked(log))

    def noted(actor: Any, name: str, *methods: str) -> None:
        for method in methods:
            before = getattr(actor, method)._function

            def call(*arguments: Any, what: str = f"{name} {method}", before: Any = before) -> Any:
                log.append(what)
                return before(*arguments)

            setattr(actor, method, Remote(call))

    learns = ("start_phase", "load_model", "publish", "save_model", "prompt_logprobs")
    noted(roles.learner, "learner", *learns)
    for engine in roles.engines.values():
        noted(engine.actor, engine.name, "prompt_logprobs")

    async def go() -> None:
        await roles.train_solver()
        await roles.challenger.hold(BASE)

    asyncio.run(go())
    assert log == [
        "learner:",
        "learner start_phase",
        "handover to challenger and solver:",  # the Challenger's engine is lent
        "learner publish",
        "learner prompt_logprobs",
        "samplers:",
        "challenger prompt_logprobs",
        "solver prompt_logprobs",
        "learner:",
        "learner save_model",
        "learner:",
        "learner load_model",
        "handover to challenger:",
        "learner publish",
        "learner prompt_logprobs",
        "samplers:",
        "challenger prompt_logprobs",
    ]


def test_a_role_samples_with_the_engines_of_all_that_lend_to_it(monkeypatch: pytest.MonkeyPatch):
    lends_to = {"challenger": ("solver",), "solver": (), "judge": ("challenger", "solver")}
    monkeypatch.setattr("actors.sampling.pool._LENDS_TO", lends_to)
    homes: list[Any] = list(lends_to)
    actor: Any = FakeActor()
    pool = SamplerPool(
        [PooledSampler(Member(h, actor), home=h, role=h, model=BASE) for h in homes], 10.0
    )

    def names(samplers: Sequence[PooledSampler]) -> list[str]:
        return [sampler.name for sampler in samplers]

    assert names(pool.assign("solver")) == ["challenger", "solver", "judge"]
    assert names(pool.assign("challenger")) == ["challenger", "judge"]
    assert names(pool.samplers_of("solver")) == ["solver"]
    pool.send_home()
    assert [sampler.role for sampler in pool.samplers] == homes


def test_a_step_that_is_not_finite_is_neither_saved_nor_published(
    roles: Roles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """DeepSpeed leaves out such a step without a word; the run ends with a line that names it."""
    report = replace(fake_report(VERSION, 1).learning, grad_norm=math.inf)
    saved: list[Path] = []
    monkeypatch.setattr("actors.learning.group.ray.put", lambda packed: packed)  # no Ray
    roles.learner.update = Remote(lambda rollouts, allowed: report)  # type: ignore[attr-defined]
    roles.learner.save_checkpoint = Remote(lambda path: saved.append(path) or {})  # type: ignore[attr-defined]
    step = Step(iteration=1, phase="solver", index=7, checkpoint=tmp_path / "step-007")

    async def go() -> None:
        await roles.train_solver()
        await roles.solver.update([rollout([1], [2])], step)

    with pytest.raises(RunError, match="iteration 1, solver step 7: grad_norm=inf"):
        asyncio.run(go())
    assert not saved
    assert [version for version, _ in roles.learner.published] == ["solver-01-000"]


def test_an_engine_that_is_away_is_later_held_to_the_weights_that_it_missed(roles: Roles):
    """It starts from the finished model, and the probe must not expect what was before."""
    solver, lent = roles.engines["solver"], roles.engines["challenger"]
    before = [np.full(2, -9.0, np.float32)]
    lent.expected = before

    async def go() -> None:
        lent.member.state = State.RESTARTING
        await roles.train_solver()

    asyncio.run(go())
    assert lent.model == solver.model == TRAINED
    assert lent.expected is solver.expected and lent.expected is not before
